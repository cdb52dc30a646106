# dev: cheap, closed all the same, and gone by one command.

mock_provider "aws" {
  source = "./tests/mocks"
}

# For modules/password; never called.
provider "aws" {
  alias                       = "passwords"
  region                      = "ap-northeast-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  environment             = "dev"
  private_network         = false
  database_instance_class = "db.t4g.micro"
  cache_node_type         = "cache.t4g.micro"
  certificate_arn         = "arn:aws:acm:ap-northeast-1:111111111111:certificate/00000000-0000-0000-0000-000000000000"
  image_tag               = "bootstrap"
  github_repository       = "example/okuru"
  secret_versions         = { database = 0, cache = 0 } # draws nothing: Terraform cannot mock what is ephemeral
}

run "dev" {
  command = apply

  # --- the network ---

  assert {
    condition     = length(aws_nat_gateway.nat) + length(aws_vpc_endpoint.interface) + length(aws_vpc_endpoint.s3) == 0
    error_message = "dev pays for no NAT gateway and no endpoint"
  }

  assert {
    condition     = length(aws_subnet.public) == 2 && length(distinct([for subnet in aws_subnet.public : subnet.availability_zone])) == 2
    error_message = "the load balancer needs two zones"
  }

  assert {
    condition     = toset(local.task_subnets) == toset([for subnet in aws_subnet.public : subnet.id])
    error_message = "dev's tasks are in public subnets"
  }

  assert {
    condition     = toset(aws_db_subnet_group.database.subnet_ids) == toset([for subnet in aws_subnet.private : subnet.id]) && toset(aws_elasticache_subnet_group.valkey.subnet_ids) == toset([for subnet in aws_subnet.private : subnet.id])
    error_message = "database and cache are private in every environment"
  }

  assert {
    condition     = length(aws_route.nat) == 0 && aws_route.internet.route_table_id == aws_route_table.public.id
    error_message = "private subnets of dev have no way out"
  }

  # --- gone by one command ---

  assert {
    condition = alltrue([
      !aws_db_instance.database.deletion_protection,
      aws_db_instance.database.skip_final_snapshot,
      !aws_lb.api.enable_deletion_protection,
      aws_ecr_repository.okuru.force_delete,
      alltrue([for secret in aws_secretsmanager_secret.secret : secret.recovery_window_in_days == 0]),
    ])
    error_message = "dev can be destroyed by one command, and made again"
  }

  # --- one of everything ---

  assert {
    condition     = !aws_db_instance.database.multi_az && aws_elasticache_replication_group.valkey.num_cache_clusters == 1
    error_message = "dev has one of everything"
  }

  assert {
    condition     = alltrue([for capacity in values(local.capacity) : capacity.min <= 1 && capacity.max <= 2])
    error_message = "dev runs one task of each, two at most"
  }

  # --- closed and encrypted all the same ---

  assert {
    condition     = !aws_db_instance.database.publicly_accessible && aws_db_instance.database.storage_encrypted
    error_message = "the database is closed and encrypted"
  }

  assert {
    condition     = aws_elasticache_replication_group.valkey.transit_encryption_enabled && aws_elasticache_replication_group.valkey.at_rest_encryption_enabled
    error_message = "the cache speaks TLS only, and is encrypted"
  }

  assert {
    condition     = length(aws_kms_key.queues) == 0 && output.operator.start != ""
    error_message = "dev's queues have SQS's own encryption (tests/messaging.tftest.hcl)"
  }

  assert {
    condition     = strcontains(output.operator.start, "assignPublicIp=ENABLED")
    error_message = "an operator's task in a public subnet needs an address"
  }

  # --- what is off ---

  assert {
    condition     = length(aws_iam_role.datadog) == 0 && !contains(keys(local.secrets), "datadog-api-key")
    error_message = "nothing is made for Datadog where it is off"
  }

  assert {
    condition     = length(local.clients.provider) == 0 && !contains(keys(local.secrets), "sender-secret")
    error_message = "the simulated provider has no secret"
  }
}

run "no_other_environment" {
  command = plan

  variables {
    environment = "staging"
  }

  expect_failures = [var.environment]
}

run "no_role_without_an_external_id" {
  command = plan

  variables {
    datadog_enabled = true
  }

  expect_failures = [var.datadog]
}
