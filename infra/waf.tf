# The web ACL before the load balancer, where `waf` is true. 5 USD a month, 1 for each of its three
# rules, and 0.60 per million requests.

locals {
  # Rules of AWS's common set that only count here, because they would refuse what the API is for.
  waf_counted = [
    "SizeRestrictions_BODY",   # refuses bodies over 8 KB; the API takes 1 MB, and checks that itself
    "CrossSiteScripting_BODY", # a text to be shouted may hold a tag; answers are JSON, never a page
    "GenericRFI_BODY",         # URLs with an address for a host are what some capabilities are given
    "NoUserAgent_HEADER",      # programs need not name themselves
  ]
}

resource "aws_wafv2_web_acl" "main" {
  count = var.waf ? 1 : 0

  name        = local.prefix
  description = "Before the load balancer: a rate limit for each address, and AWS's rules"
  scope       = "REGIONAL"

  default_action {
    allow {}
  }

  # Here an answer can be a problem with a header, as the API's own 429 is. What the managed rules
  # refuse gets WAF's plain 403.
  custom_response_body {
    key          = "too-many-requests"
    content_type = "APPLICATION_JSON"
    content = jsonencode({
      type   = "urn:muster:problem:too-many-requests"
      title  = "Too many requests"
      status = 429
      detail = "This address has made more than ${var.waf_rate_limit} requests in five minutes. Wait a minute, then make fewer; GET with `Prefer: wait=20` replaces polling."
    })
  }

  rule {
    name     = "rate"
    priority = 0

    action {
      block {
        custom_response {
          response_code            = 429
          custom_response_body_key = "too-many-requests"

          response_header {
            name  = "Retry-After"
            value = "60"
          }
        }
      }
    }

    statement {
      rate_based_statement {
        limit                 = var.waf_rate_limit
        evaluation_window_sec = 300
        aggregate_key_type    = "IP"
      }
    }

    visibility_config {
      metric_name                = "${local.prefix}-rate"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = false
    }
  }

  rule {
    name     = "common"
    priority = 1

    # As the group's own rules say, but for those below.
    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesCommonRuleSet"

        dynamic "rule_action_override" {
          for_each = local.waf_counted

          content {
            name = rule_action_override.value

            action_to_use {
              count {}
            }
          }
        }
      }
    }

    visibility_config {
      metric_name                = "${local.prefix}-common"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = false
    }
  }

  rule {
    name     = "bad-inputs"
    priority = 2

    override_action {
      none {}
    }

    statement {
      managed_rule_group_statement {
        vendor_name = "AWS"
        name        = "AWSManagedRulesKnownBadInputsRuleSet"
      }
    }

    visibility_config {
      metric_name                = "${local.prefix}-bad-inputs"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = false
    }
  }

  visibility_config {
    metric_name                = local.prefix
    cloudwatch_metrics_enabled = true
    # Samples show whole headers, keys included, to whoever may look at the ACL.
    sampled_requests_enabled = false
  }

  tags = { Name = local.prefix }
}

resource "aws_wafv2_web_acl_association" "main" {
  count = var.waf ? 1 : 0

  resource_arn = aws_lb.main.arn
  web_acl_arn  = aws_wafv2_web_acl.main[0].arn
}

# The log of what was refused or counted: not of every request, that is what access logs are for.
# 0.50 USD per GB.

resource "aws_cloudwatch_log_group" "waf" {
  count = var.waf ? 1 : 0

  # WAF accepts no other beginning.
  name              = "aws-waf-logs-${local.prefix}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

# Written here, for otherwise AWS writes one for the whole account that no destroy takes away.
resource "aws_cloudwatch_log_resource_policy" "waf" {
  count = var.waf ? 1 : 0

  policy_name = "${local.prefix}-waf"
  policy_document = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "WebAclLogs"
      Effect    = "Allow"
      Principal = { Service = "delivery.logs.amazonaws.com" }
      Action    = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource  = "${aws_cloudwatch_log_group.waf[0].arn}:*"
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:logs:${local.region}:${local.account_id}:*" }
      }
    }]
  })
}

resource "aws_wafv2_web_acl_logging_configuration" "main" {
  # The emulator does not know PutLoggingConfiguration.
  count = var.waf && !var.emulated ? 1 : 0

  resource_arn            = aws_wafv2_web_acl.main[0].arn
  log_destination_configs = [aws_cloudwatch_log_group.waf[0].arn]

  # Where the keys are.
  redacted_fields {
    single_header {
      name = "authorization"
    }
  }

  logging_filter {
    default_behavior = "DROP"

    filter {
      behavior    = "KEEP"
      requirement = "MEETS_ANY"

      condition {
        action_condition {
          action = "BLOCK"
        }
      }

      condition {
        action_condition {
          action = "COUNT"
        }
      }
    }
  }

  depends_on = [aws_cloudwatch_log_resource_policy.waf]
}
