variable "prefix" {
  description = "What every queue's name begins with, such as okuru-dev-."
  type        = string
}

variable "queues" {
  description = "The catalogue: jsondecode(file(\"…/queues.json\")). Other keys of an entry are for Python alone."
  type = map(object({
    visibility_timeout = number
    max_receive_count  = number
    retention_days     = number
  }))
}

variable "kms_key_arn" {
  description = "A key of our own for the messages at rest; null: the key of SQS (SSE-SQS), which costs nothing."
  type        = string
  default     = null
}

variable "tls_only" {
  description = "Refuse callers without TLS. False for an emulator, which has none."
  type        = bool
  default     = true
}

variable "alarms" {
  description = "Make alarms in CloudWatch. False for an emulator, which has none."
  type        = bool
  default     = true
}

variable "alarm_topic_arns" {
  description = "SNS topics that alarms are sent to."
  type        = list(string)
  default     = []
}

variable "oldest_seconds" {
  description = "{queue: age of its oldest message that raises an alarm}; 300 for those that are not named."
  type        = map(number)
  default     = {}
}
