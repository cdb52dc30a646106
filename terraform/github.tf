# The role that .github/workflows/deploy.yml and rollback.yml take by OIDC: no key exists that could leak. Only a run of this
# repository's main branch, in the environment of the same name, gets it. That GitHub gives the environment to main alone is a rule
# that somebody makes by hand (docs/IMPORT_NOTES.md); AWS asks for the branch, too, so that nothing depends on who came first.

data "aws_iam_openid_connect_provider" "github" {
  url = "https://token.actions.githubusercontent.com" # one an account, so not ours to make (docs/IMPORT_NOTES.md)
}

resource "aws_iam_role" "deploy" {
  name                 = "${local.name}-deploy"
  description          = "GitHub Actions of ${var.github_repository}, environment ${var.environment}"
  max_session_duration = 5700 # a deploy and its way back (deploy.yml)

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = data.aws_iam_openid_connect_provider.github.arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = {
          "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
          "token.actions.githubusercontent.com:ref" = "refs/heads/main"
          "token.actions.githubusercontent.com:sub" = "repo:${var.github_repository}:environment:${var.environment}"
        }
      }
    }]
  })
}

locals {
  deploy = [
    {
      sid       = "EcrLogin"
      actions   = ["ecr:GetAuthorizationToken"]
      resources = ["*"] # AWS knows no resource for it
      condition = null
    },
    {
      sid = "Push"
      actions = [
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:CompleteLayerUpload",
        "ecr:DescribeImages",
        "ecr:InitiateLayerUpload",
        "ecr:PutImage",
        "ecr:UploadLayerPart",
      ]
      resources = [aws_ecr_repository.okuru.arn]
      condition = null
    },
    {
      sid       = "TaskDefinitions"
      actions   = ["ecs:DescribeTaskDefinition", "ecs:RegisterTaskDefinition"]
      resources = ["*"] # AWS knows no resource for them; what such a task may do is limited by the roles below
      condition = null
    },
    {
      sid       = "SayWhatRanBefore"
      actions   = ["ecs:TagResource"]
      resources = [for service in module.service : "${service.family_arn}:*"] # a revision's number is not known before
      condition = { StringEquals = { "ecs:CreateAction" = "RegisterTaskDefinition" } }
    },
    {
      sid       = "Deploy"
      actions   = ["ecs:DescribeServices", "ecs:UpdateService"]
      resources = [for service in module.service : service.service_arn if service.service_arn != null]
      condition = null
    },
    {
      sid       = "Migrate"
      actions   = ["ecs:RunTask"]
      resources = ["${module.service["web"].family_arn}:*"]
      condition = { ArnEquals = { "ecs:cluster" = aws_ecs_cluster.main.arn } }
    },
    {
      sid       = "WaitForTheMigration"
      actions   = ["ecs:DescribeTasks"]
      resources = ["arn:${local.partition}:ecs:${var.region}:${local.account}:task/${local.name}/*"] # no task's id is known before
      condition = null
    },
    {
      sid       = "ReadTheMigrationsLog"
      actions   = ["logs:GetLogEvents"]
      resources = ["${aws_cloudwatch_log_group.process["web"].arn}:*"] # its streams
      condition = null
    },
    {
      sid       = "HandRolesToTasks"
      actions   = ["iam:PassRole"]
      resources = flatten([for service in module.service : service.role_arns])
      condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
    },
  ]
}

resource "aws_iam_role_policy" "deploy" {
  name = "deploy"
  role = aws_iam_role.deploy.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for each in local.deploy : merge(
      { Sid = each.sid, Effect = "Allow", Action = each.actions, Resource = each.resources },
      each.condition == null ? {} : { Condition = each.condition },
    )]
  })
}
