# One image for all processes.

resource "aws_ecr_repository" "okuru" {
  name                 = local.name
  image_tag_mutability = "IMMUTABLE" # a tag in a task definition means the same image for ever
  force_delete         = !local.production

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "AES256"
  }
}

resource "aws_ecr_lifecycle_policy" "okuru" {
  repository = aws_ecr_repository.okuru.name

  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "What was pushed and never tagged"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "Fifty deploys to roll back to"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 50 }
        action       = { type = "expire" }
      },
    ]
  })
}
