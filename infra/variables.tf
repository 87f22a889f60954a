# What an operator may choose. Where a choice costs money, its description says how much:
# us-east-1, 730 hours a month, without traffic.

variable "name" {
  description = "What the stack is called. First part of the name of everything in it."
  type        = string
  default     = "muster"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,18}[a-z0-9]$", var.name))
    error_message = "name must be 2 to 20 lower-case letters, digits and hyphens, begin with a letter and not end with a hyphen."
  }

  validation {
    condition     = !startswith(var.name, "internal")
    error_message = "name must not begin with \"internal\": load balancers may not be called so."
  }
}

variable "environment" {
  description = "Which of the stacks of this name: test, prod. Second part of the name of everything in it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$", var.environment))
    error_message = "environment must be 1 to 12 lower-case letters, digits and hyphens, begin with a letter and not end with a hyphen."
  }
}

# Network

variable "vpc_cidr" {
  description = "Addresses of the VPC, a private IPv4 block of /16 to /24. It is cut into eight; four are used."
  type        = string
  default     = "10.42.0.0/16"

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && can(regex("^(10\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.|192\\.168\\.)", var.vpc_cidr))
    error_message = "vpc_cidr must be a private IPv4 block such as 10.42.0.0/16 (within 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16)."
  }

  validation {
    condition     = can(regex("/(1[6-9]|2[0-4])$", var.vpc_cidr))
    error_message = "vpc_cidr must be of a size from /16 to /24: each subnet gets an eighth of it, and the load balancer needs a /27."
  }
}

variable "availability_zones" {
  description = "The two zones, by name. By default the region's first two."
  type        = list(string)
  default     = null

  validation {
    condition     = var.availability_zones == null ? true : length(distinct(var.availability_zones)) == 2
    error_message = "availability_zones must name exactly two different zones, such as [\"us-east-1a\", \"us-east-1b\"], or be left out."
  }
}

variable "nat" {
  description = "single: one NAT gateway for both zones (37 USD a month); if its zone fails, no function reaches an upstream. per_zone: one each (73 USD)."
  type        = string
  default     = "single"

  validation {
    condition     = contains(["single", "per_zone"], var.nat)
    error_message = "nat must be \"single\" or \"per_zone\"."
  }
}

variable "flow_logs" {
  description = "Whether the VPC's rejected and accepted connections are logged. About 0.50 USD per GB of log."
  type        = bool
  default     = true
}

variable "allowed_cidrs" {
  description = "Which IPv4 addresses may reach the load balancer. Everybody by default: who has no key gets no further than a 401."
  type        = list(string)
  default     = ["0.0.0.0/0"]

  validation {
    condition     = length(var.allowed_cidrs) > 0 && alltrue([for cidr in var.allowed_cidrs : can(cidrhost(cidr, 0))])
    error_message = "allowed_cidrs must be one or more IPv4 blocks such as 203.0.113.0/24."
  }
}

# Load balancer

variable "certificate_arn" {
  description = "ARN of a certificate in ACM. Either this, or domain_name and zone_id."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null ? true : can(regex("^arn:[a-z-]+:acm:", var.certificate_arn))
    error_message = "certificate_arn must be the ARN of a certificate in ACM, such as arn:aws:acm:us-east-1:123456789012:certificate/…"
  }
}

variable "domain_name" {
  description = "The host name of the API, such as muster.example.com. A certificate is made for it and validated by DNS."
  type        = string
  default     = null

  validation {
    condition     = var.domain_name == null ? true : can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain_name))
    error_message = "domain_name must be a host name in lower case, such as muster.example.com."
  }
}

variable "zone_id" {
  description = "The Route 53 hosted zone that domain_name belongs to."
  type        = string
  default     = null

  validation {
    condition     = (var.zone_id == null) == (var.domain_name == null)
    error_message = "domain_name and zone_id belong together: give both or neither."
  }
}

variable "waf" {
  description = "Whether a web ACL stands before the load balancer: a rate limit and AWS's managed rules. 8 USD a month and 0.60 per million requests."
  type        = bool
  default     = true
}

variable "waf_rate_limit" {
  description = "How many requests one address may make in five minutes before the web ACL refuses it."
  type        = number
  default     = 3000

  validation {
    condition     = var.waf_rate_limit >= 100 && var.waf_rate_limit <= 2000000000
    error_message = "waf_rate_limit must be from 100 to 2000000000 requests in five minutes."
  }
}

variable "access_log_retention_days" {
  description = "For how many days the load balancer's access logs are kept. About 0.02 USD per GB and month."
  type        = number
  default     = 90

  validation {
    condition     = var.access_log_retention_days >= 1 && var.access_log_retention_days <= 3650
    error_message = "access_log_retention_days must be from 1 to 3650."
  }
}

# Functions

variable "architecture" {
  description = "The functions' processor: arm64, or x86_64, which costs a quarter more per millisecond."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "architecture must be \"arm64\" or \"x86_64\"."
  }
}

variable "package_dir" {
  description = "The folder with a zip for each package of functions.json, as scripts/package leaves them."
  type        = string
  default     = "../target/package"
}

variable "settings" {
  description = "The functions' settings by name, such as MUSTER_LORAWAN_URL. Each function gets those that functions.json lists for it. MUSTER_PACKET_TAG is the name of the stack unless it is set here. Tokens are no settings: see `muster secrets`."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name in keys(var.settings) :
      contains(flatten([for f in jsondecode(file("${path.module}/functions.json")).functions : f.environment]), name)
    ])
    error_message = "settings has a name that no function knows. Those that there are stand under \"environment\" in functions.json; a token is set with `muster secrets set`."
  }
}

variable "pinned_versions" {
  description = "The way back: the version that a function's alias shall point to instead of the newest, such as { batches = \"3\" }."
  type        = map(string)
  default     = {}

  validation {
    condition = alltrue([
      for name, version in var.pinned_versions :
      contains([for f in jsondecode(file("${path.module}/functions.json")).functions : f.name], name) && can(regex("^[1-9][0-9]*$", version))
    ])
    error_message = "pinned_versions maps names of functions.json to published versions, such as { batches = \"3\" }."
  }
}

variable "reserve_concurrency" {
  description = "Whether the workers' concurrency is reserved. A new AWS account has too little to reserve any; ask for a higher quota, or set this to false: leases keep the workers apart all the same."
  type        = bool
  default     = true
}

variable "log_level" {
  description = "What the functions log, from this level up."
  type        = string
  default     = "INFO"

  validation {
    condition     = contains(["TRACE", "DEBUG", "INFO", "WARN", "ERROR"], var.log_level)
    error_message = "log_level must be TRACE, DEBUG, INFO, WARN or ERROR."
  }
}

variable "log_retention_days" {
  description = "For how many days the functions' logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be one of those that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827 and on to 3653."
  }
}

variable "xray" {
  description = "Whether invocations are traced with X-Ray. 5 USD per million traces."
  type        = bool
  default     = false
}

# Data

variable "point_in_time_recovery" {
  description = "Whether the tables can be restored to any second of the last 35 days. 0.20 USD per GB and month."
  type        = bool
  default     = true
}

variable "deletion_protection" {
  description = "Whether the tables and the load balancer refuse to be deleted, and deleted secrets can be restored for 30 days. Must be true where the environment is prod."
  type        = bool
  default     = true

  validation {
    condition     = var.deletion_protection || var.environment != "prod"
    error_message = "deletion_protection must be true in prod. To take prod down on purpose, use scripts/destroy --env prod, which says how."
  }
}

variable "kms_key_arn" {
  description = "A customer key that encrypts tables, logs, secrets, queues and topics instead of AWS's own keys. 1 USD a month and 0.03 per 10,000 uses. Its policy must let CloudWatch Logs, CloudWatch, SNS, SQS and EventBridge Scheduler use it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null ? true : can(regex("^arn:[a-z-]+:kms:", var.kms_key_arn))
    error_message = "kms_key_arn must be the ARN of a key, such as arn:aws:kms:us-east-1:123456789012:key/…"
  }
}

# Eyes

variable "alarm_email" {
  description = "Who is mailed when an alarm changes, and when a service becomes short of healthy servers or has enough again, which services-worker publishes to the same topic. AWS asks that address to confirm first."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null ? true : can(regex("^[^@[:space:]]+@[^@[:space:]]+\\.[^@[:space:]]+$", var.alarm_email))
    error_message = "alarm_email must be an e-mail address."
  }
}

# Rehearsal

variable "emulated" {
  description = "Leaves out what an emulator of AWS cannot do. Only for scripts/rehearse."
  type        = bool
  default     = false
}
