# What modules/service refuses, since Fargate would.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name          = "process"
  prefix        = "okuru-test"
  cluster_arn   = "arn:aws:ecs:ap-northeast-1:111111111111:cluster/mock"
  network       = { vpc_id = "vpc-0", subnet_ids = ["subnet-0"], public = false }
  image         = { reference = "okuru:1", repository_arn = "arn:aws:ecr:ap-northeast-1:111111111111:repository/mock" }
  command       = "okuru relay"
  cpu           = 256
  memory        = 512
  desired_count = 1
  environment   = {}
  log_group     = { name = "process", arn = "arn:aws:logs:ap-northeast-1:111111111111:log-group:process" }
}

run "too_little_memory" {
  command = plan

  module {
    source = "./modules/service"
  }

  variables {
    memory       = 511
    stop_timeout = 121
  }

  expect_failures = [var.memory, var.stop_timeout]
}

run "too_much_memory" {
  command = plan

  module {
    source = "./modules/service"
  }

  variables {
    memory = 2049
  }

  expect_failures = [var.memory]
}

run "no_such_cpu" {
  command = plan

  module {
    source = "./modules/service"
  }

  variables {
    cpu    = 300
    memory = 1024
  }

  expect_failures = [var.memory]
}
