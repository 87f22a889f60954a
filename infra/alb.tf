# The load balancer: TLS, the routing table of functions.json as listener rules, access logs.
# 16.43 USD a month, its two addresses 7.30, and what it carries.

locals {
  # Names of load balancers and target groups have at most 32 characters. A longer one is cut, and
  # a sum of the whole makes it unique again.
  lb_names = {
    for key, name in merge({ "" = local.prefix }, { for name in keys(local.http_functions) : name => "${local.prefix}-${name}" }) :
    key => length(name) <= 32 ? name : "${substr(name, 0, 23)}-${substr(sha256(name), 0, 8)}"
  }

  # A rule takes five values and five wildcards, so a function with more than four paths has several rules, with
  # priorities that follow each other. Two functions' priorities must be far enough apart.
  listener_rules = merge([
    for name, f in local.http_functions : {
      for index, patterns in chunklist(f.patterns, 4) :
      "${name}/${index}" => { function = name, priority = f.listener_priority + index, patterns = patterns }
    }
  ]...)
}

resource "aws_lb" "main" {
  name               = local.lb_names[""]
  load_balancer_type = "application"
  internal           = false
  subnets            = aws_subnet.public[*].id
  security_groups    = [aws_security_group.alb.id]

  drop_invalid_header_fields = true
  desync_mitigation_mode     = "strictest"
  # Longer than any function may take (29 s).
  idle_timeout               = 60
  enable_deletion_protection = var.deletion_protection
  # While the web ACL cannot be asked, requests are refused rather than let through.
  enable_waf_fail_open = false

  access_logs {
    bucket  = aws_s3_bucket.access_logs.id
    enabled = true
  }

  tags = { Name = local.prefix }

  # ELB writes a test object when access logs are switched on.
  depends_on = [aws_s3_bucket_policy.access_logs, aws_s3_bucket_server_side_encryption_configuration.access_logs]
}

resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.main.arn
  port              = 443
  protocol          = "HTTPS"
  certificate_arn   = local.certificate_arn
  # TLS 1.3, and 1.2 with forward secrecy and authenticated encryption only.
  ssl_policy = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"

  default_action {
    type = "fixed-response"

    fixed_response {
      status_code = 404
      # The body is a problem (RFC 9457) as the functions answer it. ELB allows five media types
      # here, and application/problem+json is not among them.
      content_type = "application/json"
      message_body = jsonencode({
        type   = "urn:muster:problem:not-found"
        title  = "Not found"
        status = 404
        detail = "There is nothing at this path. GET /api/v1/openapi.json lists what there is."
      })
    }
  }

  tags = { Name = "${local.prefix}-https" }

  lifecycle {
    precondition {
      condition     = (var.certificate_arn == null) != (var.domain_name == null)
      error_message = "Give either certificate_arn, or domain_name and zone_id: the load balancer needs exactly one certificate. scripts/apply makes a self-signed one where neither is given."
    }

    precondition {
      condition     = length(distinct([for rule in local.listener_rules : rule.priority])) == length(local.listener_rules)
      error_message = "Two listener rules have the same priority. A function with more than four paths takes several, beginning with its listener_priority: leave more room between the functions in functions.json."
    }
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.main.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"

    redirect {
      status_code = "HTTP_301"
      protocol    = "HTTPS"
      port        = "443"
    }
  }

  tags = { Name = "${local.prefix}-http" }

  # An emulator has one port for both, and answers it as the listener that was made first.
  depends_on = [aws_lb_listener.https]
}

# No health checks: they would be invocations that cost and prove nothing, since Lambda starts a
# function wherever it can.
resource "aws_lb_target_group" "function" {
  for_each = local.http_functions

  name        = local.lb_names[each.key]
  target_type = "lambda"
  # Without this a header or query parameter that comes twice would lose all but its last value.
  lambda_multi_value_headers_enabled = true

  tags = { Name = "${local.prefix}-${each.key}" }
}

resource "aws_lb_target_group_attachment" "function" {
  for_each = local.http_functions

  target_group_arn = aws_lb_target_group.function[each.key].arn
  target_id        = aws_lambda_alias.live[each.key].arn

  # ELB refuses a function that it may not call.
  depends_on = [aws_lambda_permission.alb]
}

resource "aws_lb_listener_rule" "function" {
  for_each = local.listener_rules

  listener_arn = aws_lb_listener.https.arn
  priority     = each.value.priority

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.function[each.value.function].arn
  }

  condition {
    path_pattern {
      values = each.value.patterns
    }
  }

  tags = { Name = "${local.prefix}-${each.key}" }

  lifecycle {
    precondition {
      condition     = length(regexall("[*?]", join("", each.value.patterns))) <= 5
      error_message = "The paths ${join(", ", each.value.patterns)} have more than the five wildcards that a listener rule may have. Use one for everything below a path."
    }
  }
}

# Access logs: one line for each request, without its headers, so without keys.

resource "aws_s3_bucket" "access_logs" {
  # Bucket names are shared by all accounts and regions, hence the sum of both.
  bucket = "${local.prefix}-access-logs-${substr(sha256("${local.account_id}/${local.region}"), 0, 12)}"
  # Goes with its logs, unless it is protected.
  force_destroy = !var.deletion_protection

  tags = { Name = "${local.prefix}-access-logs" }
}

resource "aws_s3_bucket_public_access_block" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# With S3's own key even where there is a customer key: ELB cannot write access logs with KMS.
resource "aws_s3_bucket_server_side_encryption_configuration" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

# A log that is deleted or written over can be had back for a week. Each is written once, so this
# costs nothing.
resource "aws_s3_bucket_versioning" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  rule {
    id     = "expire"
    status = "Enabled"

    filter {}

    expiration {
      days = var.access_log_retention_days
    }

    noncurrent_version_expiration {
      noncurrent_days = 7
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }

  # What expiry leaves behind in a bucket with versions.
  rule {
    id     = "clear-delete-markers"
    status = "Enabled"

    filter {}

    expiration {
      expired_object_delete_marker = true
    }
  }

  depends_on = [aws_s3_bucket_versioning.access_logs]
}

resource "aws_s3_bucket_policy" "access_logs" {
  bucket = aws_s3_bucket.access_logs.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # The service's name is right in every region. Before August 2022 each region had an account
        # of its own instead, which newer regions do not have (aws_elb_service_account).
        Sid       = "LoadBalancersLogs"
        Effect    = "Allow"
        Principal = { Service = "logdelivery.elasticloadbalancing.amazonaws.com" }
        Action    = "s3:PutObject"
        # Load balancers of this account only: the account is a part of the path that ELB chooses.
        # It is not known to pass aws:SourceArn, so no condition asks for one.
        Resource = "${aws_s3_bucket.access_logs.arn}/AWSLogs/${local.account_id}/*"
      },
      {
        Sid       = "OnlyTls"
        Effect    = "Deny"
        Principal = "*"
        Action    = "s3:*"
        Resource  = [aws_s3_bucket.access_logs.arn, "${aws_s3_bucket.access_logs.arn}/*"]
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ]
  })

  # S3 refuses two changes of a bucket's access at the same time.
  depends_on = [aws_s3_bucket_public_access_block.access_logs, aws_s3_bucket_ownership_controls.access_logs]
}
