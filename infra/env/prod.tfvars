# What people depend on: a zone may fail, and nothing is deleted by accident.
environment         = "prod"
deletion_protection = true
waf                 = true
nat                 = "per_zone"
log_retention_days  = 90
# alarm_email       = "operations@example.com"
# domain_name       = "muster.example.com"
# zone_id           = "Z0123456789ABCDEFGHIJ"

settings = {
  # MUSTER_LORAWAN_URL  = "https://provider.example"
  # MUSTER_CPX_URL      = "https://cpx.example"
  # MUSTER_DEPLOYMENTS_URL = "https://deployments.example"
  # MUSTER_ALERTS_WEBHOOK_URL = "https://hooks.example/muster"
  # MUSTER_PACKET_URL     = "https://devices.example"
  # MUSTER_PACKET_PROJECT = "2f1e9a7c-6d35-4c1b-9a55-0c8f3f1d7e42"
  MUSTER_SHOUTCLOUD_URL = "http://api.shoutcloud.io"
}
