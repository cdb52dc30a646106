# Values come into being inside AWS or by an operator's hand: none is in this repository, in an output or in a task's
# plain environment. Write-only arguments keep those of Terraform's making out of the state, too, but for the
# cache's (redis.tf says why). A number of var.secret_versions is all that is kept, and raising it makes a new value.

locals {
  # {secret: what it is}. Terraform makes the container; `database-password`, `cache-token` and `cache-url` get their
  # value here, the others by `aws secretsmanager put-secret-value` (docs/IMPORT_NOTES.md).
  secrets = merge(
    {
      database-password = "PGPASSWORD"
      cache-token       = "What Valkey asks of its clients"
      cache-url         = "REDIS_URL, with the token in it"
    },
    var.sender_url == null ? {} : { sender-secret = "SENDER_SECRET: signs the calls of the provider" },
    var.datadog_enabled ? { datadog-api-key = "DD_API_KEY of agents and log routers" } : {},
  )

  # {what: the secret that keeps its password}, of those that Terraform asks for.
  passwords = { database = "database-password", cache = "cache-token" }

  cache_url = "rediss://:${data.aws_secretsmanager_secret_version.cache_token.secret_string}@${aws_elasticache_replication_group.valkey.primary_endpoint_address}:6379/0"

  # {process: {environment variable: its secret}}: what its container gets, and all that its execution role may read.
  secret_grants = {
    for process in keys(local.tasks) : process => merge(
      # Also beat's, which has no way to the database: app/config.py wants a password of every process in production.
      { PGPASSWORD = "database-password" },
      contains(local.clients.cache, process) ? { REDIS_URL = "cache-url" } : {},
      contains(local.clients.provider, process) ? { SENDER_SECRET = "sender-secret" } : {},
    )
  }
}

resource "aws_secretsmanager_secret" "secret" {
  for_each = local.secrets

  name        = "${local.secret_path}/${each.key}"
  description = each.value

  # In dev at once: `make tf-destroy` and `make tf-apply` again need the names.
  recovery_window_in_days = local.production ? 30 : 0
}

module "password" {
  source    = "./modules/password"
  for_each  = local.passwords
  providers = { aws = aws.passwords }

  secret_id  = aws_secretsmanager_secret.secret[each.value].id
  generation = var.secret_versions[each.key]
}

# The one value that gets into the state: redis.tf.
data "aws_secretsmanager_secret_version" "cache_token" {
  secret_id  = aws_secretsmanager_secret.secret["cache-token"].id
  version_id = module.password["cache"].version_id
}

resource "aws_secretsmanager_secret_version" "cache_url" {
  secret_id                = aws_secretsmanager_secret.secret["cache-url"].id
  secret_string_wo         = local.cache_url
  secret_string_wo_version = var.secret_versions.cache
}
