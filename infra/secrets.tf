# The upstreams' tokens, and the key that signs what goes to the alerts' webhook. Terraform makes the place; `muster secrets set` puts the value, which
# therefore is in no variable, no plan and no state. 0.40 USD a month each.

resource "aws_secretsmanager_secret" "upstream" {
  for_each = local.secrets

  name        = "${local.prefix}/${each.key}"
  description = "Set with: muster secrets set ${each.key} --environment ${local.prefix}"
  kms_key_id  = var.kms_key_arn

  # Without protection the name is free again at once, so that destroy and apply can follow each other.
  recovery_window_in_days = var.deletion_protection ? 30 : 0
}
