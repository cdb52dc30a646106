# PostgreSQL: the truth, and the one part that must not be lost.

resource "aws_db_subnet_group" "database" {
  name       = local.name
  subnet_ids = [for subnet in aws_subnet.private : subnet.id]
}

resource "aws_db_parameter_group" "database" {
  name_prefix = "${local.name}-"
  family      = "postgres18"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  # What takes longer than a request may is worth a line.
  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }

  lifecycle {
    create_before_destroy = true # one that is in use cannot be deleted: a new major version needs both
  }
}

resource "aws_db_instance" "database" {
  identifier     = local.name
  engine         = "postgres"
  engine_version = "18" # that of the local stack; a test holds them equal
  instance_class = var.database_instance_class

  db_name             = "okuru"
  username            = "okuru"
  password_wo         = module.password["database"].value
  password_wo_version = module.password["database"].generation

  storage_type          = "gp3"
  storage_encrypted     = true
  allocated_storage     = 20
  max_allocated_storage = 100

  db_subnet_group_name   = aws_db_subnet_group.database.name
  vpc_security_group_ids = [aws_security_group.database.id]
  parameter_group_name   = aws_db_parameter_group.database.name
  publicly_accessible    = false

  multi_az                   = local.production
  backup_retention_period    = 7
  copy_tags_to_snapshot      = true
  backup_window              = "17:00-18:00" # UTC: night in Tokyo
  maintenance_window         = "sun:18:30-sun:19:30"
  auto_minor_version_upgrade = true

  deletion_protection       = local.production
  skip_final_snapshot       = !local.production
  final_snapshot_identifier = local.production ? "${local.name}-final" : null
  delete_automated_backups  = !local.production

  performance_insights_enabled    = true # free for seven days of history
  enabled_cloudwatch_logs_exports = ["postgresql", "upgrade"]
  monitoring_interval             = local.production ? 60 : 0
  monitoring_role_arn             = local.production ? aws_iam_role.database_monitoring[0].arn : null

  depends_on = [aws_cloudwatch_log_group.database] # else RDS makes them, without an end
}

resource "aws_security_group" "database" {
  name        = "${local.name}-database"
  description = "PostgreSQL: the tasks of Okuru"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${local.name}-database" }
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  for_each = { for process in local.clients.database : process => module.service[process].security_group_id }

  security_group_id            = aws_security_group.database.id
  referenced_security_group_id = each.value
  description                  = each.key
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_vpc_security_group_egress_rule" "database" {
  for_each = { for process in local.clients.database : process => module.service[process].security_group_id }

  security_group_id            = each.value
  referenced_security_group_id = aws_security_group.database.id
  description                  = "Database"
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}
