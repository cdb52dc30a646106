# What each process may do. tests/infra/test_iam.py runs every process behind a proxy that writes down its calls, and
# compares them with this table: nothing is missing, and nothing is more than the code calls.
#
# A batch is authorised by the action of a single message: there is no sqs:SendMessageBatch
# (Amazon SQS Developer Guide, "Amazon SQS batch actions", Permissions).

locals {
  # {queue: ARN}, dead-letter queues included. Built from names: a policy is then known before there is a queue.
  queue_arns = {
    for queue, name in module.messaging.names : queue => "arn:${local.partition}:sqs:${var.region}:${local.account}:${name}"
  }
  live_queues  = keys(local.queues)
  dead_letters = [for queue in local.live_queues : "${queue}-dlq"]

  # {process: queues that it consumes}
  groups = { for queue, entry in local.queues : entry.group => queue... }

  # Whoever consumes the sweeps is the reconciler: it looks into every dead-letter queue, and how deep every queue is.
  reconciler = local.queues["maintenance"].group

  # {process: {action of SQS: queues}}. Who is not named has none: the API never calls SQS.
  sqs_grants = merge(
    {
      beat = { SendMessage = ["maintenance"] }
      # Not to those on which others put plain JSON: nobody stages a task for them.
      relay = { SendMessage = [for queue, entry in local.queues : queue if !can(entry.foreign_task)] }
      # okuru dlq redrive, discard; okuru queues check, stats. A redrive is a new send, by the relay: no SendMessage.
      operator = {
        GetQueueAttributes      = concat(local.live_queues, local.dead_letters)
        ReceiveMessage          = local.dead_letters
        DeleteMessage           = local.dead_letters
        ChangeMessageVisibility = local.dead_letters
      }
    },
    {
      for process, queues in local.groups : process => {
        ReceiveMessage          = concat(queues, process == local.reconciler ? local.dead_letters : [])
        DeleteMessage           = queues # of dead letters: an operator's alone
        ChangeMessageVisibility = concat(queues, process == local.reconciler ? local.dead_letters : [])
        GetQueueAttributes      = process == local.reconciler ? concat(local.live_queues, local.dead_letters) : queues
      }
    },
  )

  # What SQS does with a queue's key in the name of its caller (Amazon SQS Developer Guide, "Key management",
  # "Configure KMS permissions for Amazon SQS"): a producer makes data keys and checks them, a consumer decrypts.
  kms_actions = {
    SendMessage    = ["kms:Decrypt", "kms:GenerateDataKey"]
    ReceiveMessage = ["kms:Decrypt"]
  }

  # {process: statements of its task role}
  statements = {
    for process in keys(local.tasks) : process => concat(
      [
        for action, queues in try(local.sqs_grants[process], {}) : {
          sid       = "Sqs${action}"
          actions   = ["sqs:${action}"]
          resources = [for queue in queues : local.queue_arns[queue]]
          condition = null
        }
      ],
      [
        for key in aws_kms_key.queues : {
          sid       = "QueueKey"
          actions   = distinct(flatten([for action in keys(try(local.sqs_grants[process], {})) : lookup(local.kms_actions, action, [])]))
          resources = [key.arn]
          condition = { StringEquals = { "kms:ViaService" = "sqs.${var.region}.amazonaws.com" } }
        } if length(setintersection(keys(try(local.sqs_grants[process], {})), keys(local.kms_actions))) > 0
      ],
      # What takes longer than a stop: while it runs, the worker asks ECS not to choose its task (docs/adr/0021).
      !contains(local.protected, process) ? [] : [{
        sid       = "ProtectItself"
        actions   = ["ecs:GetTaskProtection", "ecs:UpdateTaskProtection"]
        resources = ["arn:${local.partition}:ecs:${var.region}:${local.account}:task/${local.name}/*"] # no task's id is known before
        condition = { StringEquals = { "aws:ResourceTag/Service" = process } }
      }],
      # The agent of SSM, which lets operators in and writes down what they type, speaks with the rights of the task.
      process != "operator" ? [] : [
        {
          sid = "Enter"
          actions = [
            "logs:DescribeLogGroups",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
          ]
          resources = ["*"] # AWS knows no resource for them
          condition = null
        },
        {
          sid       = "Record"
          actions   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
          resources = ["${aws_cloudwatch_log_group.operator_sessions.arn}:*"] # its streams
          condition = null
        },
      ],
    )
  }

  # By the rule of tasks/engine/engine.py: processes that may hold a message for longer than the grace.
  protected = [
    for process, queues in local.groups : process
    if max([for queue in queues : local.queues[queue].max_hold]...) > local.worker_grace
  ]
}

# --- roles of AWS's own services ----------------------------------------------------------------

resource "aws_iam_role" "database_monitoring" {
  count = local.production ? 1 : 0

  name = "${local.name}-database-monitoring"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "monitoring.rds.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "database_monitoring" {
  count = local.production ? 1 : 0

  role       = aws_iam_role.database_monitoring[0].name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_iam_role" "flow_log" {
  name = "${local.name}-flow-log"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
    }]
  })
}

resource "aws_iam_role_policy" "flow_log" {
  name = "write"
  role = aws_iam_role.flow_log.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      Resource = ["${aws_cloudwatch_log_group.flow.arn}:*"] # its streams
    }]
  })
}
