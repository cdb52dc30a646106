mock_provider "aws" {
  source = "./tests/mocks"
}

# Never called: secret_versions of 0 draw nothing, and what is ephemeral cannot be mocked.
provider "aws" {
  alias                       = "passwords"
  region                      = "ap-northeast-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

run "dev" {
  command = apply

  variables {
    environment             = "dev"
    private_network         = false
    database_instance_class = "db.t4g.micro"
    cache_node_type         = "cache.t4g.micro"
    certificate_arn         = "arn:aws:acm:ap-northeast-1:111111111111:certificate/00000000-0000-0000-0000-000000000000"
    image_tag               = "bootstrap"
    secret_versions         = { database = 0, cache = 0 } # Terraform cannot mock what is ephemeral
    github_repository       = "example/okuru"
  }

  assert {
    condition     = length(aws_nat_gateway.nat) == 0
    error_message = "dev has no NAT gateway"
  }
}
