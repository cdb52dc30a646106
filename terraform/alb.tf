# The only thing that the internet can reach.

locals {
  # {process: how the load balancer calls it}. Who is here listens, has a target group, and is let through to; nobody else is.
  # `health`: of the process alone. An outage of the database must not stop every task.
  # `rule`: which paths are its, { priority, paths }; null: those of no other rule. One process has null.
  listening = {
    web = { port = 8080, health = "/healthz", rule = null }
  }
  by_default = one([for process, listens in local.listening : process if listens.rule == null])
  by_rule    = { for process, listens in local.listening : process => listens.rule if listens.rule != null }

  # {process: what the load balancer forwards to it}. By way of the listener: a target group takes tasks only once something
  # forwards to it.
  targets = {
    for process, listens in local.listening : process => {
      arn = (
        listens.rule == null
        ? aws_lb_listener.https.default_action[0].target_group_arn
        : aws_lb_listener_rule.path[process].action[0].target_group_arn
      )
      port = listens.port
    }
  }
}

resource "aws_lb" "api" {
  name               = local.name
  load_balancer_type = "application"
  internal           = false
  subnets            = [for subnet in aws_subnet.public : subnet.id]
  security_groups    = [aws_security_group.load_balancer.id]

  drop_invalid_header_fields = true
  desync_mitigation_mode     = "strictest"
  enable_deletion_protection = local.production
  idle_timeout               = 60 # below gunicorn's keepalive of 75: it never meets a closed connection
}

resource "aws_lb_target_group" "process" {
  for_each = local.listening

  name        = "${local.name}-${each.key}"
  vpc_id      = aws_vpc.main.id
  target_type = "ip"
  protocol    = "HTTP" # inside the VPC; TLS ends here
  port        = each.value.port

  # A request takes at most some 20 seconds; then the task gets its TERM.
  deregistration_delay = 30

  health_check {
    path                = each.value.health
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
  }
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.api.arn
  protocol          = "HTTPS"
  port              = 443
  certificate_arn   = var.certificate_arn
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06" # 1.2 and 1.3

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.process[local.by_default].arn
  }
}

# The process answers there to whoever may reach its port: nobody from outside.
resource "aws_lb_listener_rule" "no_metrics" {
  listener_arn = aws_lb_listener.https.arn
  priority     = 1

  condition {
    path_pattern {
      values = ["/metrics", "/metrics/*"]
    }
  }

  action {
    type = "fixed-response"

    fixed_response {
      status_code  = "404"
      content_type = "application/json"
      message_body = jsonencode({ error = { code = "NOT_FOUND", message = "not found", details = {} } })
    }
  }
}

resource "aws_lb_listener_rule" "path" {
  for_each = local.by_rule

  listener_arn = aws_lb_listener.https.arn
  priority     = each.value.priority

  condition {
    path_pattern {
      values = each.value.paths
    }
  }

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.process[each.key].arn
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.api.arn
  protocol          = "HTTP"
  port              = 80

  default_action {
    type = "redirect"

    redirect {
      protocol    = "HTTPS"
      port        = "443"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_security_group" "load_balancer" {
  name        = "${local.name}-alb"
  description = "Load balancer: everyone in, the API out"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${local.name}-alb" }
}

resource "aws_vpc_security_group_ingress_rule" "everyone" {
  for_each = { http = 80, https = 443 }

  security_group_id = aws_security_group.load_balancer.id
  description       = each.key
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

resource "aws_vpc_security_group_egress_rule" "load_balancer" {
  for_each = local.listening

  security_group_id            = aws_security_group.load_balancer.id
  referenced_security_group_id = module.service[each.key].security_group_id
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_vpc_security_group_ingress_rule" "process" {
  for_each = local.listening

  security_group_id            = module.service[each.key].security_group_id
  referenced_security_group_id = aws_security_group.load_balancer.id
  description                  = "The load balancer"
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}
