# A first try: cheap, and gone when it is destroyed.
environment         = "test"
deletion_protection = false
waf                 = false
nat                 = "single"
log_retention_days  = 7

point_in_time_recovery = false

settings = {
  # The LoRaWAN provider's base URL. Without it `batches` answers 503 and says so.
  # MUSTER_LORAWAN_URL  = "https://provider.example"
  # CPX's base URL, at port 80 or 443. Without it `services` answers 503 and says so.
  # MUSTER_CPX_URL      = "https://cpx.example"
  # The base URL of the deployments API, at port 80 or 443. Without it nothing is scaled, and
  # `autoscaler` answers 503. With it scaling begins: hosts are added at once where they are short.
  # MUSTER_DEPLOYMENTS_URL = "https://deployments.example"
  # The device API's base URL and the project whose machines are ours. Without both, and its token
  # (`muster secrets set MUSTER_PACKET_TOKEN`), `devices` answers 503 and says so. MUSTER_PACKET_TAG,
  # by which machines are known again, is muster-test unless it is set here.
  # MUSTER_PACKET_URL      = "https://devices.example"
  # MUSTER_PACKET_PROJECT  = "2f1e9a7c-6d35-4c1b-9a55-0c8f3f1d7e42"
  MUSTER_SHOUTCLOUD_URL = "http://api.shoutcloud.io"
}
