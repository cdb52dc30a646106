"""How the parts hang together: by the ids that the mocked AWS gives them."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from okuru import procfile
from tasks.engine.catalogue import Catalogue
from tests.infra.terraform import OPERATOR, ROOT, State

PROCFILE = procfile.read()
CONSUMERS = {queue.group for queue in Catalogue.load("")}
CERTIFICATE = (
    "arn:aws:acm:ap-northeast-1:111111111111:certificate/00000000-0000-0000-0000-000000000000"
)


def ids(state: State, address: str) -> set[str]:
    return {each["id"] for each in state.below(address).values()}


def cluster(state: State) -> str:
    name: str = state.at("aws_ecs_cluster.main")["name"]
    return name


def private(state: State) -> bool:
    return cluster(state) == "okuru-prod"


def one(values: list[Any]) -> Any:
    (value,) = values
    return value


# --- the network --------------------------------------------------------------------------------


def test_every_subnet_has_the_way_out_that_is_meant_for_it(state: State) -> None:
    public, inner = state.below("aws_subnet.public"), state.below("aws_subnet.private")
    tables = state.below("aws_route_table.private")
    outside = state.at("aws_route_table.public")["id"]
    joined = {
        each.values["subnet_id"]: each.values["route_table_id"]
        for each in state.of("aws_route_table_association")
    }

    assert len(joined) == 4
    assert joined == {
        **{subnet["id"]: outside for subnet in public.values()},
        **{subnet["id"]: tables[zone]["id"] for zone, subnet in inner.items()},
    }
    internet = state.at("aws_route.internet")
    gateway = state.at("aws_internet_gateway.main")
    assert (internet["route_table_id"], internet["gateway_id"]) == (outside, gateway["id"])
    assert internet["destination_cidr_block"] == "0.0.0.0/0"
    # By a NAT gateway of the same zone, which itself is where there is a way out.
    nats, routes = state.below("aws_nat_gateway.nat"), state.below("aws_route.nat")
    assert nats.keys() == routes.keys() == (inner.keys() if private(state) else set())
    for zone, nat in nats.items():
        assert nat["subnet_id"] == public[zone]["id"]
        assert nat["allocation_id"] == state.below("aws_eip.nat")[zone]["id"]
        assert routes[zone]["route_table_id"] == tables[zone]["id"]
        assert routes[zone]["nat_gateway_id"] == nat["id"]
        assert routes[zone]["destination_cidr_block"] == "0.0.0.0/0"


def test_endpoints_are_where_the_tasks_look_for_them(prod: State) -> None:
    vpc = prod.at("aws_vpc.main")

    assert vpc["enable_dns_support"] is vpc["enable_dns_hostnames"] is True
    for service, endpoint in prod.below("aws_vpc_endpoint.interface").items():
        assert endpoint["service_name"] == f"com.amazonaws.ap-northeast-1.{service}"
        assert set(endpoint["subnet_ids"]) == ids(prod, "aws_subnet.private")
        assert set(endpoint["security_group_ids"]) == ids(prod, "aws_security_group.endpoints")
    storage = one(list(prod.below("aws_vpc_endpoint.s3").values()))
    assert set(storage["route_table_ids"]) == ids(prod, "aws_route_table.private")


def test_everything_is_in_the_one_vpc(state: State) -> None:
    own = state.at("aws_vpc.main")["id"]
    kinds = (
        "aws_subnet aws_route_table aws_internet_gateway aws_security_group aws_vpc_endpoint "
        "aws_lb_target_group aws_flow_log aws_default_security_group"
    )

    assert {each.values["vpc_id"] for each in state.of(*kinds.split())} == {own}


def test_database_and_cache_are_in_the_private_subnets(state: State) -> None:
    database = state.at("aws_db_instance.database")
    cache = state.at("aws_elasticache_replication_group.valkey")

    for kind, group in (
        (database["db_subnet_group_name"], state.at("aws_db_subnet_group.database")),
        (cache["subnet_group_name"], state.at("aws_elasticache_subnet_group.valkey")),
    ):
        assert kind == group["name"]
        assert set(group["subnet_ids"]) == ids(state, "aws_subnet.private")
    assert database["parameter_group_name"] == state.at("aws_db_parameter_group.database")["name"]
    assert set(database["vpc_security_group_ids"]) == ids(state, "aws_security_group.database")
    assert set(cache["security_group_ids"]) == ids(state, "aws_security_group.cache")


def test_what_is_refused_is_written_down_by_a_role_that_may(prod: State) -> None:
    log, group = prod.at("aws_flow_log.rejected"), prod.at("aws_cloudwatch_log_group.flow")
    monitored = prod.at("aws_db_instance.database")["monitoring_role_arn"]

    assert (log["log_destination"], log["traffic_type"]) == (group["arn"], "REJECT")
    assert log["iam_role_arn"] == prod.at("aws_iam_role.flow_log")["arn"]
    # And what the database's host does.
    assert monitored == prod.at("aws_iam_role.database_monitoring[0]")["arn"]


# --- the load balancer --------------------------------------------------------------------------


def test_the_internet_reaches_the_load_balancer_by_tls(state: State) -> None:
    balancer = state.at("aws_lb.api")
    listeners = state.below("aws_lb_listener.https") | state.below("aws_lb_listener.http")
    tls, plain = state.at("aws_lb_listener.https"), state.at("aws_lb_listener.http")

    assert balancer["internal"] is False
    assert set(balancer["subnets"]) == ids(state, "aws_subnet.public")
    assert set(balancer["security_groups"]) == ids(state, "aws_security_group.load_balancer")
    assert {each["load_balancer_arn"] for each in listeners.values()} == {balancer["arn"]}
    assert (tls["protocol"], tls["port"], tls["certificate_arn"]) == ("HTTPS", 443, CERTIFICATE)
    assert (plain["protocol"], plain["port"]) == ("HTTP", 80)
    assert one(plain["default_action"])["redirect"][0]["port"] == str(tls["port"])
    for rule in state.of("aws_lb_listener_rule"):
        assert rule.values["listener_arn"] == tls["arn"]
    # The first rule wins: nobody's path is before this.
    priorities = {
        each.address: each.values["priority"] for each in state.of("aws_lb_listener_rule")
    }
    assert min(priorities, key=lambda each: priorities[each]) == "aws_lb_listener_rule.no_metrics"


def test_behind_each_target_group_is_its_process_and_nothing_else_listens(state: State) -> None:
    groups = state.below("aws_lb_target_group.process")
    services = {each.index: each.values for each in state.of("aws_ecs_service")}
    forwards = [
        action["target_group_arn"]
        for each in state.of("aws_lb_listener", "aws_lb_listener_rule")
        for action in each.values.get("default_action") or each.values["action"]
        if action["type"] == "forward"
    ]

    assert "web" in groups
    assert groups.keys() <= services.keys()
    assert sorted(forwards) == sorted(group["arn"] for group in groups.values())
    for process in state.containers():
        container, variables = state.process_container(process), state.variables(process)
        listens = [each["containerPort"] for each in container["portMappings"]]
        service = services.get(process, {"load_balancer": []})
        if process not in groups:
            assert (service["load_balancer"], listens) == ([], [])
            assert not variables.keys() & {"HOST", "PORT"}
            continue
        group, behind = groups[process], one(service["load_balancer"])
        assert behind["target_group_arn"] == group["arn"]
        assert behind["container_name"] == process
        assert [behind["container_port"]] == listens == [group["port"]]
        # A task that starts is not ended for not answering yet.
        assert service["health_check_grace_period_seconds"] == 60
        assert (variables["HOST"], variables["PORT"]) == ("0.0.0.0", str(group["port"]))
        # Fargate's tasks have an address, and no instance.
        assert (group["target_type"], group["protocol"]) == ("ip", "HTTP")
        assert one(group["health_check"])["matcher"] == "200"
    web = one(groups["web"]["health_check"])
    assert [web[each] for each in ("path", "interval", "timeout")] == ["/healthz", 10, 5]
    assert (web["healthy_threshold"], web["unhealthy_threshold"]) == (2, 3)


# --- the services -------------------------------------------------------------------------------


def test_a_service_runs_its_own_task_where_tasks_are(state: State) -> None:
    where = ids(state, "aws_subnet.private" if private(state) else "aws_subnet.public")
    for service in state.of("aws_ecs_service"):
        process, values = service.index, service.values
        module = f'module.service["{process}"]'
        network = one(values["network_configuration"])

        assert values["name"] == f"{cluster(state)}-{process}"
        assert values["cluster"] == state.at("aws_ecs_cluster.main")["arn"]
        definition = state.at(f"{module}.aws_ecs_task_definition.task")
        assert values["task_definition"] == definition["arn"]
        assert definition["family"] == values["name"]
        assert values["launch_type"] == "FARGATE"
        # Without a NAT gateway, a task that has no address reaches nobody.
        assert set(network["subnets"]) == where
        assert network["assign_public_ip"] is not private(state)
        assert set(network["security_groups"]) == ids(state, f"{module}.aws_security_group.task")
    for task in state.of("aws_ecs_task_definition"):
        assert one(task.values["runtime_platform"]) == {
            "operating_system_family": "LINUX",
            "cpu_architecture": "X86_64",
        }


def test_a_process_starts_with_as_many_tasks_as_it_never_has_less_of(state: State) -> None:
    scaled = state.below("aws_appautoscaling_target.service")
    for service in state.of("aws_ecs_service"):
        desired = service.values["desired_count"]
        spare = 2 if private(state) and service.index != "beat" else 1

        assert desired == spare
        if service.index in scaled:
            assert scaled[service.index]["min_capacity"] == desired


def test_each_is_scaled_by_its_own_numbers(state: State) -> None:
    """The queues themselves are asked for in terraform/tests, for each process."""
    found: dict[str, set[str]] = {}
    for policy in state.of("aws_appautoscaling_policy"):
        how = one(policy.values["target_tracking_scaling_policy_configuration"])
        process = policy.values["resource_id"].removeprefix(f"service/{cluster(state)}/")
        seen = found.setdefault(process.removeprefix(f"{cluster(state)}-"), set())
        for each in how["predefined_metric_specification"]:
            seen.add(each["predefined_metric_type"])
        for each in how["customized_metric_specification"]:
            stats = [
                one(one(stat["metric_stat"])["metric"])
                for stat in each["metrics"]
                if stat["metric_stat"]
            ]
            seen |= {f"{stat['namespace']} {stat['metric_name']}" for stat in stats}
            (running,) = [stat for stat in stats if stat["namespace"] != "AWS/SQS"]
            assert {each["name"]: each["value"] for each in running["dimensions"]} == {
                "ClusterName": cluster(state),
                "ServiceName": process,
            }
    targets = state.below("aws_appautoscaling_target.service")

    backlog = {
        "AWS/SQS ApproximateNumberOfMessagesVisible",
        "ECS/ContainerInsights RunningTaskCount",
    }
    assert {process: found[process] for process in CONSUMERS} == dict.fromkeys(CONSUMERS, backlog)
    assert found["web"] == {"ALBRequestCountPerTarget", "ECSServiceAverageCPUUtilization"}
    # Who may grow has something to grow by, and nobody else is told how.
    assert found.keys() == targets.keys()
    for process, target in targets.items():
        assert target["resource_id"] == f"service/{cluster(state)}/{cluster(state)}-{process}"
        assert target["scalable_dimension"] == "ecs:service:DesiredCount"


def test_requests_are_counted_by_the_process_s_own_target_group(state: State) -> None:
    balancer, groups = state.at("aws_lb.api"), state.below("aws_lb_target_group.process")
    for index, policy in state.below("aws_appautoscaling_policy.tracked").items():
        how = one(policy["target_tracking_scaling_policy_configuration"])
        metric = one(how["predefined_metric_specification"])
        process = index.removesuffix(f"-{metric['predefined_metric_type']}")

        assert policy["resource_id"].endswith(f"/{cluster(state)}-{process}")
        if metric["predefined_metric_type"] == "ALBRequestCountPerTarget":
            suffix = groups[process]["arn_suffix"]
            assert metric["resource_label"] == f"{balancer['arn_suffix']}/{suffix}"


def test_a_process_is_told_where_database_and_metrics_are(state: State) -> None:
    database = state.at("aws_db_instance.database")
    openmetrics = json.loads((ROOT / "datadog" / "openmetrics.json").read_text())
    asked = urlsplit(openmetrics["openmetrics_endpoint"])
    for process in state.containers():
        variables = state.variables(process)

        assert variables["DATABASE_URL"] == (
            f"postgresql+psycopg2://{database['username']}@{database['endpoint']}"
            f"/{database['db_name']}?sslmode=require"
        )
        assert variables["METRICS_PORT"] == str(asked.port)
    assert (database["username"], database["db_name"]) == ("okuru", "okuru")


def test_the_operators_task_ends_by_itself(state: State) -> None:
    assert state.process_container(OPERATOR)["command"] == ["sh", "-c", "exec sleep 3600"]
    assert state.process_container(OPERATOR)["healthCheck"] is None


def test_a_container_that_does_not_answer_is_noticed_within_two_minutes(state: State) -> None:
    for process in PROCFILE:
        check = state.process_container(process)["healthCheck"]

        assert {name: check[name] for name in check if name != "command"} == {
            "interval": 30,
            "timeout": 10,
            "retries": 3,
            "startPeriod": 60,
        }


# --- logs, and Datadog --------------------------------------------------------------------------


def test_each_container_writes_where_its_process_s_lines_are(state: State) -> None:
    groups = {
        process: group["name"]
        for process, group in state.below("aws_cloudwatch_log_group.process").items()
    }
    assert groups.keys() == {*PROCFILE, OPERATOR}
    for process, containers in state.containers().items():
        assert groups[process].endswith(f"/{process}")
        for container in containers:
            log = container["logConfiguration"]
            if log["logDriver"] == "awslogs":
                assert log["options"]["awslogs-group"] == groups[process]
                # A full pipe must not stop a worker.
                assert log["options"]["mode"] == "non-blocking"


def test_datadog_s_agent_and_router_speak_with_the_account_s_own_site(prod: State) -> None:
    for containers in prod.containers().values():
        own, router, _, agent = containers
        environment = {each["name"]: each["value"] for each in agent["environment"]}
        lines = own["logConfiguration"]["options"]

        assert environment["DD_SITE"] == "ap1.datadoghq.com"
        assert environment["DD_ENV"] == "prod"
        assert environment["DD_APM_ENABLED"] == "true"
        assert (lines["Host"], lines["TLS"]) == ("http-intake.logs.ap1.datadoghq.com", "on")
        assert lines["Name"] == "datadog"
        # The last lines are those of the stop.
        assert router["stopTimeout"] == own["stopTimeout"] == 120
