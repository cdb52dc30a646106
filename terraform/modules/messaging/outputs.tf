output "names" {
  description = "{name in the catalogue, dead-letter queues included: name in SQS}"
  value       = { for name in concat(keys(var.queues), keys(local.dead_letters)) : name => "${var.prefix}${name}" }
}
