# Logs, each with an end, and whom alarms reach.

locals {
  log_days = local.production ? 90 : 14

  alarm_topics = [for topic in aws_sns_topic.alarms : topic.arn]
}

# With Datadog they hold what the log router and the agent say of themselves; without it, everything.
resource "aws_cloudwatch_log_group" "process" {
  for_each = local.tasks

  name              = "/okuru/${var.environment}/${each.key}"
  retention_in_days = local.log_days

  tags = { Service = each.key }
}

resource "aws_cloudwatch_log_group" "database" {
  for_each = toset(["postgresql", "upgrade"])

  name              = "/aws/rds/instance/${local.name}/${each.key}" # RDS chooses the name
  retention_in_days = local.log_days
}

resource "aws_cloudwatch_log_group" "flow" {
  name              = "/okuru/${var.environment}/vpc-rejected"
  retention_in_days = local.log_days
}

# The record of ECS Exec (ecs.tf): not where the operator's task writes by itself, so that it can be read by fewer.
resource "aws_cloudwatch_log_group" "operator_sessions" {
  name              = "/okuru/${var.environment}/operator-sessions"
  retention_in_days = local.log_days
}

resource "aws_sns_topic" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  name              = "${local.name}-alarms"
  kms_master_key_id = aws_kms_key.alarms[0].key_id
}

# CloudWatch cannot publish to a topic that is encrypted with AWS's own key for SNS: that key's policy does not admit it.
resource "aws_kms_key" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  description             = "Alarms of ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = local.production ? 30 : 7

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "PoliciesOfThisAccount"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = "kms:*"
        Resource  = "*" # of a key's own policy: this key
      },
      {
        Sid       = "Alarms"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      },
    ]
  })
}

resource "aws_sns_topic_subscription" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = var.alarm_email
}
