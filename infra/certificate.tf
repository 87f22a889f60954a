# The API's certificate and name. Three ways to a certificate, one of them must be chosen:
#   - certificate_arn: one that is in ACM already;
#   - domain_name and zone_id: made here, validated by a DNS record, renewed by ACM, at no cost;
#   - neither given to scripts/apply: it imports a self-signed one for a first try and hands its ARN
#     to certificate_arn.

locals {
  certificate_arn = var.domain_name == null ? var.certificate_arn : one(aws_acm_certificate_validation.main[*].certificate_arn)
}

resource "aws_acm_certificate" "main" {
  count = var.domain_name == null ? 0 : 1

  domain_name       = var.domain_name
  validation_method = "DNS"

  tags = { Name = local.prefix }

  # A listener cannot be without one, so a new name's is made before the old one goes.
  lifecycle {
    create_before_destroy = true
  }
}

# One name, so one record.
resource "aws_route53_record" "validation" {
  count = var.domain_name == null ? 0 : 1

  zone_id = var.zone_id
  name    = one(aws_acm_certificate.main[0].domain_validation_options).resource_record_name
  type    = one(aws_acm_certificate.main[0].domain_validation_options).resource_record_type
  records = [one(aws_acm_certificate.main[0].domain_validation_options).resource_record_value]
  ttl     = 300
  # ACM asks for the same record again for a name that was validated before.
  allow_overwrite = true
}

# Waits until the certificate is issued: minutes, or for ever where the zone is not the public one of the name.
resource "aws_acm_certificate_validation" "main" {
  count = var.domain_name == null ? 0 : 1

  certificate_arn         = aws_acm_certificate.main[0].arn
  validation_record_fqdns = [aws_route53_record.validation[0].fqdn]

  timeouts {
    create = "30m"
  }
}

resource "aws_route53_record" "api" {
  count = var.domain_name == null ? 0 : 1

  zone_id = var.zone_id
  name    = var.domain_name
  type    = "A"

  alias {
    name    = aws_lb.main.dns_name
    zone_id = aws_lb.main.zone_id
    # There is nowhere else to send the clients.
    evaluate_target_health = false
  }
}
