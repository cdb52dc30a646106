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

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:acm:${var.region}:[0-9]{12}:certificate/[^/ ]+$", var.certificate_arn))
    error_message = "certificate_arn is the ARN of a certificate in ACM, in the load balancer's region."
  }
}

variable "image_tag" {
  description = "Image of task definitions that Terraform registers: a tag, or a digest (sha256:…). Deploys replace it."
  type        = string

  validation {
    condition     = can(regex("^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|sha256:[0-9a-f]{64})$", var.image_tag)) && var.image_tag != "latest"
    error_message = "image_tag is a tag, without the repository, that will always mean the same image, or sha256: and 64 digits."
  }
}

# --- what all environments share: terraform.tfvars ----------------------------------------------

variable "region" {
  description = "Where everything is."
  type        = string
  default     = "ap-northeast-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is a region of AWS, such as ap-northeast-1."
  }
}

variable "zones" {
  description = "Two availability zones. By name: one that AWS adds must not move a subnet."
  type        = list(string)
  default     = ["ap-northeast-1a", "ap-northeast-1c"]

  validation {
    condition     = length(var.zones) == 2 && length(distinct(var.zones)) == 2
    error_message = "zones are two, and not the same one twice."
  }
  validation {
    condition     = alltrue([for zone in var.zones : can(regex("^${var.region}[a-z]$", zone))])
    error_message = "zones are of the region: its name and a letter."
  }
}

variable "github_repository" {
  description = "owner/name of the repository whose main branch may deploy."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+$", var.github_repository))
    error_message = "github_repository is owner/name, of one repository."
  }
}

variable "sender_url" {
  description = "The provider that gifts are posted to; null: the simulated one."
  type        = string
  default     = null

  validation {
    condition     = var.sender_url == null || can(regex("^https://[^/@[:space:]]+(/[^[:space:]]*)?$", var.sender_url))
    error_message = "sender_url is an https:// URL, without a password in it."
  }
}

variable "alarm_email" {
  description = "Whom the alarms of CloudWatch reach; null: nobody."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null || can(regex("^[^@[:space:]]+@[^@[:space:]]+[.][^@[:space:]]+$", var.alarm_email))
    error_message = "alarm_email is the address of a mailbox."
  }
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
