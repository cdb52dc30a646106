# The alarms of AWS itself, which ring also where there is no Datadog.

# A dead letter is a send that nobody will try again unless someone asks for it.
resource "aws_cloudwatch_metric_alarm" "dead_letters" {
  for_each = var.alarms ? local.dead_letters : {}

  alarm_name          = "${var.prefix}${each.key}"
  alarm_description   = "Messages of ${var.prefix}${trimsuffix(each.key, "-dlq")} are dead. okuru dlq show ${trimsuffix(each.key, "-dlq")} says why."
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateNumberOfMessagesVisible"
  dimensions          = { QueueName = aws_sqs_queue.dead_letters[each.key].name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching" # SQS stops reporting queues that are idle for six hours
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
}

# Whatever the depth: a message that has waited for long means that a promise breaks.
resource "aws_cloudwatch_metric_alarm" "oldest" {
  for_each = var.alarms ? var.queues : {}

  alarm_name          = "${var.prefix}${each.key}-oldest"
  alarm_description   = "The oldest message of ${var.prefix}${each.key} has waited for too long: are its workers running, and enough of them?"
  namespace           = "AWS/SQS"
  metric_name         = "ApproximateAgeOfOldestMessage"
  dimensions          = { QueueName = aws_sqs_queue.queue[each.key].name }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = lookup(var.oldest_seconds, each.key, 300)
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arns
  ok_actions          = var.alarm_topic_arns
}
