# What starts the workers: every one a schedule, some a table's stream too.

# Ticks, stream records and invocations that failed for good. Somebody has to look: an alarm says so.
resource "aws_sqs_queue" "dead_letters" {
  name                      = "${local.prefix}-dead-letters"
  message_retention_seconds = 1209600 # 14 days, the longest there is
  # Encrypted in either case.
  sqs_managed_sse_enabled = var.kms_key_arn == null ? true : null
  kms_master_key_id       = var.kms_key_arn
}

resource "aws_scheduler_schedule_group" "workers" {
  name = local.prefix
}

resource "aws_scheduler_schedule" "worker" {
  for_each = { for name, f in local.worker_functions : name => f if f.schedule != null }

  name                = "${local.prefix}-${each.key}"
  description         = "Starts ${each.key}"
  group_name          = aws_scheduler_schedule_group.workers.name
  schedule_expression = each.value.schedule
  kms_key_arn         = var.kms_key_arn

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_alias.live[each.key].arn
    role_arn = aws_iam_role.scheduler.arn
    # Which tick this is: a tick may come twice. (No jsonencode: it would escape the brackets.)
    # The emulator leaves the brackets as they are; without an input it sends an event with a time,
    # which the workers take too.
    input = var.emulated ? null : "{\"scheduled_time\":\"<aws.scheduler.scheduled-time>\"}"

    retry_policy {
      maximum_event_age_in_seconds = 120
      maximum_retry_attempts       = 2
    }

    dead_letter_config {
      arn = aws_sqs_queue.dead_letters.arn
    }
  }
}

# A new batch starts its worker at once, and so does a device that there is something to do for; the
# schedule is for what a stream cannot tell: that a worker died, or that a lease has expired.
resource "aws_lambda_event_source_mapping" "stream" {
  for_each = { for name, f in local.worker_functions : name => f if f.stream != null }

  event_source_arn = aws_dynamodb_table.table[each.value.stream].stream_arn
  function_name    = aws_lambda_alias.live[each.key].arn

  starting_position = "TRIM_HORIZON"
  batch_size        = 100
  # One call for a table's whole shard: the worker looks in the table, not into the records.
  parallelization_factor = 1
  maximum_retry_attempts = 2
  # Longer than the worker runs: what comes meanwhile waits for it.
  maximum_record_age_in_seconds = 3600

  dynamic "filter_criteria" {
    for_each = each.value.stream_filter[*]
    content {
      filter {
        pattern = filter_criteria.value
      }
    }
  }

  destination_config {
    on_failure {
      destination_arn = aws_sqs_queue.dead_letters.arn
    }
  }
}
