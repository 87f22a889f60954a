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
    MUSTER_LORAWAN_URL             = "https://provider.example"
    MUSTER_SHOUTCLOUD_URL          = "http://shoutcloud.example"
    MUSTER_CPX_URL                 = "https://cpx.example"
    MUSTER_MIN_HEALTHY             = "3"
    MUSTER_DEPLOYMENTS_URL         = "https://deployments.example"
    MUSTER_DEPLOYMENTS_CONCURRENCY = "64"
    MUSTER_PACKET_URL              = "https://devices.example"
    MUSTER_PACKET_PROJECT          = "p-1"
    MUSTER_PACKET_SWEEP            = "delete"
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
  # The handler is all that the functions of one capability have to tell them apart by.
  assert {
    condition = {
      for name, f in aws_lambda_function.function : name => "${basename(f.filename)} ${f.handler}"
      } == {
      shout             = "shout.zip http"
      batches           = "batches.zip http"
      batches-worker    = "batches.zip worker"
      services          = "services.zip http"
      services-worker   = "services.zip worker"
      autoscaler        = "autoscaler.zip http"
      autoscaler-worker = "autoscaler.zip worker"
      devices           = "devices.zip http"
      devices-worker    = "devices.zip worker"
    }
    error_message = "a function runs another zip than its package's, or is told that it is another function"
  }
  assert {
    condition     = alltrue([for name, alias in aws_lambda_alias.live : alias.name == "live"]) && toset(keys(aws_lambda_alias.live)) == toset(keys(local.functions))
    error_message = "every function needs the alias live"
  }
  assert {
    condition = {
      for name, f in aws_lambda_function.function : name => f.reserved_concurrent_executions
      if f.reserved_concurrent_executions != -1
    } == { batches-worker = 2, services-worker = 1, autoscaler-worker = 2, devices-worker = 2 }
    error_message = "workers have their places reserved, those whose runs fill their minutes two; HTTP functions have none"
  }
  # A run that may outlast the minute meets the next tick: that needs a place.
  assert {
    condition     = alltrue([for name, f in local.worker_functions : f.concurrency == 2 || (f.timeout_seconds < 58 && f.stream == null)])
    error_message = "a worker's runs fill their minutes, or a stream starts it too, and it has one place"
  }
  assert {
    condition = {
      for name, config in aws_lambda_function_event_invoke_config.worker :
      name => "${config.qualifier} ${config.maximum_retry_attempts} ${config.maximum_event_age_in_seconds}"
    } == { batches-worker = "live 1 120", services-worker = "live 1 120", autoscaler-worker = "live 0 120", devices-worker = "live 1 120" }
    error_message = "a failed run is tried again once, but for the autoscaler's, whose next tick has come by then"
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
  assert {
    condition = aws_lambda_function.function["services-worker"].environment[0].variables == tomap({
      MUSTER_CPX_URL                   = "https://cpx.example"
      MUSTER_MIN_HEALTHY               = "3"
      MUSTER_ALERTS_WEBHOOK_KEY_SECRET = aws_secretsmanager_secret.upstream["MUSTER_ALERTS_WEBHOOK_KEY"].arn
      MUSTER_ALERTS_TOPIC_ARN          = aws_sns_topic.alarms.arn
      MUSTER_ENVIRONMENT               = "muster-test"
      MUSTER_LOG                       = "info"
      MUSTER_TABLE_PREFIX              = "muster-test-"
    })
    error_message = "services-worker gets more or less than what its entry lists"
  }
  # The two have to agree about what is healthy.
  assert {
    condition = toset(local.functions["services-worker"].environment) == setunion(
      local.functions["services"].environment, ["MUSTER_ALERTS_WEBHOOK_URL"]
    )
    error_message = "services and services-worker read the fleet with different settings"
  }

  # Both, and nothing besides: what explain answers is what the worker would do.
  assert {
    condition = alltrue([
      for name in ["autoscaler", "autoscaler-worker"] : aws_lambda_function.function[name].environment[0].variables == tomap({
        MUSTER_DEPLOYMENTS_URL         = "https://deployments.example"
        MUSTER_DEPLOYMENTS_CONCURRENCY = "64"
        MUSTER_ENVIRONMENT             = "muster-test"
        MUSTER_LOG                     = "info"
        MUSTER_TABLE_PREFIX            = "muster-test-"
      })
    ]) && local.functions["autoscaler"].environment == local.functions["autoscaler-worker"].environment
    error_message = "autoscaler and autoscaler-worker do not read the deployments with the same settings"
  }

  # The worker's two settings are about what it does by itself. The tag follows from the stack's name:
  # the sweep of one stack must not find another's machines.
  assert {
    condition = (
      aws_lambda_function.function["devices"].environment[0].variables == tomap({
        MUSTER_PACKET_URL          = "https://devices.example"
        MUSTER_PACKET_PROJECT      = "p-1"
        MUSTER_PACKET_TAG          = "muster-test"
        MUSTER_PACKET_TOKEN_SECRET = aws_secretsmanager_secret.upstream["MUSTER_PACKET_TOKEN"].arn
        MUSTER_ENVIRONMENT         = "muster-test"
        MUSTER_LOG                 = "info"
        MUSTER_TABLE_PREFIX        = "muster-test-"
      })
      && aws_lambda_function.function["devices-worker"].environment[0].variables
      == tomap(merge(aws_lambda_function.function["devices"].environment[0].variables, { MUSTER_PACKET_SWEEP = "delete" }))
      && toset(local.functions["devices-worker"].environment)
      == setunion(local.functions["devices"].environment, ["MUSTER_PACKET_SWEEP", "MUSTER_PACKET_DEAD_MANS_SWITCH"])
    )
    error_message = "devices and devices-worker do not have the same vendor, or more or less than their entries list"
  }
  assert {
    condition = [
      for name, f in aws_lambda_function.function : name if contains(keys(f.environment[0].variables), "MUSTER_PACKET_TAG")
    ] == ["devices", "devices-worker"]
    error_message = "a function gets a setting that its entry does not list"
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
  # One function publishes, to one topic, and only it is told where.
  assert {
    condition = toset(flatten([
      for name, statements in local.policies : [
        for statement in statements : [
          for action in flatten([statement.Action]) : [
            for resource in flatten([statement.Resource]) : "${statement.Effect} ${name}: ${action} ${resource}"
          ]
        ] if strcontains(join(" ", flatten([statement.Action])), "sns:")
      ]
    ])) == toset(["Allow services-worker: sns:Publish ${aws_sns_topic.alarms.arn}"])
    error_message = "services-worker may publish to the alarms' topic; no other function, topic or action"
  }
  assert {
    condition = [
      for name, f in aws_lambda_function.function : name if contains(values(f.environment[0].variables), aws_sns_topic.alarms.arn)
    ] == ["services-worker"]
    error_message = "a function knows a topic that it may not publish to"
  }
  # scripts/rehearse tries what these two say.
  assert {
    condition = (
      output.topics == { alarms = aws_sns_topic.alarms.arn }
      && { for name, f in output.functions : name => f.topics if length(f.topics) > 0 } == { services-worker = ["alarms"] }
    )
    error_message = "the outputs do not say who may publish where"
  }
  assert {
    condition = aws_sns_topic.alarms.name == "muster-test-alarms" && [
      for statement in jsondecode(aws_sns_topic_policy.alarms.policy).Statement :
      "${statement.Effect} ${jsonencode(statement.Principal)} ${statement.Action} ${jsonencode(statement.Condition)}"
    ] == ["Allow {\"Service\":\"cloudwatch.amazonaws.com\"} sns:Publish {\"StringEquals\":{\"aws:SourceAccount\":\"123456789012\"}}"]
    error_message = "the topic is open to others than this account's alarms"
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
  assert {
    condition = (
      jsondecode(one(one(aws_lambda_event_source_mapping.stream["devices-worker"].filter_criteria).filter).pattern)
      == { eventName = ["INSERT"], dynamodb = { Keys = { pk = { S = ["WORK"] } } } }
      && aws_lambda_event_source_mapping.stream["devices-worker"].event_source_arn == aws_dynamodb_table.table["devices"].stream_arn
      && toset(keys(aws_lambda_event_source_mapping.stream)) == toset(["batches-worker", "devices-worker"])
    )
    error_message = "the worker of devices is woken by what comes onto its list, and by nothing else"
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

  assert {
    condition     = aws_dynamodb_table.table["services"].stream_enabled == false && aws_scheduler_schedule.worker["services-worker"].schedule_expression == "rate(1 minute)"
    error_message = "services-worker is started each minute and by nothing else"
  }
  # A run is over before the next one begins: they need no second place.
  assert {
    condition     = aws_lambda_function.function["services-worker"].timeout < 60 && aws_lambda_function.function["services-worker"].reserved_concurrent_executions == 1
    error_message = "two runs of services-worker may meet"
  }
  # Two ticks, half a minute apart, the second of which has 25 seconds and a little for its last writes.
  assert {
    condition = (
      aws_lambda_function.function["autoscaler-worker"].timeout > 30 + 25 && aws_lambda_function.function["autoscaler-worker"].timeout < 60
      && aws_scheduler_schedule.worker["autoscaler-worker"].schedule_expression == "rate(1 minute)"
      && aws_dynamodb_table.table["autoscaler"].stream_enabled == false
    )
    error_message = "autoscaler-worker is started each minute, by nothing else, and has time for both of its ticks"
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
        ["load-balancer-5xx", "answers-5xx", "dead-letters"],
        [for upstream in ["cpx", "deployments", "lorawan", "packet", "shoutcloud"] : "upstream-${upstream}"],
        ["scaling-frozen", "deployments-not-reached", "deployments-list-old", "deployments-unreadable"],
        ["device-teardown-overdue", "device-orphans"],
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
  # About what the worker measures, by the names and dimensions that it does so with, by the minute.
  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.alarm : name =>
      "${alarm.namespace} ${alarm.metric_name} ${alarm.statistic} ${alarm.comparison_operator} ${alarm.threshold}: ${alarm.datapoints_to_alarm} of ${alarm.evaluation_periods} x ${alarm.period} s, ${alarm.treat_missing_data}"
      if contains(keys(local.scaling_alarms), name)
      } == {
      scaling-frozen          = "muster ScalingFrozen Maximum GreaterThanOrEqualToThreshold 1: 10 of 15 x 60 s, notBreaching"
      deployments-not-reached = "muster DeploymentsNotReached Maximum GreaterThanOrEqualToThreshold 1: 5 of 10 x 60 s, notBreaching"
      deployments-list-old    = "muster DeploymentsListAge Maximum GreaterThanOrEqualToThreshold 600000: 5 of 5 x 60 s, notBreaching"
      deployments-unreadable  = "muster DeploymentsUnreadable Maximum GreaterThanOrEqualToThreshold 1: 30 of 30 x 60 s, notBreaching"
      } && alltrue([
        for name in keys(local.scaling_alarms) :
        aws_cloudwatch_metric_alarm.alarm[name].dimensions == tomap({ Environment = "muster-test", Function = "muster-test-autoscaler-worker" })
    ])
    error_message = "an alarm about scaling looks at another metric than the worker's, or at another time"
  }
  # A sweep is a quarter of an hour after the last one, and a run tells at its end.
  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.alarm : name =>
      "${alarm.namespace} ${alarm.metric_name} ${alarm.statistic} ${alarm.comparison_operator} ${alarm.threshold}: ${alarm.datapoints_to_alarm} of ${alarm.evaluation_periods} x ${alarm.period} s, ${alarm.treat_missing_data}"
      if contains(keys(local.device_alarms), name)
      } == {
      device-teardown-overdue = "muster DeviceTeardownsOverdue Maximum GreaterThanOrEqualToThreshold 1: 1 of 2 x 300 s, notBreaching"
      device-orphans          = "muster DeviceOrphans Maximum GreaterThanOrEqualToThreshold 1: 1 of 3 x 900 s, notBreaching"
      } && alltrue([
        for name in keys(local.device_alarms) :
        aws_cloudwatch_metric_alarm.alarm[name].dimensions == tomap({ Environment = "muster-test", Function = "muster-test-devices-worker" })
    ])
    error_message = "an alarm about machines looks at another metric than the worker's, or at another time"
  }
  # All others look at five minutes as one.
  assert {
    condition = alltrue([
      for name, alarm in aws_cloudwatch_metric_alarm.alarm : alarm.period == 300 && alarm.evaluation_periods == 1
      if !contains(concat(keys(local.scaling_alarms), keys(local.device_alarms)), name)
    ])
    error_message = "an alarm's time has changed"
  }
  # No alarm about a webhook that nobody asked for.
  assert {
    condition     = aws_cloudwatch_metric_alarm.alarm["upstream-cpx"].dimensions.Upstream == "cpx" && !contains(keys(aws_cloudwatch_metric_alarm.alarm), "upstream-alerts_webhook")
    error_message = "an upstream has an alarm where its URL is set, and by the name that its metrics have"
  }

  # The dashboard finds what the functions measure.

  assert {
    condition = toset([
      for widget in jsondecode(aws_cloudwatch_dashboard.main.dashboard_body).widgets : widget.properties.metrics[0][0].expression
      if can(regex("^(Servers|Alerts firing|Deployments|Hosts|Minutes without|Age of the list|Devices|Machines)", widget.properties.title))
      ]) == toset([
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"ServersSeen\" OR \"ServersUnknown\")', 'Maximum', 60)",
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"AlertsFiring\")', 'Maximum', 60)",
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"DeploymentsSeen\" OR \"DeploymentsShort\" OR \"DeploymentsUnreadable\" OR \"DeploymentsNotReached\")', 'Maximum', 60)",
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"HostsAdded\" OR \"HostsRemoved\" OR \"ScalingsUnknown\")', 'Sum', 60)",
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"ScalingFrozen\")', 'Maximum', 60)",
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"DeploymentsListAge\")', 'Maximum', 60)",
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"DevicesUp\" OR \"DevicesFailed\" OR \"DeviceAttemptsFailed\")', 'Sum', 60)",
      "SEARCH('{muster,Environment,Function} Environment=\"muster-test\" MetricName=(\"DeviceTeardownsOverdue\" OR \"DeviceOrphans\")', 'Maximum', 60)",
    ])
    error_message = "the dashboard does not show what the workers of services, autoscaler and devices measure"
  }
  # No two graphs lie on one another, and none is taken for another one's place.
  assert {
    condition = (
      length(distinct([for widget in jsondecode(aws_cloudwatch_dashboard.main.dashboard_body).widgets : "${widget.x} ${widget.y}"]))
      == length(local.graphs) + length(local.searches)
      && length(distinct([for title in concat(keys(local.graphs), keys(local.searches)) : substr(title, 0, 1)])) == length(local.graphs) + length(local.searches)
    )
    error_message = "each graph of the dashboard has a place of its own"
  }
}

# Who publishes to a topic under a customer key needs the key for it.
run "with_a_customer_key_the_roles_may_use_it_for_what_they_do" {
  command = apply

  variables {
    kms_key_arn = "arn:aws:kms:us-east-1:123456789012:key/1"
    settings = {
      MUSTER_CPX_URL            = "https://cpx.example"
      MUSTER_ALERTS_WEBHOOK_URL = "https://hooks.example/muster"
    }
  }

  assert {
    condition = {
      for name, statements in local.policies : name => flatten([
        for statement in statements : [for action in flatten([statement.Action]) : "${action} ${statement.Resource}"] if statement.Sid == "CustomerKey"
      ])
      } == {
      for name, f in local.functions : name => [
        for action in(f.kind == "worker" ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"]) : "${action} arn:aws:kms:us-east-1:123456789012:key/1"
      ]
    }
    error_message = "a role may use the customer key for more or less than it needs"
  }
  assert {
    condition     = aws_sns_topic.alarms.kms_master_key_id == "arn:aws:kms:us-east-1:123456789012:key/1"
    error_message = "the topic is not under the customer key"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.alarm["upstream-alerts_webhook"].dimensions.Upstream == "alerts_webhook"
    error_message = "a webhook that is always refused must be noticed, by the name that its metrics have"
  }
  # These settings have no deployments API, and no vendor of machines.
  assert {
    condition = length(setintersection(
      concat(keys(local.scaling_alarms), keys(local.device_alarms)), keys(aws_cloudwatch_metric_alarm.alarm)
    )) == 0
    error_message = "there is an alarm about deployments where none are scaled, or about machines where none are launched"
  }
}

run "production_is_protected_and_an_old_version_can_be_pinned" {
  command = apply

  variables {
    pinned_versions     = { batches = "3" }
    environment         = "prod"
    deletion_protection = true
    settings            = { MUSTER_PACKET_TAG = "fleet" }
  }

  # What an operator sets is not overruled: a stack of another name can go on with the same machines.
  assert {
    condition     = alltrue([for name in ["devices", "devices-worker"] : aws_lambda_function.function[name].environment[0].variables.MUSTER_PACKET_TAG == "fleet"])
    error_message = "the operator's tag is not the one that is used"
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
