output "name" {
  description = "Of the service and of the family of its task definitions."
  value       = local.full_name
}

output "service_arn" {
  description = "The service; null if people start it."
  value       = one(aws_ecs_service.service[*].id)
}

output "family_arn" {
  description = "Its task definitions, without a revision."
  value       = aws_ecs_task_definition.task.arn_without_revision
}

output "security_group_id" {
  description = "Of its tasks."
  value       = aws_security_group.task.id
}

output "role_arns" {
  description = "The two roles that whoever starts such a task hands to ECS."
  value       = [aws_iam_role.execution.arn, aws_iam_role.task.arn]
}
