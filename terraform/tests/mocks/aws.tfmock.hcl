# What AWS would say. Everything else is made up by Terraform.

mock_data "aws_caller_identity" {
  defaults = { account_id = "111111111111" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_region" {
  defaults = { name = "ap-northeast-1" }
}

mock_data "aws_iam_openid_connect_provider" {
  defaults = { arn = "arn:aws:iam::111111111111:oidc-provider/token.actions.githubusercontent.com" }
}

mock_data "aws_secretsmanager_secret_version" {
  defaults = { secret_string = "0123456789012345678901234567890123456789" }
}

# What must look like an ARN, since other resources check it.

mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:ap-northeast-1:111111111111:log-group:mock" }
}

mock_resource "aws_db_instance" {
  defaults = { arn = "arn:aws:rds:ap-northeast-1:111111111111:db:mock", address = "db.example.com", endpoint = "db.example.com:5432" }
}

mock_resource "aws_ecr_repository" {
  defaults = {
    arn            = "arn:aws:ecr:ap-northeast-1:111111111111:repository/mock"
    repository_url = "111111111111.dkr.ecr.ap-northeast-1.amazonaws.com/mock"
  }
}

mock_resource "aws_ecs_cluster" {
  defaults = { arn = "arn:aws:ecs:ap-northeast-1:111111111111:cluster/mock" }
}

mock_resource "aws_ecs_service" {
  defaults = { id = "arn:aws:ecs:ap-northeast-1:111111111111:service/mock/mock" }
}

mock_resource "aws_ecs_task_definition" {
  defaults = {
    arn                  = "arn:aws:ecs:ap-northeast-1:111111111111:task-definition/mock:1"
    arn_without_revision = "arn:aws:ecs:ap-northeast-1:111111111111:task-definition/mock"
  }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::111111111111:role/mock" }
}

mock_resource "aws_kms_key" {
  defaults = { arn = "arn:aws:kms:ap-northeast-1:111111111111:key/00000000-0000-0000-0000-000000000000" }
}

mock_resource "aws_lb" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:ap-northeast-1:111111111111:loadbalancer/app/mock/0000000000000000"
    arn_suffix = "app/mock/0000000000000000"
  }
}

mock_resource "aws_lb_listener" {
  defaults = { arn = "arn:aws:elasticloadbalancing:ap-northeast-1:111111111111:listener/app/mock/0000000000000000/0000000000000000" }
}

mock_resource "aws_lb_target_group" {
  defaults = {
    arn        = "arn:aws:elasticloadbalancing:ap-northeast-1:111111111111:targetgroup/mock/0000000000000000"
    arn_suffix = "targetgroup/mock/0000000000000000"
  }
}

mock_resource "aws_secretsmanager_secret" {
  defaults = { arn = "arn:aws:secretsmanager:ap-northeast-1:111111111111:secret:mock-AbCdEf" }
}

mock_resource "aws_sns_topic" {
  defaults = { arn = "arn:aws:sns:ap-northeast-1:111111111111:mock" }
}

mock_resource "aws_sqs_queue" {
  defaults = { arn = "arn:aws:sqs:ap-northeast-1:111111111111:mock" }
}
