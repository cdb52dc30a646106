variable "name" {
  description = "The process, as the Procfile calls it."
  type        = string
}

variable "prefix" {
  description = "What its resources' names begin with, such as okuru-dev."
  type        = string
}

variable "cluster_arn" {
  description = "Where it runs."
  type        = string
}

variable "network" {
  description = "The VPC; the subnets of its tasks; whether they get public addresses."
  type        = object({ vpc_id = string, subnet_ids = list(string), public = bool })
}

variable "interactive" {
  description = "Not a service, but a task that people start, enter through SSM, and that ends by itself."
  type        = bool
  default     = false
}

variable "image" {
  description = "Image and the repository it may be pulled from."
  type        = object({ reference = string, repository_arn = string })
}

variable "command" {
  description = "The command line; it is run by `exec`, so that TERM reaches it."
  type        = string
}

variable "health" {
  description = "Arguments of `okuru health`; null: none."
  type        = string
  default     = null
}

variable "cpu" {
  description = "CPU units of the whole task, sidecars included; 1024 are one."
  type        = number
}

variable "memory" {
  description = "MiB of the whole task."
  type        = number

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096], var.cpu) && var.memory >= 2 * var.cpu && var.memory <= 8 * var.cpu
    error_message = "Fargate has 256, 512, 1024, 2048, 4096 CPU units, and 2 to 8 MiB for each."
  }
}

variable "desired_count" {
  description = "Tasks at first. Afterwards their number is the autoscaling's."
  type        = number
}

variable "target_group" {
  description = "Load balancer's target group and the port that it calls; null: nobody calls."
  type        = object({ arn = string, port = number })
  default     = null
}

variable "environment" {
  description = "Environment variables. Nothing secret."
  type        = map(string)
}

variable "secrets" {
  description = "Environment variables whose values are secrets: {name: ARN in Secrets Manager}."
  type        = map(string)
  default     = {}
}

variable "statements" {
  description = "What the process may do in AWS."
  type = list(object({
    sid       = string
    actions   = list(string)
    resources = list(string)
    condition = optional(map(map(string)))
  }))
  default = []
}

variable "log_group" {
  description = "Log group in CloudWatch."
  type        = object({ name = string, arn = string })
}

variable "stop_timeout" {
  description = "Seconds between TERM and KILL. Above the worker's grace; 120 is the most that Fargate allows."
  type        = number
  default     = 120

  validation {
    condition     = var.stop_timeout <= 120
    error_message = "Fargate allows 120 seconds."
  }
}

variable "datadog" {
  description = "Log router and agent beside the process; null: neither, and logs go to CloudWatch."
  type = object({
    site            = string
    environment     = string
    version         = string
    api_key_arn     = string
    openmetrics     = any # an instance of the agent's OpenMetrics check
    agent_image     = string
    logrouter_image = string
  })
  default = null
}
