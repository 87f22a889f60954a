# What is made for each entry of functions.json, and what it may do. No network: the provider is
# mocked, "apply" fills what AWS would know with made-up values.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment         = "test"
  deletion_protection = false
  certificate_arn     = "arn:aws:acm:us-east-1:123456789012:certificate/1"
  settings = {
    MUSTER_LORAWAN_URL    = "https://provider.example"
    MUSTER_SHOUTCLOUD_URL = "http://shoutcloud.example"
  }
}

# One "apply" for everything that the same variables show: it is what takes the time.
run "the_stack_is_what_functions_json_and_tables_json_say" {
  command = apply

  # Every entry becomes a function behind an alias.

  assert {
    condition     = toset(keys(aws_lambda_function.function)) == toset([for f in jsondecode(file("functions.json")).functions : f.name])
    error_message = "the functions are not those of functions.json"
  }
  assert {
    condition = alltrue([
      for name, f in aws_lambda_function.function :
      f.function_name == "muster-test-${name}" && f.runtime == "provided.al2023" && f.architectures == tolist(["arm64"])
      && f.publish && f.memory_size == local.functions[name].memory_mb && f.timeout == local.functions[name].timeout_seconds
      && length(f.vpc_config[0].subnet_ids) == 2 && f.logging_config[0].log_group == "/aws/lambda/muster-test-${name}"
    ])
    error_message = "a function differs from its entry"
  }
  assert {
    condition     = alltrue([for name, alias in aws_lambda_alias.live : alias.name == "live"]) && toset(keys(aws_lambda_alias.live)) == toset(keys(local.functions))
    error_message = "every function needs the alias live"
  }
  assert {
    condition = alltrue([
      for name, f in aws_lambda_function.function :
      f.reserved_concurrent_executions == (local.functions[name].kind == "http" ? -1 : local.functions[name].stream == null ? 1 : 2)
    ])
    error_message = "workers have their places reserved, HTTP functions have not"
  }
  assert {
    condition = alltrue([
      for name, permission in aws_lambda_permission.alb :
      permission.qualifier == "live" && permission.principal == "elasticloadbalancing.amazonaws.com"
      && permission.source_arn == aws_lb_target_group.function[name].arn
    ]) && toset(keys(aws_lambda_permission.alb)) == toset(keys(local.http_functions))
    error_message = "each HTTP function is called by its own target group, through its alias, and by nothing else"
  }

  # A function gets its own settings, and no token.

  assert {
    condition = aws_lambda_function.function["shout"].environment[0].variables == tomap({
      MUSTER_SHOUTCLOUD_URL = "http://shoutcloud.example"
      MUSTER_ENVIRONMENT    = "muster-test"
      MUSTER_LOG            = "info"
      MUSTER_TABLE_PREFIX   = "muster-test-"
    })
    error_message = "shout gets more or less than what its entry lists"
  }
  assert {
    condition = keys(aws_lambda_function.function["batches-worker"].environment[0].variables) == tolist([
      "MUSTER_ENVIRONMENT", "MUSTER_LOG", "MUSTER_LORAWAN_TOKEN_SECRET", "MUSTER_LORAWAN_URL", "MUSTER_TABLE_PREFIX"
    ])
    error_message = "the worker gets the name of its secret's place, never a value"
  }

  # The policies are exact.

  # The actions on tables: what the entry lists, on that table, and nothing else of DynamoDB but
  # the stream of the worker that has one.
  assert {
    condition = alltrue([
      for name, f in local.functions : toset(flatten([
        for statement in local.policies[name] : [
          for action in flatten([statement.Action]) : [
            for resource in flatten([statement.Resource]) : "${action} ${resource}"
          ]
        ] if strcontains(join(" ", flatten([statement.Action])), "dynamodb:") && statement.Sid != "Stream"
        ])) == toset(flatten(concat([
          for table, actions in f.tables : [
            for action in actions : "dynamodb:${action} arn:aws:dynamodb:us-east-1:123456789012:table/muster-test-${table}"
          ]
          ], [
          for table, actions in f.tables : [
            for index in local.tables[table].indexes :
            "dynamodb:Query arn:aws:dynamodb:us-east-1:123456789012:table/muster-test-${table}/index/${index.name}"
          ] if contains(actions, "Query")
      ])))
    ])
    error_message = "a policy allows more or less on tables than functions.json says"
  }
  assert {
    condition = alltrue([
      for name, f in local.functions :
      length([for statement in local.policies[name] : statement if statement.Sid == "Stream"]) == (f.stream == null ? 0 : 1)
    ])
    error_message = "only a worker with a stream may read one"
  }
  # `*` as a resource stands only for actions that have no ARN, and where something is denied.
  assert {
    condition = alltrue(flatten([
      for name, statements in local.policies : [
        for statement in statements : contains(["DescribeNetwork", "NotTheCode", "Traces"], statement.Sid)
        if contains(flatten([statement.Resource]), "*")
      ]
    ]))
    error_message = "a statement allows something on everything"
  }
  assert {
    condition = alltrue(flatten([
      for name, statements in local.policies : [
        for statement in statements : statement.Effect == "Deny" || !strcontains(join(" ", flatten([statement.Action])), "*")
      ]
    ]))
    error_message = "an action is allowed by a pattern"
  }
  assert {
    condition = alltrue([
      for name, f in local.functions : flatten([
        for statement in local.policies[name] : flatten([statement.Resource]) if statement.Sid == "Secrets"
      ]) == [for secret in f.secrets : aws_secretsmanager_secret.upstream[secret].arn]
    ])
    error_message = "a function reads its own secrets and no other"
  }
  assert {
    condition = alltrue([
      for name in keys(local.functions) : flatten([
        for statement in local.policies[name] : flatten([statement.Resource]) if statement.Sid == "Logs"
      ]) == ["arn:aws:logs:us-east-1:123456789012:log-group:/aws/lambda/muster-test-${name}:*"]
    ])
    error_message = "a function writes to its own log group and no other"
  }
  # What is tested above is what is put on the roles.
  assert {
    condition     = alltrue([for name, policy in aws_iam_role_policy.function : jsondecode(policy.policy).Statement == jsondecode(jsonencode(local.policies[name]))])
    error_message = "a role's policy is not the one of the table"
  }
  assert {
    condition     = !strcontains(jsonencode([for role in aws_iam_role.function : role.assume_role_policy]), "*")
    error_message = "a role can be taken by others than Lambda"
  }

  # Workers are started by a schedule and by new batches.

  assert {
    condition = alltrue([
      for name, schedule in aws_scheduler_schedule.worker :
      schedule.schedule_expression == local.functions[name].schedule
      && schedule.target[0].arn == aws_lambda_alias.live[name].arn
      && schedule.target[0].dead_letter_config[0].arn == aws_sqs_queue.dead_letters.arn
      && schedule.target[0].input == "{\"scheduled_time\":\"<aws.scheduler.scheduled-time>\"}"
    ]) && toset(keys(aws_scheduler_schedule.worker)) == toset(keys(local.worker_functions))
    error_message = "every worker needs a schedule that says which tick it is"
  }
  assert {
    condition = (
      jsondecode(one(one(aws_lambda_event_source_mapping.stream["batches-worker"].filter_criteria).filter).pattern).dynamodb.Keys.sk.S[0].prefix == "BATCH#"
      && aws_lambda_event_source_mapping.stream["batches-worker"].event_source_arn == aws_dynamodb_table.table["batches"].stream_arn
    )
    error_message = "the worker of batches is woken by new batches only"
  }

  # Tables are what the capabilities define.

  assert {
    condition = alltrue([
      for name, table in aws_dynamodb_table.table :
      table.name == "muster-test-${name}" && table.billing_mode == "PAY_PER_REQUEST"
      && table.hash_key == local.tables[name].pk && table.range_key == local.tables[name].sk
      && table.stream_enabled == (local.tables[name].stream != null)
      && one(table.ttl).attribute_name == local.tables[name].ttl && one(table.ttl).enabled
      && jsonencode(sort(table.global_secondary_index[*].name)) == jsonencode(sort([for index in local.tables[name].indexes : index.name]))
    ]) && toset(keys(aws_dynamodb_table.table)) == toset([for table in jsondecode(file("tables.json")) : table.name])
    error_message = "a table differs from tables.json"
  }

  # Every alarm is there and reaches the topic.

  assert {
    condition = alltrue([
      for alarm in aws_cloudwatch_metric_alarm.alarm : alarm.alarm_actions == toset([aws_sns_topic.alarms.arn])
    ])
    error_message = "an alarm tells nobody"
  }
  assert {
    condition = alltrue([
      for name in concat(
        ["load-balancer-5xx", "answers-5xx", "dead-letters", "upstream-lorawan", "upstream-shoutcloud"],
        [for f in keys(local.functions) : "errors-${f}"],
        [for f in keys(local.functions) : "throttles-${f}"],
        [for f in keys(local.worker_functions) : "not-run-${f}"],
      ) : contains(keys(aws_cloudwatch_metric_alarm.alarm), name)
    ])
    error_message = "an alarm is missing"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.alarm["not-run-batches-worker"].treat_missing_data == "breaching"
    error_message = "a worker that never runs leaves no metric, which must count as bad"
  }
}

run "production_is_protected_and_an_old_version_can_be_pinned" {
  command = apply

  variables {
    pinned_versions     = { batches = "3" }
    environment         = "prod"
    deletion_protection = true
  }

  assert {
    condition = (
      alltrue([for table in aws_dynamodb_table.table : table.deletion_protection_enabled && one(table.point_in_time_recovery).enabled])
      && aws_lb.main.enable_deletion_protection
      && alltrue([for secret in aws_secretsmanager_secret.upstream : secret.recovery_window_in_days == 30])
    )
    error_message = "something in prod can be deleted by accident"
  }
  assert {
    condition     = aws_lambda_alias.live["batches"].function_version == "3" && aws_lambda_alias.live["shout"].function_version != "3"
    error_message = "the alias does not point to the pinned version"
  }
}

run "long_names_stay_within_the_limits" {
  command = apply

  variables {
    name        = "a-rather-long-name-x"
    environment = "staging-east"
  }

  assert {
    condition = alltrue(concat(
      [for f in aws_lambda_function.function : length(f.function_name) <= 64],
      [for role in aws_iam_role.function : length(role.name) <= 64],
      [length(aws_iam_role.scheduler.name) <= 64, length(aws_scheduler_schedule_group.workers.name) <= 64],
      [for schedule in aws_scheduler_schedule.worker : length(schedule.name) <= 64],
      [length(aws_sqs_queue.dead_letters.name) <= 80],
    ))
    error_message = "a name is longer than AWS takes"
  }
}

# A run shows each variable that it names to be refused; one value of each at a time.

run "bad_values_are_refused" {
  command = plan

  variables {
    name               = "Muster"
    vpc_cidr           = "10.42.0.0/33"
    availability_zones = ["us-east-1a"]
    nat                = "many"
    domain_name        = "muster.example.com" # without its zone
    certificate_arn    = "a certificate"
    settings           = { MUSTER_LORAWAN_TOKEN = "a token is no setting" }
    pinned_versions    = { nothing = "1" }
    architecture       = "riscv64"
    log_retention_days = 8
    log_level          = "LOUD"
    alarm_email        = "operations"
  }

  expect_failures = [
    var.name, var.vpc_cidr, var.availability_zones, var.nat, var.zone_id, var.certificate_arn, var.settings,
    var.pinned_versions, var.architecture, var.log_retention_days, var.log_level, var.alarm_email,
  ]
}

run "public_addresses_and_prod_without_deletion_protection_are_refused" {
  command = plan

  variables {
    environment         = "prod"
    deletion_protection = false
    vpc_cidr            = "11.0.0.0/16"
    settings            = { MUSTER_NOTHING = "x" }
  }

  expect_failures = [var.deletion_protection, var.vpc_cidr, var.settings]
}

run "a_block_of_addresses_that_is_too_small_is_refused" {
  command = plan

  variables {
    vpc_cidr        = "10.42.0.0/25"
    waf_rate_limit  = 5
    environment     = "Production"
    pinned_versions = { batches = "latest" }
  }

  expect_failures = [var.vpc_cidr, var.waf_rate_limit, var.environment, var.pinned_versions]
}
