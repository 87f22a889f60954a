# One Lambda function for each entry of functions.json. Callers use the alias `live`, never a
# version or $LATEST, so that going back is moving the alias (variable `pinned_versions`).

resource "aws_cloudwatch_log_group" "function" {
  for_each = local.functions

  # Made here, so that it has a retention and goes with the stack; functions may not make any.
  name              = "/aws/lambda/${local.prefix}-${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_lambda_function" "function" {
  for_each = local.functions

  function_name = "${local.prefix}-${each.key}"
  description   = "muster: ${each.key} (${each.value.kind})"
  role          = aws_iam_role.function[each.key].arn

  runtime = "provided.al2023"
  # Both functions of a capability run one binary, which is told by this what it is (`_HANDLER`).
  handler       = each.value.kind
  architectures = [var.architecture]
  filename      = "${var.package_dir}/${each.value.package}.zip"
  # Without a zip the creation fails and names the file; plans and tests need none.
  source_code_hash = try(filebase64sha256("${var.package_dir}/${each.value.package}.zip"), null)
  publish          = true

  memory_size = each.value.memory_mb
  timeout     = each.value.timeout_seconds
  # A worker works for all: its upstream takes no more than one sender. One whose runs fill their
  # minutes (`concurrency` 2) needs a second place, for what comes meanwhile: the tick while the
  # stream's run goes on, or the same tick once more. It finds the lease or the slot taken and does
  # nothing. With one place it would be throttled and tried again, each time in the middle of a run,
  # until it is too old and becomes a dead letter: an alarm about nothing.
  reserved_concurrent_executions = (
    each.value.kind == "worker" && var.reserve_concurrency ? each.value.concurrency : -1
  )

  vpc_config {
    subnet_ids         = aws_subnet.private[*].id
    security_group_ids = [aws_security_group.functions.id]
  }

  environment {
    variables = merge(
      { for name in each.value.environment : name => local.settings[name] if contains(keys(local.settings), name) },
      { for name in each.value.secrets : "${name}_SECRET" => aws_secretsmanager_secret.upstream[name].arn },
      { for name, topic in local.topics : topic.setting => topic.arn if contains(each.value.topics, name) },
      {
        MUSTER_ENVIRONMENT  = local.prefix
        MUSTER_LOG          = lower(var.log_level)
        MUSTER_TABLE_PREFIX = "${local.prefix}-"
      },
    )
  }
  # No token is among them; a customer key encrypts them all the same.
  kms_key_arn = var.kms_key_arn

  logging_config {
    log_format = "JSON"
    # Never above INFO: Lambda would drop the lines that carry metrics too. What the functions log
    # is MUSTER_LOG's business.
    application_log_level = contains(["TRACE", "DEBUG"], var.log_level) ? var.log_level : "INFO"
    system_log_level      = "WARN"
    log_group             = aws_cloudwatch_log_group.function[each.key].name
  }

  tracing_config {
    mode = var.xray ? "Active" : "PassThrough"
  }

  # The permissions must be there before Lambda makes network interfaces with them.
  depends_on = [aws_iam_role_policy.function]
}

resource "aws_lambda_alias" "live" {
  for_each = local.functions

  name             = "live"
  description      = "What the load balancer and the schedules call"
  function_name    = aws_lambda_function.function[each.key].function_name
  function_version = lookup(var.pinned_versions, each.key, aws_lambda_function.function[each.key].version)
}

# Each HTTP function can be called by its own target group and by nothing else.
resource "aws_lambda_permission" "alb" {
  for_each = local.http_functions

  statement_id  = "alb"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.function[each.key].function_name
  qualifier     = aws_lambda_alias.live[each.key].name
  principal     = "elasticloadbalancing.amazonaws.com"
  source_arn    = aws_lb_target_group.function[each.key].arn
}

# What becomes of an invocation that nobody waits for and that fails: one more try, then the queue.
# The try comes a minute later. Where each minute's work is worth nothing in the next (`retries` 0)
# there is none: it would meet the next run, do nothing, and hide that a minute was lost.
resource "aws_lambda_function_event_invoke_config" "worker" {
  for_each = local.worker_functions

  function_name = aws_lambda_function.function[each.key].function_name
  qualifier     = aws_lambda_alias.live[each.key].name
  # The next tick does the same work, so an old one is worth nothing. This is for events that Lambda
  # had no place for, or could not start; they are tried again after 1, 2, 4 … seconds.
  maximum_event_age_in_seconds = 120
  maximum_retry_attempts       = each.value.retries

  destination_config {
    on_failure {
      destination = aws_sqs_queue.dead_letters.arn
    }
  }
}
