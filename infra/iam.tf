# Who may do what. One role for each function with one policy: its tables with exactly the actions
# its code uses (functions.json, which a test compares with the code), its log group, its secrets, the
# topics that it publishes to.
# `*` stands only where AWS knows no ARN for an action.

resource "aws_iam_role" "function" {
  for_each = local.functions

  name        = "${local.prefix}-${each.key}"
  description = "What the function ${each.key} may do"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "lambda.amazonaws.com" }
    }]
  })
}

locals {
  table_arn = {
    for name in keys(local.tables) :
    name => "arn:${local.partition}:dynamodb:${local.region}:${local.account_id}:table/${local.prefix}-${name}"
  }
  function_arn = {
    for name in keys(local.functions) :
    name => "arn:${local.partition}:lambda:${local.region}:${local.account_id}:function:${local.prefix}-${name}"
  }
  ec2_arn = "arn:${local.partition}:ec2:${local.region}:${local.account_id}"

  policies = {
    for name, f in local.functions : name => concat(
      [
        for table, actions in f.tables : {
          Sid      = "Table${join("", [for word in split("-", table) : title(word)])}"
          Effect   = "Allow"
          Action   = [for action in actions : "dynamodb:${action}"]
          Resource = local.table_arn[table]
        }
      ],
      # A query on an index is a right of its own, on the index.
      [
        for table, actions in f.tables : {
          Sid      = "Indexes${join("", [for word in split("-", table) : title(word)])}"
          Effect   = "Allow"
          Action   = "dynamodb:Query"
          Resource = [for index in local.tables[table].indexes : "${local.table_arn[table]}/index/${index.name}"]
        } if contains(actions, "Query") && length(local.tables[table].indexes) > 0
      ],
      [for table in f.stream[*] : {
        Sid    = "Stream"
        Effect = "Allow"
        Action = ["dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:ListStreams"]
        # The stream's own name is a time that is not known before it is made.
        Resource = "${local.table_arn[table]}/stream/*"
      }],
      [for ignored in slice(f.secrets, 0, min(1, length(f.secrets))) : {
        Sid      = "Secrets"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = [for secret in f.secrets : aws_secretsmanager_secret.upstream[secret].arn]
      }],
      [for topic in f.topics : {
        Sid      = "Topic${title(topic)}"
        Effect   = "Allow"
        Action   = "sns:Publish"
        Resource = local.topics[topic].arn
      } if contains(keys(local.topics), topic)],
      [for key in var.kms_key_arn[*] : {
        Sid    = "CustomerKey"
        Effect = "Allow"
        # GenerateDataKey is for what is put into the encrypted queue, and published to encrypted topics.
        Action   = f.kind == "worker" || length(f.topics) > 0 ? ["kms:Decrypt", "kms:GenerateDataKey"] : ["kms:Decrypt"]
        Resource = key
      }],
      [for ignored in(f.kind == "worker" ? [1] : []) : {
        Sid      = "DeadLetters"
        Effect   = "Allow"
        Action   = "sqs:SendMessage"
        Resource = aws_sqs_queue.dead_letters.arn
      }],
      [
        {
          Sid      = "Logs"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = "arn:${local.partition}:logs:${local.region}:${local.account_id}:log-group:/aws/lambda/${local.prefix}-${name}:*"
        },
        # Lambda itself needs these, under the function's role, to join the private subnets and, long
        # after the function is gone, to leave them. All of EC2's ARNs of the account, as Lambda's guide
        # has it: narrower kinds of resource are reported to be refused. Naming our subnets would also
        # turn the order round in which things are destroyed, and leave the interfaces there for ever.
        {
          Sid    = "NetworkInterfaces"
          Effect = "Allow"
          Action = [
            "ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
            "ec2:UnassignPrivateIpAddresses",
          ]
          Resource = "${local.ec2_arn}:*/*"
        },
        {
          Sid      = "DescribeNetwork"
          Effect   = "Allow"
          Action   = ["ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"]
          Resource = "*" # EC2 describes all or nothing
        },
        # … while the function's own code may not touch the network.
        {
          Sid       = "NotTheCode"
          Effect    = "Deny"
          Action    = "ec2:*"
          Resource  = "*"
          Condition = { ArnEquals = { "lambda:SourceFunctionArn" = local.function_arn[name] } }
        },
      ],
      [for ignored in(var.xray ? [1] : []) : {
        Sid      = "Traces"
        Effect   = "Allow"
        Action   = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"]
        Resource = "*" # X-Ray knows no ARN for a trace
      }],
    )
  }
}

resource "aws_iam_role_policy" "function" {
  for_each = local.functions

  name = "function"
  role = aws_iam_role.function[each.key].name
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = local.policies[each.key]
  })

  lifecycle {
    precondition {
      condition     = length(setsubtract(each.value.topics, keys(local.topics))) == 0
      error_message = "functions.json gives ${each.key} a topic that this stack does not have: ${join(", ", each.value.topics)}. It has ${join(", ", keys(local.topics))} (local.topics in observability.tf)."
    }
  }
}

# The scheduler starts the workers, by their alias, and may leave what failed in the queue.
resource "aws_iam_role" "scheduler" {
  name        = "${local.prefix}-scheduler"
  description = "What EventBridge Scheduler may do"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "scheduler.amazonaws.com" }
      # Nobody else's schedules.
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:scheduler:${local.region}:${local.account_id}:schedule-group/${local.prefix}" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "scheduler" {
  name = "scheduler"
  role = aws_iam_role.scheduler.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "StartWorkers"
          Effect   = "Allow"
          Action   = "lambda:InvokeFunction"
          Resource = [for name, f in local.worker_functions : "${local.function_arn[name]}:live" if f.schedule != null]
        },
        {
          Sid      = "DeadLetters"
          Effect   = "Allow"
          Action   = "sqs:SendMessage"
          Resource = aws_sqs_queue.dead_letters.arn
        },
      ],
      [for key in var.kms_key_arn[*] : {
        Sid      = "CustomerKey"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = key
      }],
    )
  })
}
