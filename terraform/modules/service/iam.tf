# Two roles. The execution role is ECS's, while it starts the task: pull, log, read this process's secrets. The task role is
# the process's own, and has what its code calls and nothing else.

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  # Only tasks of this account: else another account's ECS could be talked into using the role.
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = {
        StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.current.account_id }
        ArnLike = {
          "aws:SourceArn" = "arn:${data.aws_partition.current.partition}:ecs:${data.aws_region.current.name}:${data.aws_caller_identity.current.account_id}:*"
        }
      }
    }]
  })

  secret_arns = distinct(concat(values(var.secrets), var.datadog[*].api_key_arn))

  execution = concat(
    [
      {
        sid       = "EcrLogin"
        actions   = ["ecr:GetAuthorizationToken"]
        resources = ["*"] # AWS knows no resource for it
      },
      {
        sid       = "Pull"
        actions   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
        resources = [var.image.repository_arn]
      },
      {
        sid       = "Log"
        actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        resources = ["${var.log_group.arn}:*"] # its streams
      },
    ],
    length(local.secret_arns) == 0 ? [] : [{
      sid       = "Secrets"
      actions   = ["secretsmanager:GetSecretValue"]
      resources = local.secret_arns
    }],
  )
}

resource "aws_iam_role" "execution" {
  name               = "${local.full_name}-execution"
  description        = "ECS, while it starts a task of ${var.name}"
  assume_role_policy = local.trust

  tags = { Service = var.name }
}

resource "aws_iam_role_policy" "execution" {
  name = "execution"
  role = aws_iam_role.execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for each in local.execution : {
      Sid = each.sid, Effect = "Allow", Action = each.actions, Resource = each.resources
    }]
  })
}

resource "aws_iam_role" "task" {
  name               = "${local.full_name}-task"
  description        = "The code of ${var.name}"
  assume_role_policy = local.trust

  tags = { Service = var.name }
}

# A process that calls nothing has no policy at all.
resource "aws_iam_role_policy" "task" {
  count = length(var.statements) == 0 ? 0 : 1

  name = "task"
  role = aws_iam_role.task.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for each in var.statements : merge(
      { Sid = each.sid, Effect = "Allow", Action = each.actions, Resource = each.resources },
      each.condition == null ? {} : { Condition = each.condition },
    )]
  })
}
