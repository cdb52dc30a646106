# A service for each process of the Procfile, and one task that operators start when they need it.

resource "aws_ecs_cluster" "main" {
  name = local.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }

  # What operators type, and what is answered. By default it would follow the container's own log driver, and with FireLens
  # be nowhere. Needs `script` and `cat` in the image, which every Debian has.
  configuration {
    execute_command_configuration {
      logging = "OVERRIDE"

      log_configuration {
        cloud_watch_log_group_name = aws_cloudwatch_log_group.operator_sessions.name
      }
    }
  }

  lifecycle {
    precondition {
      condition     = toset(keys(local.processes)) == toset(keys(local.procfile))
      error_message = "The Procfile has ${join(", ", keys(local.procfile))}: each needs its size in `processes` (ecs.tf), and nothing else has one."
    }
    precondition {
      condition     = length(setsubtract(keys(local.groups), keys(local.processes))) == 0 && toset(keys(local.groups)) == toset(keys(local.plan))
      error_message = "Every queue's group (tasks/engine/queues.json) is a process of the Procfile, which consumes it, with a `plan` (autoscaling.tf)."
    }
    precondition {
      condition     = length(setsubtract(keys(local.listening), keys(local.processes))) == 0
      error_message = "What the load balancer calls (`listening`, alb.tf) is a process of the Procfile."
    }
    precondition {
      condition     = toset(keys(local.scaled)) == toset(concat(keys(local.groups), keys(local.tracked)))
      error_message = "Who has another `max` than `min` (ecs.tf) needs something to be scaled by, and nobody else does: a plan, as a queue's group, or a target in `tracked` (autoscaling.tf)."
    }
  }
}

locals {
  # What the Procfile does not say. In production at least two of what the promise depends on, in two zones.
  # `min` and `max` differ where there is something to scale by (autoscaling.tf).
  processes = {
    web    = { cpu = 512, memory = 1024, min = 2, max = 10 }
    worker = { cpu = 1024, memory = 2048, min = 2, max = 10 }
    jobs   = { cpu = 1024, memory = 2048, min = 2, max = 10 }
    # Any number may run; the second is a spare.
    relay = { cpu = 256, memory = 512, min = 2, max = 2 }
    # One asks for the sweeps. Two, during a deploy, ask twice, which is harmless (tasks/schedule.py).
    beat = { cpu = 256, memory = 512, min = 1, max = 1 }
  }

  # Started by hand (outputs.tf prints how), entered through SSM, gone after an hour. It is how people reach database and
  # cache, by port forwarding, and where `okuru dlq` runs. No bastion: no key, no open port, nothing that runs at night.
  operator = { cpu = 256, memory = 512, min = 0, max = 0 }

  tasks = merge(local.processes, { operator = local.operator })

  # Seconds that a worker told to stop gives what runs: below the 120 s between TERM and KILL (modules/service).
  worker_grace = 100

  image = {
    repository_arn = aws_ecr_repository.okuru.arn
    reference      = "${aws_ecr_repository.okuru.repository_url}${startswith(var.image_tag, "sha256:") ? "@" : ":"}${var.image_tag}"
  }

  # docs/configuration.md. What is not here has its default.
  environment = {
    ENVIRONMENT      = "production" # also of dev: what needs no credentials is for one's own machine only
    LOG_FORMAT       = "json"
    METRICS_PORT     = "9090"
    AWS_REGION       = var.region
    QUEUE_URL_PREFIX = "https://sqs.${var.region}.amazonaws.com/${local.account}/${local.name}-"
    WORKER_GRACE     = tostring(local.worker_grace)
    WORKER_COUNT     = tostring(local.pool_processes)
    DD_TRACE_ENABLED = "false"

    # The password is PGPASSWORD. TLS without the authority's name: its certificates are not in the image.
    DATABASE_URL = "postgresql+psycopg2://${aws_db_instance.database.username}@${aws_db_instance.database.endpoint}/${aws_db_instance.database.db_name}?sslmode=require"
    # Two processes of ten tasks of the API may hold ten each: 200 of the 450 that 4 GiB of memory allow.
    DB_MAX_OPEN_CONNS = "10"
  }

  # Who speaks with what, beside SQS (iam.tf). Secrets (secrets.tf) and rules of security groups (rds.tf, redis.tf) follow
  # from it: who is not named has neither.
  consumers = keys(local.groups)
  clients = {
    database = concat(local.consumers, ["web", "relay", "operator"]) # beat asks for sweeps, and looks at nothing
    cache    = concat(local.consumers, ["operator"])                 # `celery control`: who is asked, and who asks
    provider = var.sender_url == null ? [] : [local.sender]
  }
  sender = local.queues["gifts"].group

  # {process: what it has beside `environment`}
  own_environment = {
    # It refuses what only a simulation can do, so it has to know of a real provider; where that is, is not its business.
    web            = var.sender_url == null ? {} : { SENDER = "webhook" }
    (local.sender) = var.sender_url == null ? {} : { SENDER = "webhook", SENDER_URL = var.sender_url }
  }
}

module "service" {
  source   = "./modules/service"
  for_each = local.tasks

  name        = each.key
  prefix      = local.name
  cluster_arn = aws_ecs_cluster.main.arn
  network     = { vpc_id = aws_vpc.main.id, subnet_ids = local.task_subnets, public = !var.private_network }

  interactive   = each.key == "operator"
  command       = lookup(local.procfile, each.key, "sleep 3600")
  image         = local.image
  health        = each.key == "operator" ? null : each.key
  cpu           = each.value.cpu
  memory        = each.value.memory * (var.datadog_enabled ? 2 : 1) # an agent and a log router want 300 MiB
  desired_count = local.capacity[each.key].min
  target_group  = try(local.targets[each.key], null)

  environment = merge(
    local.environment,
    contains(keys(local.targets), each.key) ? { HOST = "0.0.0.0", PORT = tostring(local.listening[each.key].port) } : {},
    try(local.own_environment[each.key], {}),
  )
  secrets    = { for variable, secret in local.secret_grants[each.key] : variable => aws_secretsmanager_secret.secret[secret].arn }
  statements = local.statements[each.key]
  log_group = {
    name = aws_cloudwatch_log_group.process[each.key].name
    arn  = aws_cloudwatch_log_group.process[each.key].arn
  }
  datadog = local.datadog
}
