# One process of the Procfile as a service of ECS on Fargate: its task definition, its roles, its security group.
#
# Who owns what. Terraform owns the shape of the task; a deploy owns its image; autoscaling owns the number of tasks.
# So a deploy takes the family's newest revision, replaces the image, registers the result and points the service at
# it, and Terraform looks at neither (ignore_changes). A change of the shape registers a revision here, and goes live
# with the next deploy, which takes it as its template: nothing restarts because somebody applied.

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

data "aws_region" "current" {}

locals {
  full_name = "${var.prefix}-${var.name}"
}

resource "aws_ecs_task_definition" "task" {
  family                   = local.full_name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode(local.containers)
  skip_destroy             = true # the revision before is what a rollback goes back to

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = "X86_64"
  }

  # The only places where anyone in it can write, on the task's own disk: the process to the first, the agent to the others.
  dynamic "volume" {
    for_each = concat(["tmp"], keys(local.agent_folders))

    content {
      name = volume.value
    }
  }

  tags = { Service = var.name }

  # The process starts with what its roles let it do.
  depends_on = [aws_iam_role_policy.execution, aws_iam_role_policy.task]
}

resource "aws_ecs_service" "service" {
  count = var.interactive ? 0 : 1

  name            = local.full_name
  cluster         = var.cluster_arn
  task_definition = aws_ecs_task_definition.task.arn
  desired_count   = var.desired_count
  launch_type     = "FARGATE"

  deployment_minimum_healthy_percent = 50
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.network.subnet_ids
    security_groups  = [aws_security_group.task.id]
    assign_public_ip = var.network.public
  }

  dynamic "load_balancer" {
    for_each = var.target_group[*]

    content {
      target_group_arn = load_balancer.value.arn
      container_name   = var.name
      container_port   = load_balancer.value.port
    }
  }

  health_check_grace_period_seconds = var.target_group == null ? null : 60
  enable_execute_command            = false # it needs a writable root; the interactive task has one
  propagate_tags                    = "SERVICE"

  tags = { Service = var.name }

  lifecycle {
    ignore_changes = [task_definition, desired_count]
  }
}

# Nobody may come in, but for rules that others add by name. Out: by TLS to AWS, to the provider and to Datadog, which have no
# fixed addresses, and by rules beside the database and the cache.
resource "aws_security_group" "task" {
  name        = local.full_name
  description = "Tasks of ${var.name}"
  vpc_id      = var.network.vpc_id

  tags = { Name = local.full_name, Service = var.name }
}

resource "aws_vpc_security_group_egress_rule" "tls" {
  security_group_id = aws_security_group.task.id
  description       = "AWS, the provider, Datadog"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
