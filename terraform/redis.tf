# Valkey: `celery inspect` and `control` go over it. It holds only what may be lost, and who can write to it can stop
# workers (docs/adr/0009): so TLS, a token, and a security group that admits the workers and operators alone (ecs.tf).
#
# The token. ElastiCache has no write-only argument for it in this provider, so one secret is in the state. Weighed: no
# token (then the security group alone stands between a worker and whoever gets into one task); IAM (a new token every
# 15 minutes and a reconnect every 12 hours, which Celery's connection does not know how to do); setting it by hand
# (a step that someone forgets). The state is encrypted, and readable by those who may apply, who may read the
# secret anyway.

resource "aws_elasticache_subnet_group" "valkey" {
  name       = local.name
  subnet_ids = [for subnet in aws_subnet.private : subnet.id]
}

resource "aws_elasticache_replication_group" "valkey" {
  replication_group_id = local.name
  description          = "Control plane and cache of ${local.name}"
  engine               = "valkey"
  engine_version       = "8.0"
  node_type            = var.cache_node_type
  port                 = 6379

  num_cache_clusters         = local.production ? 2 : 1
  automatic_failover_enabled = local.production
  multi_az_enabled           = local.production

  transit_encryption_enabled = true
  at_rest_encryption_enabled = true
  auth_token                 = data.aws_secretsmanager_secret_version.cache_token.secret_string
  auth_token_update_strategy = "ROTATE" # the old token works on until the tasks have the new one

  subnet_group_name  = aws_elasticache_subnet_group.valkey.name
  security_group_ids = [aws_security_group.cache.id]

  maintenance_window       = "sun:19:30-sun:20:30"
  snapshot_retention_limit = 0 # what may be lost needs no backup
}

resource "aws_security_group" "cache" {
  name        = "${local.name}-cache"
  description = "Valkey: the tasks of Okuru"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${local.name}-cache" }
}

resource "aws_vpc_security_group_ingress_rule" "cache" {
  for_each = { for process in local.clients.cache : process => module.service[process].security_group_id }

  security_group_id            = aws_security_group.cache.id
  referenced_security_group_id = each.value
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

resource "aws_vpc_security_group_egress_rule" "cache" {
  for_each = { for process in local.clients.cache : process => module.service[process].security_group_id }

  security_group_id            = each.value
  referenced_security_group_id = aws_security_group.cache.id
  description                  = "Cache"
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}
