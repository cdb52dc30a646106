# Two availability zones. Public subnets for the load balancer; private ones, without a way out of
# their own, for database and cache in every environment. Where the tasks are, one variable says:
#
#   private_network = false   in the public subnets, with public addresses and no NAT gateway (which would
#                             be the largest item on dev's bill). Nothing can reach them all the same: their
#                             security groups admit the load balancer and nobody else.
#   private_network = true    in the private subnets. The provider's API and Datadog are on the internet,
#                             so there must be a way out: a NAT gateway in each zone, as one for both would
#                             take both down with its own. Endpoints keep what we say to AWS off it: it
#                             costs less per GB, and SQS and secrets do not depend on the NAT.

locals {
  cidr = "10.20.0.0/16"

  # What tasks say to AWS: pull, log, read secrets, queues, and an operator's session. Not KMS: SQS calls it, not we.
  endpoints = var.private_network ? toset(["ecr.api", "ecr.dkr", "logs", "secretsmanager", "sqs", "ssmmessages"]) : []

  # {zone: number}, and of those that have a NAT gateway
  zone_numbers = { for number, zone in var.zones : zone => number }
  nat_zones    = var.private_network ? local.zone_numbers : {}

  task_subnets = [for subnet in values(var.private_network ? aws_subnet.private : aws_subnet.public) : subnet.id]
}

resource "aws_vpc" "main" {
  cidr_block           = local.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true # the endpoints' private names need it

  tags = { Name = local.name }
}

# AWS makes one that admits everything among its members: nobody shall use it.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.main.id
}

resource "aws_subnet" "public" {
  for_each = local.zone_numbers

  vpc_id            = aws_vpc.main.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(local.cidr, 4, each.value)

  tags = { Name = "${local.name}-public-${each.key}" }
}

resource "aws_subnet" "private" {
  for_each = local.zone_numbers

  vpc_id            = aws_vpc.main.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(local.cidr, 4, 8 + each.value)

  tags = { Name = "${local.name}-private-${each.key}" }
}

resource "aws_internet_gateway" "main" {
  vpc_id = aws_vpc.main.id

  tags = { Name = local.name }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.main.id

  tags = { Name = "${local.name}-public" }
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.main.id
}

resource "aws_route_table_association" "public" {
  for_each = aws_subnet.public

  subnet_id      = each.value.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table" "private" {
  for_each = local.zone_numbers

  vpc_id = aws_vpc.main.id

  tags = { Name = "${local.name}-private-${each.key}" }
}

resource "aws_route_table_association" "private" {
  for_each = aws_subnet.private

  subnet_id      = each.value.id
  route_table_id = aws_route_table.private[each.key].id
}

# --- the way out, where tasks are private -------------------------------------------------------

resource "aws_eip" "nat" {
  for_each = local.nat_zones

  domain = "vpc"

  tags = { Name = "${local.name}-nat-${each.key}" }
}

resource "aws_nat_gateway" "nat" {
  for_each = local.nat_zones

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id

  tags = { Name = "${local.name}-${each.key}" }

  depends_on = [aws_internet_gateway.main]
}

resource "aws_route" "nat" {
  for_each = local.nat_zones

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.nat[each.key].id
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.endpoints

  vpc_id              = aws_vpc.main.id
  vpc_endpoint_type   = "Interface"
  service_name        = "com.amazonaws.${var.region}.${each.key}"
  private_dns_enabled = true
  subnet_ids          = [for subnet in aws_subnet.private : subnet.id]
  security_group_ids  = [aws_security_group.endpoints[0].id]

  tags = { Name = "${local.name}-${each.key}" }
}

# The layers of images in ECR are objects in S3. This kind of endpoint is free.
resource "aws_vpc_endpoint" "s3" {
  count = var.private_network ? 1 : 0

  vpc_id            = aws_vpc.main.id
  vpc_endpoint_type = "Gateway"
  service_name      = "com.amazonaws.${var.region}.s3"
  route_table_ids   = [for table in aws_route_table.private : table.id]

  tags = { Name = "${local.name}-s3" }
}

resource "aws_security_group" "endpoints" {
  count = var.private_network ? 1 : 0

  name        = "${local.name}-endpoints"
  description = "Endpoints of AWS services: the tasks, by TLS"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${local.name}-endpoints" }
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  for_each = var.private_network ? module.service : {}

  security_group_id            = aws_security_group.endpoints[0].id
  referenced_security_group_id = each.value.security_group_id
  description                  = "${each.key} by TLS"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

# --- who talked to whom -------------------------------------------------------------------------

resource "aws_flow_log" "rejected" {
  vpc_id          = aws_vpc.main.id
  traffic_type    = "REJECT" # what was let through is in the logs of those who answered
  log_destination = aws_cloudwatch_log_group.flow.arn
  iam_role_arn    = aws_iam_role.flow_log.arn
}
