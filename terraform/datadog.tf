# What Datadog needs of AWS. Dashboards and monitors are JSON in datadog/, which `okuru datadog sync` sends to Datadog's API.

locals {
  # The accounts from which Datadog reads (its documentation, "AWS integration", manual setup).
  datadog_account = var.datadog.site == "ap1.datadoghq.com" ? "417141415827" : "464622532012"

  # What modules/service puts beside each process. Other people's images, by exact version. Not by digest, which only the
  # registry can say: `docker buildx imagetools inspect IMAGE`, and put what it prints behind an @, at the first apply.
  datadog = !var.datadog_enabled ? null : {
    site            = var.datadog.site
    environment     = var.environment
    version         = var.image_tag
    api_key_arn     = aws_secretsmanager_secret.secret["datadog-api-key"].arn
    openmetrics     = jsondecode(file("${path.module}/datadog/openmetrics.json"))
    agent_image     = "public.ecr.aws/datadog/agent:7.66.1"
    logrouter_image = "public.ecr.aws/aws-observability/aws-for-fluent-bit:2.33.0"
  }
}

# Read only, and only the metrics and the lists behind the dashboard and the monitors: ALB, ECS, RDS, SQS, ElastiCache.
resource "aws_iam_role" "datadog" {
  count = var.datadog_enabled ? 1 : 0

  name        = "${local.name}-datadog"
  description = "Datadog's AWS integration"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { AWS = "arn:${local.partition}:iam::${local.datadog_account}:root" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "sts:ExternalId" = var.datadog.external_id } }
    }]
  })
}

resource "aws_iam_role_policy" "datadog" {
  count = var.datadog_enabled ? 1 : 0

  name = "read"
  role = aws_iam_role.datadog[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Metrics"
        Effect = "Allow"
        Action = [
          "cloudwatch:GetMetricData",
          "cloudwatch:ListMetrics",
          "ec2:DescribeRegions",
          "ecs:ListClusters",
          "ecs:ListServices",
          "elasticloadbalancing:DescribeLoadBalancers",
          "elasticloadbalancing:DescribeTargetGroups",
          "sqs:ListQueues",
          "tag:GetResources",
        ]
        Resource = ["*"] # AWS knows no resource for them
      },
      # Without them the metrics have no tags, by which dashboard and monitors choose (Datadog's documentation, "Amazon
      # ElastiCache", "Amazon RDS"). Who asks for a list asks it of all: one instance's ARN would not do.
      {
        Sid    = "DatabasesAndCaches"
        Effect = "Allow"
        Action = [
          "elasticache:DescribeCacheClusters",
          "elasticache:ListTagsForResource",
          "rds:DescribeDBInstances",
          "rds:ListTagsForResource",
        ]
        Resource = [
          "arn:${local.partition}:elasticache:${var.region}:${local.account}:cluster:*",
          "arn:${local.partition}:rds:${var.region}:${local.account}:db:*",
        ]
      },
      {
        Sid      = "Services"
        Effect   = "Allow"
        Action   = ["ecs:DescribeClusters", "ecs:DescribeServices"]
        Resource = concat([aws_ecs_cluster.main.arn], [for service in module.service : service.service_arn if service.service_arn != null])
      },
    ]
  })
}
