# What runs in the task.

locals {
  environment = merge(var.environment, var.datadog == null ? {} : {
    DD_TRACE_ENABLED = "true"
    DD_AGENT_HOST    = "127.0.0.1" # containers of a task share its network
    DD_SERVICE       = "okuru-${var.name}"
    DD_ENV           = var.datadog.environment
    DD_VERSION       = var.datadog.version
  })

  process = {
    name      = var.name
    image     = var.image.reference
    command   = ["sh", "-c", "exec ${var.command}"]
    essential = true

    environment = [for name, value in local.environment : { name = name, value = value }]
    secrets     = [for name, arn in var.secrets : { name = name, valueFrom = arn }]

    user                   = "10001"
    readonlyRootFilesystem = !var.interactive # the agent of SSM writes to it
    mountPoints            = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]
    linuxParameters = {
      initProcessEnabled = true # reaps what a killed pool process leaves
      capabilities       = { add = [], drop = var.interactive ? [] : ["ALL"] }
    }

    portMappings = [for group in var.target_group[*] : { containerPort = group.port, hostPort = group.port, protocol = "tcp" }]
    stopTimeout  = var.stop_timeout
    healthCheck = var.health == null ? null : {
      command     = ["CMD", "okuru", "health", var.health]
      interval    = 30
      timeout     = 10
      retries     = 3
      startPeriod = 60
    }

    logConfiguration = [local.cloudwatch[var.name], local.firelens][length(var.datadog[*])]
    dependsOn        = [for _ in var.datadog[*] : { containerName = "log-router", condition = "START" }]
    dockerLabels = var.datadog == null ? {} : {
      "com.datadoghq.ad.checks" = jsonencode({
        openmetrics = { init_config = {}, instances = [var.datadog.openmetrics] }
      })
      # The same three for metrics as for traces and logs.
      "com.datadoghq.tags.env"     = var.datadog.environment
      "com.datadoghq.tags.service" = "okuru-${var.name}"
      "com.datadoghq.tags.version" = var.datadog.version
    }
  }

  containers = concat([local.process], local.sidecars)

  # --- logs ---

  # {container: where its lines go in CloudWatch}
  cloudwatch = {
    for container in [var.name, "log-router", "agent-files", "datadog-agent"] : container => {
      logDriver = "awslogs"
      options = {
        awslogs-group         = var.log_group.name
        awslogs-region        = data.aws_region.current.name
        awslogs-stream-prefix = container == var.name ? "process" : "sidecar"
        mode                  = "non-blocking" # a full pipe must not stop a worker
        max-buffer-size       = "4m"
      }
    }
  }

  firelens = var.datadog == null ? null : {
    logDriver = "awsfirelens"
    options = {
      Name           = "datadog"
      Host           = "http-intake.logs.${var.datadog.site}"
      TLS            = "on"
      compress       = "gzip"
      provider       = "ecs"
      dd_service     = "okuru-${var.name}"
      dd_source      = "python"
      dd_tags        = "env:${var.datadog.environment}" # a deploy knows the version, and changes only the image
      dd_message_key = "log"                            # the line itself, whose JSON Datadog reads
    }
    secretOptions = [{ name = "apikey", valueFrom = var.datadog.api_key_arn }]
  }

  # --- beside the process, with Datadog: images of others ---

  # They are root: FireLens makes its socket as root, and a volume of a task is root's. But root without capabilities, which no
  # program with a set-uid bit gets back: Fargate takes no `no-new-privileges` (dockerSecurityOptions).
  confined = {
    user                   = "0"
    readonlyRootFilesystem = true
    linuxParameters        = { capabilities = { add = [], drop = ["ALL"] } } # and no init: the agent's own wants to be the first
  }

  # {volume: where the agent writes}. So says Datadog's guide ("Running the Datadog Agent with a Read-Only Root Filesystem"); what
  # else it writes to is a volume of its image.
  agent_folders = var.datadog == null ? {} : {
    agent-configuration = "/etc/datadog-agent"
    agent-run           = "/opt/datadog-agent/run"
    agent-sockets       = "/var/run/datadog"
    agent-tmp           = "/tmp"
  }

  sidecars = flatten([for datadog in var.datadog[*] : [
    merge(local.confined, {
      name                  = "log-router"
      image                 = datadog.logrouter_image
      essential             = true # without it the process would write into nothing
      memoryReservation     = 64
      stopTimeout           = var.stop_timeout # the last lines are those of the stop
      firelensConfiguration = { type = "fluentbit", options = { enable-ecs-log-metadata = "true" } }
      logConfiguration      = local.cloudwatch["log-router"]
    }),
    # The agent writes beside the files that its image has there, and a volume is empty at first.
    merge(local.confined, {
      name              = "agent-files"
      image             = datadog.agent_image
      essential         = false
      memoryReservation = 16
      command           = ["sh", "-c", "cp -R /etc/datadog-agent/. /volume/"]
      mountPoints       = [{ sourceVolume = "agent-configuration", containerPath = "/volume", readOnly = false }]
      logConfiguration  = local.cloudwatch["agent-files"]
    }),
    merge(local.confined, {
      name              = "datadog-agent"
      image             = datadog.agent_image
      essential         = false # a process that cannot be watched sends gifts all the same
      memoryReservation = 256
      dependsOn         = [{ containerName = "agent-files", condition = "SUCCESS" }]
      mountPoints       = [for volume, path in local.agent_folders : { sourceVolume = volume, containerPath = path, readOnly = false }]
      environment = [for name, value in {
        ECS_FARGATE              = "true"
        DD_SITE                  = datadog.site
        DD_ENV                   = datadog.environment
        DD_TAGS                  = "project:okuru process:${var.name}"
        DD_APM_ENABLED           = "true"
        DD_LOGS_ENABLED          = "false" # the log router's
        DD_APM_NON_LOCAL_TRAFFIC = "false"
        # With the task's ARN: the counters of two tasks of a service must not overwrite each other.
        DD_CHECKS_TAG_CARDINALITY = "orchestrator"
      } : { name = name, value = value }]
      secrets = [{ name = "DD_API_KEY", valueFrom = datadog.api_key_arn }]
      healthCheck = {
        command     = ["CMD-SHELL", "agent health"]
        interval    = 30
        timeout     = 5
        retries     = 3
        startPeriod = 60
      }
      logConfiguration = local.cloudwatch["datadog-agent"]
    }),
  ]])
}
