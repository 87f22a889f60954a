# The load balancer: routes, TLS, names, logs, web ACL. No network: the provider is mocked; "apply"
# fills ids with made-up values.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment         = "test"
  deletion_protection = false
  certificate_arn     = "arn:aws:acm:us-east-1:123456789012:certificate/1"
}

run "every_route_reaches_its_own_function_and_the_rest_is_a_404" {
  command = plan

  # Routes. The rule that matches with the lowest number decides, and `*` matches everything, slashes
  # included.

  assert {
    condition = alltrue(flatten([
      for f in jsondecode(file("functions.json")).functions : [
        for path in concat(f.routes[*].path, f.kind == "http" ? ["/healthz/${f.name}"] : []) : contains(
          [for key, rule in aws_lb_listener_rule.function : rule.priority if split("/", key)[0] == f.name],
          min([
            for rule in aws_lb_listener_rule.function : rule.priority
            if anytrue([
              for pattern in one(rule.condition).path_pattern[0].values :
              can(regex("^${replace(replace(pattern, ".", "\\."), "*", ".*")}$", replace(path, "/\\{[^}]*\\}/", "x")))
            ])
          ]...)
        )
      ]
    ]))
    error_message = "a route of functions.json is answered by another function"
  }

  # Nor does a path reach one that only has a path like it.
  assert {
    condition = alltrue([
      for path, owner in {
        "/healthz/services"          = "services", "/healthz/services-worker" = "", "/api/v1/unhealthy-services" = "services", "/api/v1/unhealthy-services/x" = "",
        "/api/v1/servers"            = "services", "/api/v1/servers/10.58.1.121/history" = "services", "/api/v1/servers/2001:db8::1/history" = "services",
        "/api/v1/services"           = "services", "/api/v1/services/AuthService" = "services", "/api/v1/services/AuthService/history" = "services",
        "/api/v1/alerts"             = "services", "/api/v1/alerts/x/silence" = "services", "/api/v1/alert" = "", "/api/v1/serverside" = "", "/api/v1/services-" = "",
        "/api/v1/deployments"        = "autoscaler", "/api/v1/deployments/eu-1/decisions" = "autoscaler", "/api/v1/deployments/a%2Fb/policy" = "autoscaler",
        "/api/v1/deployments-policy" = "autoscaler", "/api/v1/deployments-policy/x" = "", "/api/v1/deployments-x" = "", "/api/v1/deployment" = "",
        "/healthz/autoscaler"        = "autoscaler", "/healthz/autoscaler-worker" = "",
        "/api/v1/devices"            = "devices", "/api/v1/devices/plan" = "devices", "/api/v1/devices/x/actions" = "devices", "/api/v1/device" = "", "/api/v1/devices-x" = "",
        "/api/v1/catalog/plans"      = "devices", "/api/v1/catalog/operating-systems" = "devices", "/api/v1/catalog" = "", "/api/v1/catalogs/plans" = "",
        "/healthz/devices"           = "devices", "/healthz/devices-worker" = "",
        "/api/v1/batch"              = "batches", "/api/v1/batches/x" = "batches", "/api/v1/shout" = "shout", "/api/v1/shout/x" = "", "/healthz" = "shout",
      } :
      join(" ", distinct([
        for key, rule in aws_lb_listener_rule.function : split("/", key)[0]
        if anytrue([
          for pattern in one(rule.condition).path_pattern[0].values : can(regex("^${replace(replace(pattern, ".", "\\."), "*", ".*")}$", path))
        ])
      ])) == owner
    ])
    error_message = "a path reaches another function than its own, or one though it is nobody's"
  }
  assert {
    condition     = { for key, rule in local.listener_rules : key => rule.priority if rule.function == "services" } == { "services/0" = 300, "services/1" = 301 }
    error_message = "the eight paths of services take two rules"
  }
  assert {
    condition     = { for key, rule in local.listener_rules : key => rule.priority if rule.function == "autoscaler" } == { "autoscaler/0" = 400 }
    error_message = "the four paths of autoscaler take one rule"
  }
  assert {
    condition     = { for key, rule in local.listener_rules : key => rule.priority if rule.function == "devices" } == { "devices/0" = 500 }
    error_message = "the four paths of devices take one rule"
  }

  assert {
    condition = alltrue([
      for f in jsondecode(file("functions.json")).functions :
      toset([for key, rule in aws_lb_listener_rule.function : rule.priority if split("/", key)[0] == f.name])
      == toset([for index in range(ceil(length(local.http_functions[f.name].patterns) / 4)) : f.listener_priority + index])
      if f.kind == "http"
    ])
    error_message = "a function's rules do not follow each other from its listener_priority"
  }
  assert {
    condition     = length(distinct([for rule in aws_lb_listener_rule.function : rule.priority])) == length(aws_lb_listener_rule.function)
    error_message = "two rules have the same priority"
  }
  # ELB's quotas that cannot be raised: five values and five wildcards in a rule. (100 rules can.)
  assert {
    condition = alltrue([
      for rule in aws_lb_listener_rule.function :
      length(one(rule.condition).path_pattern[0].values) <= 5
      && length(regexall("[*?]", join("", one(rule.condition).path_pattern[0].values))) <= 5
    ]) && length(aws_lb_listener_rule.function) <= 100
    error_message = "more in a rule than ELB takes"
  }
  assert {
    condition     = toset([for key in keys(aws_lb_listener_rule.function) : split("/", key)[0]]) == toset([for f in jsondecode(file("functions.json")).functions : f.name if f.kind == "http"])
    error_message = "HTTP functions have rules, workers have none"
  }

  assert {
    condition = (
      aws_lb_listener.https.default_action[0].type == "fixed-response"
      && aws_lb_listener.https.default_action[0].fixed_response[0].status_code == "404"
      && aws_lb_listener.https.default_action[0].fixed_response[0].content_type == "application/json"
      && length(aws_lb_listener.https.default_action[0].fixed_response[0].message_body) <= 1024
    )
    error_message = "the default must be a 404 that ELB accepts"
  }
  assert {
    condition = (
      toset(keys(jsondecode(aws_lb_listener.https.default_action[0].fixed_response[0].message_body))) == toset(["detail", "status", "title", "type"])
      && jsondecode(aws_lb_listener.https.default_action[0].fixed_response[0].message_body).type == "urn:muster:problem:not-found"
      && jsondecode(aws_lb_listener.https.default_action[0].fixed_response[0].message_body).status == 404
    )
    error_message = "the default must look like the functions' own 404"
  }

  # Safety

  assert {
    condition = (
      aws_lb_listener.https.port == 443 && aws_lb_listener.https.protocol == "HTTPS"
      && aws_lb_listener.https.ssl_policy == "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"
      && aws_lb_listener.https.certificate_arn == "arn:aws:acm:us-east-1:123456789012:certificate/1"
    )
    error_message = "HTTPS with TLS 1.2 and 1.3 and the given certificate"
  }

  assert {
    condition = (
      aws_lb_listener.http.port == 80 && aws_lb_listener.http.protocol == "HTTP"
      && aws_lb_listener.http.default_action[0].type == "redirect"
      && aws_lb_listener.http.default_action[0].redirect[0].status_code == "HTTP_301"
      && aws_lb_listener.http.default_action[0].redirect[0].protocol == "HTTPS"
      && aws_lb_listener.http.default_action[0].redirect[0].port == "443"
    )
    error_message = "port 80 only redirects, for good, to HTTPS"
  }

  assert {
    condition     = aws_lb.main.drop_invalid_header_fields && aws_lb.main.desync_mitigation_mode == "strictest" && !aws_lb.main.enable_waf_fail_open
    error_message = "the load balancer lets through what it should not"
  }
  assert {
    condition     = alltrue([for f in jsondecode(file("functions.json")).functions : aws_lb.main.idle_timeout > f.timeout_seconds if f.kind == "http"])
    error_message = "the load balancer gives up before a function does"
  }

  # Names and leftovers

  assert {
    condition     = aws_lb.main.name == "muster-test" && aws_lb_target_group.function["shout"].name == "muster-test-shout"
    error_message = "names within the limit are not cut"
  }

  assert {
    condition     = length(aws_acm_certificate.main) + length(aws_acm_certificate_validation.main) + length(aws_route53_record.validation) + length(aws_route53_record.api) == 0
    error_message = "with certificate_arn no certificate and no record is made"
  }

  assert {
    condition     = !aws_lb.main.enable_deletion_protection && aws_s3_bucket.access_logs.force_destroy
    error_message = "without deletion_protection a destroy must succeed"
  }
}

run "functions_are_called_by_alias_and_access_logs_kept_private" {
  command = apply

  variables {
    access_log_retention_days = 45
  }

  assert {
    condition = toset(keys(aws_lb_target_group.function)) == toset(keys(local.http_functions)) && alltrue([
      for group in aws_lb_target_group.function : group.target_type == "lambda" && group.lambda_multi_value_headers_enabled
    ])
    error_message = "each HTTP function needs a lambda target group with multi-value headers"
  }
  assert {
    condition     = alltrue([for name, attachment in aws_lb_target_group_attachment.function : attachment.target_id == aws_lambda_alias.live[name].arn])
    error_message = "a target group must call the alias, not a version"
  }

  assert {
    condition     = aws_lb.main.access_logs[0].enabled && aws_lb.main.access_logs[0].bucket == aws_s3_bucket.access_logs.id
    error_message = "the load balancer's access logs go to their bucket"
  }
  # ELB cannot write with KMS.
  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.access_logs.rule).apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"
    error_message = "the bucket must be encrypted with S3's own key"
  }
  assert {
    condition = (
      aws_s3_bucket_public_access_block.access_logs.block_public_acls && aws_s3_bucket_public_access_block.access_logs.block_public_policy
      && aws_s3_bucket_public_access_block.access_logs.ignore_public_acls && aws_s3_bucket_public_access_block.access_logs.restrict_public_buckets
      && one(aws_s3_bucket_ownership_controls.access_logs.rule).object_ownership == "BucketOwnerEnforced"
    )
    error_message = "the bucket must be closed to the public"
  }
  assert {
    condition     = aws_s3_bucket_lifecycle_configuration.access_logs.rule[0].status == "Enabled" && aws_s3_bucket_lifecycle_configuration.access_logs.rule[0].expiration[0].days == 45
    error_message = "access logs expire after access_log_retention_days"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_s3_bucket_policy.access_logs.policy).Statement : statement.Resource if statement.Effect == "Allow"
    ] == ["${aws_s3_bucket.access_logs.arn}/AWSLogs/123456789012/*"]
    error_message = "only this account's load balancers may write"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_s3_bucket_policy.access_logs.policy).Statement : "${statement.Principal.Service} ${statement.Action}" if statement.Effect == "Allow"
    ] == ["logdelivery.elasticloadbalancing.amazonaws.com s3:PutObject"]
    error_message = "only the log delivery may write, and it may do nothing else"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_s3_bucket_policy.access_logs.policy).Statement :
      "${statement.Principal} ${statement.Action} ${jsonencode(statement.Condition)}" if statement.Effect == "Deny"
    ] == ["* s3:* {\"Bool\":{\"aws:SecureTransport\":\"false\"}}"]
    error_message = "nobody may use the bucket without TLS"
  }
}

run "a_stack_without_a_certificate_is_refused" {
  command = plan

  variables {
    certificate_arn = null
  }

  expect_failures = [aws_lb_listener.https]
}

run "two_certificates_are_refused" {
  command = plan

  variables {
    domain_name = "muster.example.com"
    zone_id     = "Z0123456789ABCDEFGHIJ"
  }

  expect_failures = [aws_lb_listener.https]
}

run "a_protected_stack_with_a_domain_gets_a_certificate_and_a_record" {
  command = plan

  variables {
    certificate_arn     = null
    domain_name         = "muster.example.com"
    zone_id             = "Z0123456789ABCDEFGHIJ"
    deletion_protection = true
  }

  assert {
    condition     = aws_acm_certificate.main[0].domain_name == "muster.example.com" && aws_acm_certificate.main[0].validation_method == "DNS"
    error_message = "a certificate for the domain, validated by DNS"
  }
  assert {
    condition = (
      aws_route53_record.validation[0].zone_id == "Z0123456789ABCDEFGHIJ" && length(aws_acm_certificate_validation.main) == 1
      && aws_route53_record.api[0].name == "muster.example.com" && aws_route53_record.api[0].type == "A"
      && aws_route53_record.api[0].zone_id == "Z0123456789ABCDEFGHIJ"
    )
    error_message = "the zone gets the validation's record and the API's"
  }

  assert {
    condition     = aws_lb.main.enable_deletion_protection && !aws_s3_bucket.access_logs.force_destroy
    error_message = "with deletion_protection the load balancer and its logs stay"
  }
}

# The provider refuses a name that is too long or of the wrong form, so the plan itself is the test.
run "long_names_stay_within_the_limits" {
  command = plan

  variables {
    name        = "a-rather-long-name-x" # 20
    environment = "environmen-x"         # 12
  }

  assert {
    condition     = alltrue([for name in concat([aws_lb.main.name], [for group in aws_lb_target_group.function : group.name]) : startswith(name, "a-rather-long-name-x-en")])
    error_message = "a long name must still tell what it belongs to"
  }
  assert {
    condition     = length(distinct([for group in aws_lb_target_group.function : group.name])) == length(aws_lb_target_group.function)
    error_message = "two target groups got the same name"
  }
}

run "the_web_acl_limits_addresses_and_lets_large_bodies_pass" {
  command = plan

  variables {
    waf            = true
    waf_rate_limit = 500
  }

  assert {
    condition = { for rule in aws_wafv2_web_acl.main[0].rule : rule.name => rule.priority } == {
      rate = 0, common = 1, bad-inputs = 2
    }
    error_message = "the web ACL needs a rate limit, the common rules and the known bad inputs, in this order"
  }
  assert {
    condition = alltrue([
      for rule in aws_wafv2_web_acl.main[0].rule :
      rule.statement[0].rate_based_statement[0].limit == 500 && rule.statement[0].rate_based_statement[0].aggregate_key_type == "IP"
      && rule.action[0].block[0].custom_response[0].response_code == 429
      if rule.name == "rate"
    ])
    error_message = "more than waf_rate_limit requests of one address must get a 429"
  }
  assert {
    condition = alltrue([
      for rule in aws_wafv2_web_acl.main[0].rule :
      contains([for override in rule.statement[0].managed_rule_group_statement[0].rule_action_override : override.name if length(override.action_to_use[0].count) == 1], "SizeRestrictions_BODY")
      if rule.name == "common"
    ])
    error_message = "the API takes bodies up to 1 MB; SizeRestrictions_BODY refuses them from 8 KB"
  }
  assert {
    condition = alltrue(flatten([
      aws_wafv2_web_acl.main[0].visibility_config[0].sampled_requests_enabled == false,
      [for rule in aws_wafv2_web_acl.main[0].rule : rule.visibility_config[0].sampled_requests_enabled == false],
      aws_wafv2_web_acl_logging_configuration.main[0].redacted_fields[0].single_header[0].name == "authorization",
    ]))
    error_message = "keys must not be shown in samples or logs"
  }
  assert {
    condition     = startswith(aws_cloudwatch_log_group.waf[0].name, "aws-waf-logs-") && length(aws_wafv2_web_acl_association.main) == 1
    error_message = "the web ACL must stand before the load balancer and write a log"
  }
}

run "without_waf_nothing_of_it_is_made" {
  command = plan

  variables {
    waf = false
  }

  assert {
    condition = (
      length(aws_wafv2_web_acl.main) + length(aws_wafv2_web_acl_association.main) + length(aws_cloudwatch_log_group.waf)
      + length(aws_cloudwatch_log_resource_policy.waf) + length(aws_wafv2_web_acl_logging_configuration.main)
    ) == 0
    error_message = "waf = false must cost nothing"
  }
}

# The exceptions are few, and never met elsewhere.
run "an_emulator_goes_without_acls_and_waf_logs_only" {
  command = plan

  variables {
    emulated = true
  }

  assert {
    condition     = length(aws_network_acl.tier) == 0 && length(aws_wafv2_web_acl_logging_configuration.main) == 0
    error_message = "the emulator would fail on these"
  }
  assert {
    condition     = length(aws_wafv2_web_acl.main) == 1 && length(aws_flow_log.main) == 1 && length(aws_lb_listener_rule.function) > 0
    error_message = "the rehearsal must exercise the rest"
  }
}
