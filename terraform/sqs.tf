# The queues of tasks/engine/queues.json, and nothing else: a new queue is an entry there.

module "messaging" {
  source = "./modules/messaging"

  prefix           = "${local.name}-"
  queues           = local.queues
  kms_key_arn      = one(aws_kms_key.queues[*].arn)
  alarm_topic_arns = local.alarm_topics
  # Without `if`, a group that is forgotten would be an invalid index here, before ecs.tf can say what is missing.
  oldest_seconds = { for queue, entry in local.queues : queue => local.plan[entry.group].alarm if can(local.plan[entry.group]) }
}

# In production a key of our own: who may read messages is then said twice, by queue and by key, and every use is in
# CloudTrail. In dev SQS's own encryption does, which costs nothing.
resource "aws_kms_key" "queues" {
  count = local.production ? 1 : 0

  description             = "Messages of ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30

  # The roles of this account, as their own policies say. No principal of another account, no service.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "PoliciesOfThisAccount"
      Effect    = "Allow"
      Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
      Action    = "kms:*"
      Resource  = "*" # of a key's own policy: this key
    }]
  })
}

resource "aws_kms_alias" "queues" {
  for_each = { for key in aws_kms_key.queues : "alias/${local.name}-queues" => key.key_id }

  name          = each.key
  target_key_id = each.value
}
