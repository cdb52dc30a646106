"""The metrics of Datadog's AWS integration that we use: unit, and the tags of each.

Taken from Datadog's pages on its AWS integrations. The tags are CloudWatch's dimensions in small
letters, and the AWS tags of the resource: Terraform gives each Project, Environment and Service.
"""

from __future__ import annotations

RESOURCE = {"project", "environment", "service"}
LOAD_BALANCER = RESOURCE | {"loadbalancer", "targetgroup", "availability-zone"}
ECS = RESOURCE | {"clustername", "servicename"}
QUEUE = RESOURCE | {"queuename"}
DATABASE = RESOURCE | {"dbinstanceidentifier"}
CACHE = RESOURCE | {"cacheclusterid", "cachenodeid"}

AWS: dict[str, tuple[str, set[str]]] = {
    "aws.applicationelb.request_count": ("request", LOAD_BALANCER),
    "aws.applicationelb.httpcode_elb_5xx": ("response", LOAD_BALANCER),
    "aws.applicationelb.httpcode_target_5xx": ("response", LOAD_BALANCER),
    "aws.applicationelb.healthy_host_count": ("host, in each zone", LOAD_BALANCER),
    "aws.applicationelb.target_response_time.p95": ("second", LOAD_BALANCER),
    "aws.ecs.service.running": ("task", ECS),
    "aws.ecs.service.desired": ("task", ECS),
    "aws.ecs.cpuutilization": ("percent", ECS),
    "aws.ecs.memory_utilization": ("percent", ECS),
    "aws.sqs.approximate_number_of_messages_visible": ("message", QUEUE),
    "aws.sqs.approximate_number_of_messages_not_visible": ("message", QUEUE),
    "aws.sqs.approximate_age_of_oldest_message": ("second", QUEUE),
    "aws.rds.cpuutilization": ("percent", DATABASE),
    "aws.rds.database_connections": ("connection", DATABASE),
    "aws.rds.free_storage_space": ("byte", DATABASE),
    "aws.rds.read_latency": ("second", DATABASE),
    "aws.rds.write_latency": ("second", DATABASE),
    "aws.elasticache.engine_cpuutilization": ("percent", CACHE),
    "aws.elasticache.database_memory_usage_percentage": ("percent", CACHE),
}
