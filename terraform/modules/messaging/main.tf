# Every queue of a catalogue, each with a dead-letter queue of its own. Stands by itself: it needs no
# VPC, no cluster, and works against any SQS that the provider is pointed at.

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

locals {
  dead_letters = { for name, queue in var.queues : "${name}-dlq" => queue }
}

resource "aws_sqs_queue" "dead_letters" {
  for_each = local.dead_letters

  name                       = "${var.prefix}${each.key}"
  message_retention_seconds  = each.value.retention_days * 86400
  visibility_timeout_seconds = each.value.visibility_timeout

  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = local.data_key_reuse
  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
}

resource "aws_sqs_queue" "queue" {
  for_each = var.queues

  name                       = "${var.prefix}${each.key}"
  message_retention_seconds  = each.value.retention_days * 86400
  visibility_timeout_seconds = each.value.visibility_timeout

  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = local.data_key_reuse
  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null

  # Without it a message that always fails comes back for ever: no queue is without one.
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters["${each.key}-dlq"].arn
    maxReceiveCount     = each.value.max_receive_count
  })
}

locals {
  all = merge(aws_sqs_queue.queue, aws_sqs_queue.dead_letters)

  # An hour, not five minutes: at one call of KMS per key and hour, its price cannot be noticed.
  data_key_reuse = var.kms_key_arn == null ? null : 3600
}

# Only its own queue may bury messages here. A resource apart, as the two queues name each other.
resource "aws_sqs_queue_redrive_allow_policy" "dead_letters" {
  for_each = var.queues

  queue_url = aws_sqs_queue.dead_letters["${each.key}-dlq"].id
  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.queue[each.key].arn]
  })
}

# Who may do what is said by the roles. This says how: nobody without TLS, whatever their role.
resource "aws_sqs_queue_policy" "tls_only" {
  for_each = var.tls_only ? local.all : {}

  queue_url = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = each.value.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
