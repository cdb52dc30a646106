# Okuru on AWS. Reads the Procfile and the catalogue of queues of this repository, so that neither a
# command line nor a queue is written down twice. docs/IMPORT_NOTES.md: what is managed, and what is not.

terraform {
  # 1.11: write-only arguments, by which no password of ours needs to be in the state.
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }

  # The bucket and the key are given by `make tf-init`: a backend takes no variables.
  backend "s3" {
    region       = "ap-northeast-1"
    encrypt      = true
    use_lockfile = true # a lock is an object beside the state: no table for it
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      Project     = "okuru"
      Environment = var.environment
    }
  }
}

# The same, for modules/password alone: `terraform test` refuses to mock a provider of ephemeral resources.
provider "aws" {
  alias  = "passwords"
  region = var.region
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}

locals {
  name       = "okuru-${var.environment}"
  production = var.environment == "prod"

  account     = data.aws_caller_identity.current.account_id
  partition   = data.aws_partition.current.partition
  secret_path = "okuru/${var.environment}"

  # {process: command line}, by the rule of okuru/procfile.py.
  procfile = {
    for process in regexall("(?m)^([A-Za-z0-9_-]+):(.+)$", file("${path.module}/../Procfile")) :
    process[0] => trimspace(process[1])
  }
  queues = jsondecode(file("${path.module}/../tasks/engine/queues.json"))
}
