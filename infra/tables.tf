# One table for each capability, and one for keys. Their shape is tables.json, which the
# capabilities' own definitions are compared with.

resource "aws_dynamodb_table" "table" {
  for_each = local.tables

  name         = "${local.prefix}-${each.key}"
  billing_mode = "PAY_PER_REQUEST" # nothing to pay while nothing happens, nothing to guess
  hash_key     = each.value.pk
  range_key    = each.value.sk

  dynamic "attribute" {
    for_each = toset(concat([each.value.pk, each.value.sk], flatten([for index in each.value.indexes : [index.pk, index.sk]])))
    content {
      name = attribute.value
      type = "S"
    }
  }

  dynamic "global_secondary_index" {
    for_each = { for index in each.value.indexes : index.name => index }
    content {
      name            = global_secondary_index.key
      hash_key        = global_secondary_index.value.pk
      range_key       = global_secondary_index.value.sk
      projection_type = global_secondary_index.value.projection
    }
  }

  ttl {
    attribute_name = each.value.ttl
    enabled        = true
  }

  stream_enabled   = each.value.stream != null
  stream_view_type = each.value.stream

  point_in_time_recovery {
    enabled = var.point_in_time_recovery
  }

  # Always encrypted: with a key that AWS owns, at no cost, or with the customer's.
  dynamic "server_side_encryption" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]
    content {
      enabled     = true
      kms_key_arn = server_side_encryption.value
    }
  }

  deletion_protection_enabled = var.deletion_protection
}
