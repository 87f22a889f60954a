output "endpoint" {
  description = "The API's base URL."
  value       = var.domain_name == null ? "https://${aws_lb.main.dns_name}" : "https://${var.domain_name}"
}

output "load_balancer_name" {
  description = "Name of the load balancer."
  value       = aws_lb.main.name
}

output "prefix" {
  description = "First part of the name of everything in the stack."
  value       = local.prefix
}

output "table_prefix" {
  description = "MUSTER_TABLE_PREFIX for those who work on the tables themselves, such as `muster keys create --store dynamodb`."
  value       = "${local.prefix}-"
}

output "tables" {
  description = "The tables' names, by capability."
  value       = { for name, table in aws_dynamodb_table.table : name => table.name }
}

output "functions" {
  description = "The functions, each with its name, role, log group, the version that `live` points to, and the tables with actions, the secrets and the topics that it is allowed."
  value = {
    for name, f in aws_lambda_function.function : name => {
      name      = f.function_name
      role      = aws_iam_role.function[name].name
      log_group = aws_cloudwatch_log_group.function[name].name
      version   = aws_lambda_alias.live[name].function_version
      tables    = local.functions[name].tables
      secrets   = local.functions[name].secrets
      topics    = local.functions[name].topics
    }
  }
}

output "secrets" {
  description = "The secrets that `muster secrets set` fills, by name."
  value       = { for name, secret in aws_secretsmanager_secret.upstream : name => secret.name }
}

output "topics" {
  description = "The ARNs of the topics that functions may publish to, by name."
  value       = { for name, topic in local.topics : name => topic.arn }
}

output "nat_addresses" {
  description = "The addresses that the upstreams see: what a provider has to allow."
  value       = aws_eip.nat[*].public_ip
}

output "dead_letters_url" {
  description = "The queue of what failed for good."
  value       = aws_sqs_queue.dead_letters.url
}

output "dashboard_url" {
  description = "The dashboard."
  value       = "https://${local.region}.console.aws.amazon.com/cloudwatch/home?region=${local.region}#dashboards/dashboard/${aws_cloudwatch_dashboard.main.dashboard_name}"
}

locals {
  # us-east-1, list prices of August 2026, 730 hours. What depends on traffic is not in it.
  monthly_cost_usd = {
    "load balancer"           = 16.43
    "load balancer addresses" = 2 * 3.65
    "NAT"                     = (var.nat == "per_zone" ? 2 : 1) * (32.85 + 3.65)
    "web ACL"                 = var.waf ? 8 : 0 # the ACL 5, each of its three rules 1
    "secrets"                 = length(local.secrets) * 0.40
    "dashboard and alarms"    = 3 + length(local.alarm_names) * 0.10
  }
}

output "monthly_cost_usd" {
  description = "What the stack costs when nobody uses it, in USD a month, by part. The customer key, if there is one, is not counted: it is not made here."
  value       = local.monthly_cost_usd
}
