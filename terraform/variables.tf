# --- what an environment is: environments/*.tfvars ----------------------------------------------

variable "environment" {
  description = "dev or prod. prod has a second of everything that fails, its own key, and cannot be deleted by accident."
  type        = string

  validation {
    condition     = contains(["dev", "prod"], var.environment)
    error_message = "environment is dev or prod."
  }
}

variable "private_network" {
  description = "Tasks in private subnets, with NAT and endpoints; false: in public subnets behind closed security groups (docs/cost.md)."
  type        = bool
}

variable "database_instance_class" {
  description = "Size of PostgreSQL."
  type        = string
}

variable "cache_node_type" {
  description = "Size of Valkey, which holds only what may be lost."
  type        = string
}

variable "certificate_arn" {
  description = "Certificate of the API's name, in ACM. The name's DNS is not managed here."
  type        = string
}

variable "image_tag" {
  description = "Image of task definitions that Terraform registers: a tag, or a digest (sha256:…). Deploys replace it."
  type        = string
}

# --- what all environments share: terraform.tfvars ----------------------------------------------

variable "region" {
  description = "Where everything is."
  type        = string
  default     = "ap-northeast-1"
}

variable "zones" {
  description = "Two availability zones. By name: one that AWS adds must not move a subnet."
  type        = list(string)
  default     = ["ap-northeast-1a", "ap-northeast-1c"]

  validation {
    condition     = length(distinct(var.zones)) == 2
    error_message = "two zones."
  }
}

variable "github_repository" {
  description = "owner/name of the repository whose main branch may deploy."
  type        = string
}

variable "sender_url" {
  description = "The provider that gifts are posted to; null: the simulated one."
  type        = string
  default     = null
}

variable "alarm_email" {
  description = "Whom the alarms of CloudWatch reach; null: nobody."
  type        = string
  default     = null
}

variable "secret_versions" {
  description = "Raise a number to draw that password anew; 0: it was imported, and is drawn by nobody (docs/IMPORT_NOTES.md)."
  type        = object({ database = number, cache = number })
  default     = { database = 1, cache = 1 }
}

variable "datadog_enabled" {
  description = "Agent and log router beside each process, and a role for Datadog's AWS integration."
  type        = bool
  default     = false
}

variable "datadog" {
  description = "site: where the account is. external_id: what Datadog shows when the AWS account is added there."
  type        = object({ site = string, external_id = string })
  default     = { site = "datadoghq.com", external_id = "" }

  validation {
    condition     = !var.datadog_enabled || length(var.datadog.external_id) >= 16
    error_message = "datadog_enabled needs datadog.external_id: without it, anyone's Datadog account could assume the role."
  }
}
