# The only thing that the internet can reach.

locals {
  web_port = 8080
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

resource "aws_lb_target_group" "web" {
  name        = "${local.name}-web"
  vpc_id      = aws_vpc.main.id
  target_type = "ip"
  protocol    = "HTTP" # inside the VPC; TLS ends here
  port        = local.web_port

  # A request takes at most some 20 seconds; then the task gets its TERM.
  deregistration_delay = 30

  health_check {
    path                = "/healthz" # of the process alone: an outage of the database must not stop every task
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
    target_group_arn = aws_lb_target_group.web.arn
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
  security_group_id            = aws_security_group.load_balancer.id
  referenced_security_group_id = module.service["web"].security_group_id
  description                  = "The API"
  ip_protocol                  = "tcp"
  from_port                    = local.web_port
  to_port                      = local.web_port
}

resource "aws_vpc_security_group_ingress_rule" "web" {
  security_group_id            = module.service["web"].security_group_id
  referenced_security_group_id = aws_security_group.load_balancer.id
  description                  = "The load balancer"
  ip_protocol                  = "tcp"
  from_port                    = local.web_port
  to_port                      = local.web_port
}
