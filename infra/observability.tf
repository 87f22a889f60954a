# Alarms, the topic they go to, and one dashboard. The functions' own metrics (namespace `muster`)
# come out of their logs; crates/kit/src/metrics.rs lists them.

resource "aws_sns_topic" "alarms" {
  name = "${local.prefix}-alarms"
  # Alarms cannot be sent to a topic under AWS's own key: it is the customer's, or none. What is
  # sent are names of alarms and services, and numbers.
  kms_master_key_id = var.kms_key_arn
}

locals {
  # The topics that a function may be given (`topics` in functions.json), each with the setting in
  # which the function finds it.
  topics = {
    alarms = { arn = aws_sns_topic.alarms.arn, setting = "MUSTER_ALERTS_TOPIC_ARN" }
  }
}

# For CloudWatch alone. A function of this account publishes with its role's own right (iam.tf), which
# needs nothing here.
resource "aws_sns_topic_policy" "alarms" {
  arn = aws_sns_topic.alarms.arn
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "AlarmsOfThisAccount"
      Effect    = "Allow"
      Principal = { Service = "cloudwatch.amazonaws.com" }
      Action    = "sns:Publish"
      Resource  = aws_sns_topic.alarms.arn
      Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
    }]
  })
}

resource "aws_sns_topic_subscription" "mail" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

locals {
  # Every alarm: what is measured, when it is bad, and what to do then.
  alarms = merge(
    {
      "load-balancer-5xx" = {
        namespace  = "AWS/ApplicationELB"
        metric     = "HTTPCode_ELB_5XX_Count"
        dimensions = { LoadBalancer = aws_lb.main.arn_suffix }
        what       = "The load balancer itself answered 5xx: a function failed, timed out or gave a malformed answer. Look at the functions' logs."
      }
      "answers-5xx" = {
        namespace  = "AWS/ApplicationELB"
        metric     = "HTTPCode_Target_5XX_Count"
        dimensions = { LoadBalancer = aws_lb.main.arn_suffix }
        threshold  = 5
        what       = "Functions answered 5xx: the store or an upstream is away (503), or a bug (500). The problem's instance is the request id in the log."
      }
      "dead-letters" = {
        namespace  = "AWS/SQS"
        metric     = "ApproximateNumberOfMessagesVisible"
        statistic  = "Maximum"
        dimensions = { QueueName = aws_sqs_queue.dead_letters.name }
        what       = "Ticks or stream records failed for good. Read the queue, repair the cause, purge it: the next tick does their work."
      }
    },
    {
      for name, f in local.functions : "errors-${name}" => {
        namespace  = "AWS/Lambda"
        metric     = "Errors"
        dimensions = { FunctionName = aws_lambda_function.function[name].function_name }
        what       = "Invocations of ${name} failed. Look at its log group."
      }
    },
    {
      for name, f in local.functions : "throttles-${name}" => {
        namespace  = "AWS/Lambda"
        metric     = "Throttles"
        dimensions = { FunctionName = aws_lambda_function.function[name].function_name }
        # A worker's tick may find the last one still at work and be tried again a moment later.
        threshold = f.kind == "worker" ? 10 : 1
        what      = "Lambda had no place for ${name}: the account's concurrency is used up, or the worker's reserved one."
      }
    },
    {
      for name, f in local.worker_functions : "not-run-${name}" => {
        namespace  = "AWS/Lambda"
        metric     = "Invocations"
        dimensions = { FunctionName = aws_lambda_function.function[name].function_name }
        comparison = "LessThanThreshold"
        missing    = "breaching"
        what       = "${name} was not started for five minutes. Look at its schedule and at the dead letters."
      } if f.schedule != null
    },
    {
      # Each request counts as 0 or 1, so the average is the share that failed.
      for upstream in local.upstreams : "upstream-${upstream}" => {
        namespace  = "muster"
        metric     = "UpstreamErrors"
        statistic  = "Average"
        dimensions = { Environment = local.prefix, Upstream = upstream }
        threshold  = 0.9
        what = join(" ", [
          "Nine of ten requests to ${upstream} failed for five minutes.",
          upstream == "alerts_webhook" ? "Who waits there for alerts hears nothing; GET /api/v1/alerts has them."
          : "Work goes on by itself when it is back; what is pending stays pending.",
        ])
      }
    },
    {
      for name, alarm in local.scaling_alarms : name => merge(alarm, {
        namespace  = "muster"
        statistic  = "Maximum"
        dimensions = { Environment = local.prefix, Function = "${local.prefix}-autoscaler-worker" }
        period     = 60
      }) if contains(keys(var.settings), "MUSTER_DEPLOYMENTS_URL")
    },
    {
      for name, alarm in local.device_alarms : name => merge(alarm, {
        namespace  = "muster"
        statistic  = "Maximum"
        dimensions = { Environment = local.prefix, Function = "${local.prefix}-devices-worker" }
        bad        = 1
      }) if contains(keys(var.settings), "MUSTER_PACKET_URL")
    },
  )
  alarm_names = keys(local.alarms)

  # About deployments that are not scaled, or not down, though the worker runs and the API answers.
  # It measures once a minute. A minute or two of each are nothing: the next readings end them.
  scaling_alarms = {
    "scaling-frozen" = {
      metric  = "ScalingFrozen"
      periods = 15
      bad     = 10
      what    = "For ten of fifteen minutes no host was taken away anywhere: too many deployments could not be read, or most have vanished from the list. Hosts are added all the same. GET /api/v1/deployments says why under `fleet`."
    }
    "deployments-not-reached" = {
      metric  = "DeploymentsNotReached"
      periods = 10
      bad     = 5
      what    = "In five of ten minutes there was no time to read some deployments, which come first in the next tick. The API is slow: raise MUSTER_DEPLOYMENTS_CONCURRENCY, lower MUSTER_DEPLOYMENTS_TIMEOUT_SECONDS, or give autoscaler-worker more memory."
    }
    "deployments-list-old" = {
      metric    = "DeploymentsListAge"
      threshold = 600000 # ten minutes
      periods   = 5
      bad       = 5
      what      = "For ten minutes and more there was no list of deployments, or none that could be believed: new ones are not scaled. The others are, as they were listed last. GET /api/v1/deployments says why under `fleet`."
    }
    "deployments-unreadable" = {
      metric  = "DeploymentsUnreadable"
      periods = 30
      bad     = 30
      what    = "For half an hour a deployment, or one after the other, could not be read, and was not scaled. GET /api/v1/deployments?state=unreadable and ?state=breaker_open list them with what is wrong."
    }
  }
}

# About machines that cost and that nobody wants any more. What a run measures comes at its end, so a
# period may be without a value while a run of five minutes goes on, and one without a sweep: one bad
# value of the last ones counts, and the alarm stays until there is none.
locals {
  device_alarms = {
    "device-teardown-overdue" = {
      metric  = "DeviceTeardownsOverdue"
      period  = 300
      periods = 2
      what    = "For ten minutes and more the vendor of machines has not confirmed that a machine is gone, which may cost all the while. devices-worker goes on asking. GET /api/v1/devices?state=Deleting lists them, `trouble` says what the vendor answers: a locked machine must be unlocked there."
    }
    "device-orphans" = {
      metric  = "DeviceOrphans"
      period  = 900
      periods = 3
      what    = "The vendor has machines with our tag that no record accounts for. The log of devices-worker names them. Delete them there, or set MUSTER_PACKET_SWEEP to delete; first make sure that no other installation has the same MUSTER_PACKET_TAG in this project."
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "alarm" {
  for_each = local.alarms

  alarm_name        = "${local.prefix}-${each.key}"
  alarm_description = each.value.what

  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = try(each.value.statistic, "Sum")
  period              = try(each.value.period, 300)
  evaluation_periods  = try(each.value.periods, 1)
  datapoints_to_alarm = try(each.value.bad, null) # of these periods; all unless given
  comparison_operator = try(each.value.comparison, "GreaterThanOrEqualToThreshold")
  threshold           = try(each.value.threshold, 1)
  treat_missing_data  = try(each.value.missing, "notBreaching")

  alarm_actions = [aws_sns_topic.alarms.arn]
  ok_actions    = [aws_sns_topic.alarms.arn]
}

locals {
  balancer = aws_lb.main.arn_suffix

  # What AWS measures.
  graphs = {
    "1 Answers, by status" = [
      for code in ["2XX", "4XX", "5XX"] :
      ["AWS/ApplicationELB", "HTTPCode_Target_${code}_Count", "LoadBalancer", local.balancer, { stat = "Sum", label = code }]
    ]
    "2 Time to answer" = [
      for stat in ["p50", "p90", "p99"] :
      ["AWS/ApplicationELB", "TargetResponseTime", "LoadBalancer", local.balancer, { stat = stat, label = stat }]
    ]
    "3 Invocations" = [
      for name in keys(local.functions) :
      ["AWS/Lambda", "Invocations", "FunctionName", "${local.prefix}-${name}", { stat = "Sum", label = name }]
    ]
    "4 Errors and throttles" = concat([
      for name in keys(local.functions) :
      ["AWS/Lambda", "Errors", "FunctionName", "${local.prefix}-${name}", { stat = "Sum", label = "${name} errors" }]
      ], [
      for name in keys(local.functions) :
      ["AWS/Lambda", "Throttles", "FunctionName", "${local.prefix}-${name}", { stat = "Sum", label = "${name} throttles" }]
    ])
    "5 Duration, p99" = [
      for name in keys(local.functions) :
      ["AWS/Lambda", "Duration", "FunctionName", "${local.prefix}-${name}", { stat = "p99", label = name }]
    ]
  }

  # What the functions measure. A search finds what a later function measures too, and needs no
  # change here where it does so under the same names.
  searches = {
    "6 DevEUIs"                             = { metrics = ["DevEuisRegistered", "DevEuiConflicts", "DevEuisRecovered"], by = "Function", stat = "Sum" }
    "7 Highest number in flight"            = { metrics = ["RequestsInFlight"], by = "Function", stat = "Maximum" }
    "8 Tick lag, milliseconds"              = { metrics = ["TickLag"], by = "Function", stat = "Maximum" }
    "9 Cold starts"                         = { metrics = ["ColdStarts"], by = "Function", stat = "Sum" }
    "A Upstreams: requests and errors"      = { metrics = ["UpstreamRequests", "UpstreamErrors"], by = "Upstream", stat = "Sum" }
    "B Upstreams: p90 answer, milliseconds" = { metrics = ["UpstreamLatency"], by = "Upstream", stat = "p90" }
    "C Servers"                             = { metrics = ["ServersSeen", "ServersUnknown"], by = "Function", stat = "Maximum" }
    "D Alerts firing"                       = { metrics = ["AlertsFiring"], by = "Function", stat = "Maximum" }
    "E Deployments"                         = { metrics = ["DeploymentsSeen", "DeploymentsShort", "DeploymentsUnreadable", "DeploymentsNotReached"], by = "Function", stat = "Maximum" }
    "F Hosts, and requests without answer"  = { metrics = ["HostsAdded", "HostsRemoved", "ScalingsUnknown"], by = "Function", stat = "Sum" }
    "G Minutes without scaling down"        = { metrics = ["ScalingFrozen"], by = "Function", stat = "Maximum" }
    "H Age of the list, milliseconds"       = { metrics = ["DeploymentsListAge"], by = "Function", stat = "Maximum" }
    "I Devices up, failed, and attempts"    = { metrics = ["DevicesUp", "DevicesFailed", "DeviceAttemptsFailed"], by = "Function", stat = "Sum" }
    "J Machines that should be gone"        = { metrics = ["DeviceTeardownsOverdue", "DeviceOrphans"], by = "Function", stat = "Maximum" }
  }
}

resource "aws_cloudwatch_dashboard" "main" {
  dashboard_name = local.prefix

  dashboard_body = jsonencode({
    widgets = [
      # The first character of a title gives its place.
      for index, title in sort(concat(keys(local.graphs), keys(local.searches))) : {
        type   = "metric"
        x      = index % 2 * 12
        y      = floor(index / 2) * 6
        width  = 12
        height = 6
        properties = {
          title  = substr(title, 2, -1)
          region = local.region
          view   = "timeSeries"
          period = 60
          metrics = try(local.graphs[title], [[{
            expression = join("", [
              "SEARCH('{muster,Environment,${local.searches[title].by}} Environment=\"${local.prefix}\" MetricName=(",
              join(" OR ", [for metric in local.searches[title].metrics : "\"${metric}\""]),
              ")', '${local.searches[title].stat}', 60)",
            ])
          }]])
        }
      }
    ]
  })
}
