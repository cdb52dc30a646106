# What a plan refuses, since AWS would take it, or say so only when half of everything is made.

mock_provider "aws" {
  source = "./tests/mocks"
}

# For modules/password; never called.
provider "aws" {
  alias                       = "passwords"
  region                      = "ap-northeast-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

variables {
  environment             = "dev"
  private_network         = false
  database_instance_class = "db.t4g.micro"
  cache_node_type         = "cache.t4g.micro"
  certificate_arn         = "arn:aws:acm:ap-northeast-1:111111111111:certificate/00000000-0000-0000-0000-000000000000"
  image_tag               = "bootstrap"
  github_repository       = "example/okuru"
  secret_versions         = { database = 0, cache = 0 }
}

run "nothing_is_no_value" {
  command = plan

  variables {
    certificate_arn   = ""
    image_tag         = ""
    github_repository = ""
    sender_url        = ""
    alarm_email       = ""
    zones             = []
  }

  expect_failures = [
    var.certificate_arn, var.image_tag, var.github_repository, var.sender_url, var.alarm_email, var.zones,
  ]
}

run "no_region" {
  command = plan

  variables {
    region = ""
  }

  expect_failures = [var.region]
}

# Any repository's main branch; a password in the state and a call without TLS; alarms that nobody reads; a zone less.
run "too_much_or_too_little" {
  command = plan

  variables {
    image_tag         = "latest"
    github_repository = "*/*"
    sender_url        = "http://provider.example.com/gifts"
    alarm_email       = "nobody"
    zones             = ["ap-northeast-1a", "ap-northeast-1a"]
  }

  expect_failures = [var.image_tag, var.github_repository, var.sender_url, var.alarm_email, var.zones]
}

run "of_another_region" {
  command = plan

  variables {
    certificate_arn = "arn:aws:acm:us-east-1:111111111111:certificate/00000000-0000-0000-0000-000000000000"
    image_tag       = "sha256:abc"
    sender_url      = "https://name:password@provider.example.com/gifts"
    zones           = ["us-east-1a", "us-east-1b"]
  }

  expect_failures = [var.certificate_arn, var.image_tag, var.sender_url, var.zones]
}

run "three_zones_of_two_names" {
  command = plan

  variables {
    image_tag = "okuru:tag@sha256:x y"
    zones     = ["ap-northeast-1a", "ap-northeast-1a", "ap-northeast-1c"]
  }

  expect_failures = [var.image_tag, var.zones]
}

run "elsewhere" {
  command = plan

  variables {
    region          = "us-gov-west-1"
    zones           = ["us-gov-west-1a", "us-gov-west-1b"]
    certificate_arn = "arn:aws-us-gov:acm:us-gov-west-1:111111111111:certificate/00000000-0000-0000-0000-000000000000"
    image_tag       = "okuru-1.2.3_rc"
    datadog_enabled = true
    datadog         = { site = "datadoghq.com", external_id = "0123456789abcdef0123456789abcdef" }
  }

  assert {
    condition     = local.datadog_account == "464622532012"
    error_message = "Datadog reads from one account for all its sites but Tokyo's"
  }
}
