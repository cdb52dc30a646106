# prod, with everything that can be switched on.

mock_provider "aws" {
  source = "./tests/mocks"
}

# Mocked ARNs are all alike. These are told apart, so that tests/infra sees which role reads or writes which. Of a module that is
# called for each process, one stands for all.
override_resource {
  target = aws_secretsmanager_secret.secret["database-password"]
  values = { arn = "arn:aws:secretsmanager:ap-northeast-1:111111111111:secret:database-password" }
}

override_resource {
  target = aws_secretsmanager_secret.secret["cache-token"]
  values = { arn = "arn:aws:secretsmanager:ap-northeast-1:111111111111:secret:cache-token" }
}

override_resource {
  target = aws_secretsmanager_secret.secret["cache-url"]
  values = { arn = "arn:aws:secretsmanager:ap-northeast-1:111111111111:secret:cache-url" }
}

override_resource {
  target = aws_secretsmanager_secret.secret["sender-secret"]
  values = { arn = "arn:aws:secretsmanager:ap-northeast-1:111111111111:secret:sender-secret" }
}

override_resource {
  target = aws_secretsmanager_secret.secret["datadog-api-key"]
  values = { arn = "arn:aws:secretsmanager:ap-northeast-1:111111111111:secret:datadog-api-key" }
}

override_resource {
  target = aws_cloudwatch_log_group.operator_sessions
  values = { arn = "arn:aws:logs:ap-northeast-1:111111111111:log-group:operator-sessions" }
}

override_resource {
  target = aws_cloudwatch_log_group.flow
  values = { arn = "arn:aws:logs:ap-northeast-1:111111111111:log-group:flow" }
}

override_resource {
  target = aws_cloudwatch_log_group.process["web"]
  values = { arn = "arn:aws:logs:ap-northeast-1:111111111111:log-group:web" }
}

override_resource {
  target = module.service["worker"].aws_iam_role.execution
  values = { arn = "arn:aws:iam::111111111111:role/execution" }
}

override_resource {
  target = module.service["worker"].aws_iam_role.task
  values = { arn = "arn:aws:iam::111111111111:role/task" }
}

override_resource {
  target = aws_iam_role.deploy
  values = { arn = "arn:aws:iam::111111111111:role/deploy" }
}

override_resource {
  target = aws_iam_role.flow_log
  values = { arn = "arn:aws:iam::111111111111:role/flow-log" }
}

override_resource {
  target = aws_iam_role.database_monitoring
  values = { arn = "arn:aws:iam::111111111111:role/database-monitoring" }
}

override_resource {
  target = module.service["web"].aws_ecs_task_definition.task
  values = { arn = "arn:aws:ecs:ap-northeast-1:111111111111:task-definition/web:1", arn_without_revision = "arn:aws:ecs:ap-northeast-1:111111111111:task-definition/web" }
}

override_resource {
  target = aws_lb_listener.http
  values = { arn = "arn:aws:elasticloadbalancing:ap-northeast-1:111111111111:listener/app/mock/0000000000000000/http" }
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
  environment             = "prod"
  private_network         = true
  database_instance_class = "db.t4g.medium"
  cache_node_type         = "cache.t4g.small"
  certificate_arn         = "arn:aws:acm:ap-northeast-1:111111111111:certificate/00000000-0000-0000-0000-000000000000"
  image_tag               = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
  github_repository       = "example/okuru"
  secret_versions         = { database = 0, cache = 0 } # draws nothing: Terraform cannot mock what is ephemeral
  sender_url              = "https://provider.example.com/gifts"
  alarm_email             = "on-call@example.com"
  datadog_enabled         = true
  datadog                 = { site = "ap1.datadoghq.com", external_id = "0123456789abcdef0123456789abcdef" }
}

run "prod" {
  command = apply

  # --- the network ---

  assert {
    condition     = toset(local.task_subnets) == toset([for subnet in aws_subnet.private : subnet.id])
    error_message = "prod's tasks are in private subnets"
  }

  assert {
    condition     = length(aws_nat_gateway.nat) == 2 && toset(keys(aws_route.nat)) == toset(keys(aws_subnet.private))
    error_message = "each zone has a way out of its own"
  }

  assert {
    condition     = toset(keys(aws_vpc_endpoint.interface)) == toset(["ecr.api", "ecr.dkr", "logs", "secretsmanager", "sqs", "ssmmessages"]) && length(aws_vpc_endpoint.s3) == 1
    error_message = "what is said to AWS stays inside"
  }

  assert {
    condition     = alltrue([for endpoint in aws_vpc_endpoint.interface : endpoint.private_dns_enabled])
    error_message = "an endpoint that nobody's resolver knows is of no use"
  }

  # --- the load balancer ---

  assert {
    condition     = aws_lb_listener.https.protocol == "HTTPS" && startswith(aws_lb_listener.https.ssl_policy, "ELBSecurityPolicy-TLS13-1-2")
    error_message = "TLS 1.2 or later"
  }

  assert {
    condition     = aws_lb_listener.http.default_action[0].type == "redirect" && aws_lb_listener.http.default_action[0].redirect[0].protocol == "HTTPS"
    error_message = "plain HTTP is only sent elsewhere"
  }

  assert {
    condition     = aws_lb_target_group.process["web"].health_check[0].path == "/healthz" && aws_lb.api.drop_invalid_header_fields
    error_message = "the health check is of the process; headers are what they should be"
  }

  assert {
    condition = alltrue([
      one(one(aws_lb_listener_rule.no_metrics.condition).path_pattern).values == toset(["/metrics", "/metrics/*"]),
      aws_lb_listener_rule.no_metrics.action[0].type == "fixed-response",
      aws_lb_listener_rule.no_metrics.action[0].fixed_response[0].status_code == "404",
    ])
    error_message = "/metrics is not for the internet"
  }

  # --- what must not be lost ---

  assert {
    condition = alltrue([
      aws_db_instance.database.multi_az,
      aws_db_instance.database.storage_encrypted,
      aws_db_instance.database.deletion_protection,
      !aws_db_instance.database.skip_final_snapshot,
      !aws_db_instance.database.publicly_accessible,
      aws_db_instance.database.backup_retention_period >= 7,
      aws_db_instance.database.allocated_storage == 20,
      aws_db_instance.database.max_allocated_storage == 100,
      aws_db_instance.database.final_snapshot_identifier == "okuru-prod-final",
      !aws_db_instance.database.delete_automated_backups,
    ])
    error_message = "the database survives a zone, a mistake and a full disk"
  }

  assert {
    condition     = contains([for parameter in aws_db_parameter_group.database.parameter : "${parameter.name}=${parameter.value}"], "rds.force_ssl=1")
    error_message = "the database speaks TLS only"
  }

  assert {
    condition = alltrue([
      aws_elasticache_replication_group.valkey.num_cache_clusters == 2,
      aws_elasticache_replication_group.valkey.automatic_failover_enabled,
      aws_elasticache_replication_group.valkey.multi_az_enabled,
      aws_elasticache_replication_group.valkey.transit_encryption_enabled,
      aws_elasticache_replication_group.valkey.at_rest_encryption_enabled,
    ])
    error_message = "the cache has a replica in another zone, and TLS"
  }

  assert {
    condition     = alltrue([for secret in aws_secretsmanager_secret.secret : secret.recovery_window_in_days >= 7]) && aws_lb.api.enable_deletion_protection
    error_message = "nothing in prod is gone at once"
  }

  assert {
    condition     = alltrue([for key in concat(aws_kms_key.queues, aws_kms_key.alarms) : key.enable_key_rotation]) && length(aws_kms_key.queues) == 1
    error_message = "prod's queues have a key of our own, which is rotated"
  }

  # --- images ---

  assert {
    condition     = aws_ecr_repository.okuru.image_tag_mutability == "IMMUTABLE" && aws_ecr_repository.okuru.image_scanning_configuration[0].scan_on_push && !aws_ecr_repository.okuru.force_delete
    error_message = "a tag means one image, and each is scanned"
  }

  assert {
    condition = [
      for rule in jsondecode(aws_ecr_lifecycle_policy.okuru.policy).rules : [
        rule.selection.tagStatus, rule.selection.countType, rule.selection.countNumber, rule.action.type,
      ]
    ] == [["untagged", "sinceImagePushed", 7, "expire"], ["any", "imageCountMoreThan", 50, "expire"]]
    error_message = "what was never tagged goes after a week; fifty deploys stay"
  }

  assert {
    condition     = aws_ecr_lifecycle_policy.okuru.repository == aws_ecr_repository.okuru.name
    error_message = "the images' own repository is tidied"
  }

  assert {
    condition     = endswith(local.image.reference, "@${var.image_tag}")
    error_message = "a digest follows an @"
  }

  # --- how many ---

  assert {
    condition     = local.capacity.beat.min == 1 && local.capacity.beat.max == 1 && !contains(keys(local.scaled), "beat")
    error_message = "one beat"
  }

  assert {
    condition     = alltrue([for process, capacity in local.capacity : capacity.min >= 2 || contains(["beat", "operator"], process)])
    error_message = "two of what the promise depends on"
  }

  assert {
    condition     = local.capacity.web == { min = 2, max = 10 } && toset(keys(local.tracked.web)) == toset(["ALBRequestCountPerTarget", "ECSServiceAverageCPUUtilization"])
    error_message = "the API: 2 to 10, by requests and CPU"
  }

  assert {
    condition     = aws_appautoscaling_policy.tracked["web-ECSServiceAverageCPUUtilization"].target_tracking_scaling_policy_configuration[0].target_value == 70
    error_message = "CPU 70 %"
  }

  assert {
    condition     = toset(keys(aws_appautoscaling_policy.backlog)) == toset([for queue in local.queues : queue.group])
    error_message = "each group of consumers is scaled by its backlog"
  }

  assert {
    condition = alltrue([
      for process, policy in aws_appautoscaling_policy.backlog : toset(flatten([
        for metric in policy.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : [
          for stat in metric.metric_stat : [for each in stat.metric : [for dimension in each.dimensions : dimension.value if dimension.name == "QueueName"]]
        ]
      ])) == toset([for queue in local.groups[process] : "okuru-prod-${queue}"])
    ])
    error_message = "by the backlog of its own queues, and all of them"
  }

  assert {
    condition = alltrue([
      for process, policy in aws_appautoscaling_policy.backlog : length([
        for metric in policy.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : metric if metric.return_data
      ]) == 1
    ])
    error_message = "a policy follows one number"
  }

  # Nothing waits where SQS has no number; a service that is away counts as one task.
  assert {
    condition = [
      for metric in aws_appautoscaling_policy.backlog["worker"].target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics :
      metric.expression if metric.return_data
    ] == ["(FILL(queue0, 0) + FILL(queue1, 0) + FILL(queue2, 0)) / IF(FILL(running, 1) > 0, FILL(running, 1), 1)"]
    error_message = "messages of all its queues ÷ running tasks"
  }

  assert {
    condition = alltrue([
      for policy in concat(values(aws_appautoscaling_policy.backlog), values(aws_appautoscaling_policy.tracked)) : alltrue([
        policy.target_tracking_scaling_policy_configuration[0].scale_out_cooldown == 60,
        policy.target_tracking_scaling_policy_configuration[0].scale_in_cooldown == 300,
      ])
    ])
    error_message = "out in a minute, in slowly"
  }

  assert {
    condition     = local.backlog_per_task == { worker = 120, jobs = 40 }
    error_message = "the arithmetic in autoscaling.tf"
  }

  # If every call takes as long as the sender waits for it (8 s), what waits is sent within the promised five minutes.
  assert {
    condition     = local.backlog_per_task.worker * 8 / local.pool_processes < 300
    error_message = "the backlog of a task must fit into the promise even when the provider is slow"
  }

  # --- whom AWS trusts ---

  assert {
    condition = jsondecode(aws_iam_role.deploy.assume_role_policy).Statement[0].Condition == {
      StringEquals = {
        "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
        "token.actions.githubusercontent.com:ref" = "refs/heads/main"
        "token.actions.githubusercontent.com:sub" = "repo:example/okuru:environment:prod"
      }
    }
    error_message = "only this repository's main branch deploys, by its environment"
  }

  assert {
    condition     = jsondecode(aws_iam_role.datadog[0].assume_role_policy).Statement[0].Condition.StringEquals["sts:ExternalId"] == var.datadog.external_id
    error_message = "nobody else's Datadog account may read"
  }

  # --- secrets ---

  assert {
    condition = { for what, processes in local.clients : what => join(" ", sort(processes)) } == {
      database = "jobs operator relay web worker"
      cache    = "jobs operator worker"
      provider = "worker"
    }
    error_message = "who speaks with what, and nobody else"
  }

  # Written, and never in the state: so these are asked for what is handed over.
  assert {
    condition     = nonsensitive(local.cache_url) == "rediss://:0123456789012345678901234567890123456789@${aws_elasticache_replication_group.valkey.primary_endpoint_address}:${aws_elasticache_replication_group.valkey.port}/0"
    error_message = "REDIS_URL is by TLS, with the token, to the node that takes writes"
  }

  assert {
    condition = alltrue([
      local.passwords == { database = "database-password", cache = "cache-token" },
      aws_secretsmanager_secret_version.cache_url.secret_id == aws_secretsmanager_secret.secret["cache-url"].id,
      data.aws_secretsmanager_secret_version.cache_token.secret_id == aws_secretsmanager_secret.secret["cache-token"].id,
      aws_elasticache_replication_group.valkey.auth_token_update_strategy == "ROTATE",
    ])
    error_message = "each value is in the secret of its name, and an old token works until the tasks have the new one"
  }

  assert {
    condition     = !strcontains(nonsensitive(jsonencode(local.environment)), "0123456789012345678901234567890123456789")
    error_message = "no secret stands in a task's environment"
  }

  # --- logs and alarms ---

  assert {
    condition     = alltrue([for group in concat(values(aws_cloudwatch_log_group.process), values(aws_cloudwatch_log_group.database), [aws_cloudwatch_log_group.flow, aws_cloudwatch_log_group.operator_sessions]) : group.retention_in_days == 90])
    error_message = "every log has an end"
  }

  assert {
    condition = alltrue([
      aws_ecs_cluster.main.configuration[0].execute_command_configuration[0].logging == "OVERRIDE",
      aws_ecs_cluster.main.configuration[0].execute_command_configuration[0].log_configuration[0].cloud_watch_log_group_name == "/okuru/prod/operator-sessions",
    ])
    error_message = "what operators type is written down"
  }

  assert {
    condition = alltrue([
      one(aws_sns_topic_subscription.alarms[*].endpoint) == var.alarm_email,
      one(aws_sns_topic_subscription.alarms[*].topic_arn) == one(aws_sns_topic.alarms[*].arn),
      one(aws_sns_topic.alarms[*].kms_master_key_id) == one(aws_kms_key.alarms[*].key_id),
    ])
    error_message = "alarms reach somebody"
  }

  # Else it would publish nothing, and tell nobody.
  assert {
    condition = [for statement in jsondecode(aws_kms_key.alarms[0].policy).Statement : statement if can(statement.Principal.Service)] == [{
      Sid       = "Alarms"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = "*"
      Condition = { StringEquals = { "aws:SourceAccount" = "111111111111" } }
    }]
    error_message = "CloudWatch may use the key of the topic, and no other service may"
  }

  assert {
    condition     = strcontains(output.operator.start, "assignPublicIp=DISABLED")
    error_message = "an operator's task is private, too"
  }
}
