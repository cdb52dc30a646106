# The module by itself, with each of its switches.

mock_provider "aws" {
  source = "./tests/mocks"
}

# Mocked ARNs are all alike. These are told apart: which queue buries where.
override_resource {
  target = aws_sqs_queue.queue["letters"]
  values = { arn = "arn:aws:sqs:ap-northeast-1:111111111111:letters" }
}

override_resource {
  target = aws_sqs_queue.queue["parcels"]
  values = { arn = "arn:aws:sqs:ap-northeast-1:111111111111:parcels" }
}

override_resource {
  target = aws_sqs_queue.dead_letters["letters-dlq"]
  values = { arn = "arn:aws:sqs:ap-northeast-1:111111111111:letters-dlq" }
}

override_resource {
  target = aws_sqs_queue.dead_letters["parcels-dlq"]
  values = { arn = "arn:aws:sqs:ap-northeast-1:111111111111:parcels-dlq" }
}

variables {
  prefix = "okuru-test-"
  queues = {
    letters = { visibility_timeout = 30, max_receive_count = 5, retention_days = 14 }
    parcels = { visibility_timeout = 60, max_receive_count = 3, retention_days = 1 }
  }
}

run "as_it_is" {
  command = apply

  module {
    source = "./modules/messaging"
  }

  assert {
    condition     = toset([for queue in aws_sqs_queue.queue : queue.name]) == toset(["okuru-test-letters", "okuru-test-parcels"])
    error_message = "a queue for each entry"
  }

  assert {
    condition     = toset(keys(aws_sqs_queue.dead_letters)) == toset(["letters-dlq", "parcels-dlq"])
    error_message = "a dead-letter queue for each queue"
  }

  assert {
    condition     = alltrue([for name, queue in aws_sqs_queue.queue : jsondecode(queue.redrive_policy).deadLetterTargetArn == aws_sqs_queue.dead_letters["${name}-dlq"].arn])
    error_message = "redrive on every queue, to its own dead letters"
  }

  assert {
    condition     = jsondecode(aws_sqs_queue.queue["parcels"].redrive_policy).maxReceiveCount == 3 && aws_sqs_queue.queue["parcels"].message_retention_seconds == 86400 && aws_sqs_queue.queue["parcels"].visibility_timeout_seconds == 60
    error_message = "as the catalogue says"
  }

  assert {
    condition = { for name, policy in aws_sqs_queue_redrive_allow_policy.dead_letters : name => [policy.queue_url, jsondecode(policy.redrive_allow_policy)] } == {
      for name, queue in aws_sqs_queue.queue : name => [
        aws_sqs_queue.dead_letters["${name}-dlq"].id,
        { redrivePermission = "byQueue", sourceQueueArns = [queue.arn] },
      ]
    }
    error_message = "only its own queue buries messages in a dead-letter queue"
  }

  assert {
    condition     = alltrue([for queue in merge(aws_sqs_queue.queue, aws_sqs_queue.dead_letters) : queue.sqs_managed_sse_enabled])
    error_message = "encrypted, without a key too"
  }

  assert {
    condition = length(aws_sqs_queue_policy.tls_only) == 4 && alltrue([
      for policy in aws_sqs_queue_policy.tls_only : jsondecode(policy.policy).Statement[0].Effect == "Deny" && jsondecode(policy.policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"
    ])
    error_message = "every queue refuses callers without TLS, and allows nobody anything"
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.dead_letters) == 2 && length(aws_cloudwatch_metric_alarm.oldest) == 2
    error_message = "an alarm for what is dead, and one for what waits"
  }

  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.dead_letters : alarm.threshold == 0 && alarm.comparison_operator == "GreaterThanThreshold"])
    error_message = "one dead letter is one too many"
  }

  # Three of the last five minutes for what waits; what is dead says so at once. An idle queue has no numbers, and no trouble.
  assert {
    condition = alltrue([
      for kind, alarms in {
        ApproximateNumberOfMessagesVisible = { of = aws_cloudwatch_metric_alarm.dead_letters, periods = 1 }
        ApproximateAgeOfOldestMessage      = { of = aws_cloudwatch_metric_alarm.oldest, periods = 5 }
        } : alltrue([
          for alarm in alarms.of : alltrue([
            alarm.namespace == "AWS/SQS",
            alarm.metric_name == kind,
            alarm.statistic == "Maximum",
            alarm.period == 60,
            alarm.evaluation_periods == alarms.periods,
            alarm.treat_missing_data == "notBreaching",
          ])
      ])
    ])
    error_message = "an alarm looks at what it is named after"
  }
}

run "with_a_key" {
  command = apply

  module {
    source = "./modules/messaging"
  }

  variables {
    kms_key_arn = "arn:aws:kms:ap-northeast-1:111111111111:key/00000000-0000-0000-0000-000000000000"
  }

  assert {
    condition = alltrue([
      for queue in merge(aws_sqs_queue.queue, aws_sqs_queue.dead_letters) :
      queue.kms_master_key_id == var.kms_key_arn && queue.kms_data_key_reuse_period_seconds == 3600
    ])
    error_message = "every queue is encrypted with the key, dead letters included, and asks for it once an hour"
  }
}

run "for_an_emulator" {
  command = plan

  module {
    source = "./modules/messaging"
  }

  variables {
    alarms   = false
    tls_only = false
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.dead_letters) + length(aws_cloudwatch_metric_alarm.oldest) + length(aws_sqs_queue_policy.tls_only) == 0
    error_message = "what an emulator has not can be left out"
  }
}
