terraform {
  # 1.11 is the first version whose S3 backend locks with a file beside the state instead of a table.
  required_version = "~> 1.11"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # The exact version is pinned in .terraform.lock.hcl, with the published sums for all platforms.
      version = "~> 5.100"
    }
  }

  # The rest (bucket, key, region) is given by scripts/apply, which makes the bucket if it is not there.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  # More would only make a wrong permission look like a slow network.
  max_retries = 5
  # An emulator is one host; there is no name under it for each bucket.
  s3_use_path_style = var.emulated

  default_tags {
    tags = local.tags
  }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}
