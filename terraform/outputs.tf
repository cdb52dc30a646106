# Nothing secret: outputs are printed in the logs of whoever applies.

output "load_balancer" {
  description = "Where the API's name points to (an alias, or a CNAME)."
  value       = aws_lb.api.dns_name
}

output "deploy" {
  description = "What .github/workflows/deploy.yml reads, beside API_URL, as variables of the GitHub environment."
  value = {
    AWS_REGION      = var.region
    AWS_DEPLOY_ROLE = aws_iam_role.deploy.arn
    ECR_REPOSITORY  = aws_ecr_repository.okuru.repository_url
  }
}

output "alarm_topics" {
  description = "Where the alarms of CloudWatch go."
  value       = local.alarm_topics
}

# Needs the AWS CLI and its session manager plugin. Who may do it is for whoever manages people: ecs:RunTask and ecs:ExecuteCommand
# on the operator's task, ssm:StartSession on tasks of this cluster with AWS-StartPortForwardingSessionToRemoteHost alone: a shell
# that SSM opens past ECS would be written down nowhere.
output "operator" {
  description = "A task to work from, for an hour; then a shell in it, or a port to the database or to the cache."
  value = {
    start = join(" ", [
      "aws ecs run-task --cluster ${aws_ecs_cluster.main.name} --task-definition ${module.service["operator"].name}",
      "--launch-type FARGATE --enable-execute-command --started-by \"$USER\"",
      "--network-configuration 'awsvpcConfiguration={subnets=[${join(",", local.task_subnets)}],securityGroups=[${module.service["operator"].security_group_id}],assignPublicIp=${var.private_network ? "DISABLED" : "ENABLED"}}'",
      "--query 'tasks[0].taskArn' --output text",
    ])
    shell = "aws ecs execute-command --cluster ${aws_ecs_cluster.main.name} --task \"$TASK\" --container operator --interactive --command sh"

    # SSM's name of a container: ecs:<cluster>_<task>_<runtime id>.
    target = "ecs:${aws_ecs_cluster.main.name}_$${TASK##*/}_$(aws ecs describe-tasks --cluster ${aws_ecs_cluster.main.name} --tasks \"$TASK\" --query \"tasks[0].containers[?name=='operator'].runtimeId\" --output text)"
    ports = {
      for name, place in {
        database = { host = aws_db_instance.database.address, port = 5432 }
        cache    = { host = aws_elasticache_replication_group.valkey.primary_endpoint_address, port = 6379 }
      } : name => "aws ssm start-session --target \"$TARGET\" --document-name AWS-StartPortForwardingSessionToRemoteHost --parameters '{\"host\":[\"${place.host}\"],\"portNumber\":[\"${place.port}\"],\"localPortNumber\":[\"1${place.port}\"]}'"
    }
  }
}
