# A password that AWS draws and Secrets Manager keeps. It passes through Terraform and stays nowhere: not in the plan, not in
# the state.

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

variable "secret_id" {
  description = "The secret that keeps it."
  type        = string
}

variable "generation" {
  description = "Raise it to draw another. 0 draws none: what was imported keeps its password, which the secret gets by hand."
  type        = number
}

# An ephemeral output takes ephemeral values only, and Terraform has no other ephemeral null.
variable "none" {
  description = "Always null."
  type        = string
  default     = null
  ephemeral   = true
}

locals {
  count = var.generation > 0 ? 1 : 0
}

ephemeral "aws_secretsmanager_random_password" "drawn" {
  count = local.count

  password_length     = 40
  exclude_punctuation = true # it becomes part of URLs, and ElastiCache takes few other characters
}

resource "aws_secretsmanager_secret_version" "kept" {
  count = local.count

  secret_id                = var.secret_id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.drawn[0].random_password
  secret_string_wo_version = var.generation
}

# What is kept, not what was drawn: every run draws another, which is thrown away if nothing asks for it.
ephemeral "aws_secretsmanager_secret_version" "kept" {
  count = local.count

  secret_id  = aws_secretsmanager_secret_version.kept[0].secret_id
  version_id = aws_secretsmanager_secret_version.kept[0].version_id
}

output "value" {
  description = "For write-only arguments."
  value       = local.count == 0 ? var.none : ephemeral.aws_secretsmanager_secret_version.kept[0].secret_string
  ephemeral   = true
}

output "generation" {
  description = "What tells a write-only argument that the value is another; null: there is none."
  value       = local.count == 0 ? null : var.generation
}

output "version_id" {
  description = "Which version of the secret holds it."
  value       = one(aws_secretsmanager_secret_version.kept[*].version_id)
}
