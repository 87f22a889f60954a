# What follows from functions.json, tables.json and the variables; no resources.

locals {
  prefix = "${var.name}-${var.environment}"

  tags = {
    Project     = var.name
    Environment = var.environment
    ManagedBy   = "muster"
  }

  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  region     = data.aws_region.current.name

  # The tables as the capabilities define them (`muster tables`).
  tables = { for table in jsondecode(file("${path.module}/tables.json")) : table.name => table }

  # The functions, each of the same shape whatever its entry leaves out.
  functions = {
    for f in jsondecode(file("${path.module}/functions.json")).functions : f.name => {
      kind              = f.kind
      package           = f.package
      memory_mb         = f.memory_mb
      timeout_seconds   = f.timeout_seconds
      tables            = { for table, actions in f.tables : table => sort(actions) }
      environment       = [for name in f.environment : tostring(name)]
      secrets           = [for name in f.secrets : tostring(name)]
      topics            = [for name in try(f.topics, []) : tostring(name)]
      concurrency       = try(tonumber(f.concurrency), f.kind == "worker" ? 1 : null)
      retries           = try(tonumber(f.retries), 1)
      schedule          = try(tostring(f.schedule), null)
      stream            = try(tostring(f.stream), null)
      stream_filter     = try(jsonencode(f.stream_filter), null)
      listener_priority = try(tonumber(f.listener_priority), null)
      routes            = [for route in f.routes : tostring(route.path)]
    }
  }

  worker_functions = { for name, f in local.functions : name => f if f.kind == "worker" }

  # Which paths go to which function. `/api/v1/things/{id}` is below `/api/v1/things`, so the first
  # three segments and `/*` for what is under them cover every route of a capability.
  http_functions = {
    for name, f in local.functions : name => {
      listener_priority = f.listener_priority
      patterns = distinct(concat(
        name == local.first_http_function ? ["/healthz"] : [],
        ["/healthz/${name}"],
        [
          for path in f.routes :
          "${join("/", slice(split("/", path), 0, min(4, length(split("/", path)))))}${length(split("/", path)) > 4 ? "/*" : ""}"
        ],
      ))
    } if f.kind == "http"
  }
  first_http_function = [for f in jsondecode(file("${path.module}/functions.json")).functions : f.name if f.kind == "http"][0]

  secrets = toset(flatten([for f in local.functions : f.secrets]))

  # The functions' settings: the operator's, and what follows from the stack's name where the operator
  # has not said otherwise. Two stacks in one project of the device API must not take each other's
  # machines for their own.
  settings = merge({ MUSTER_PACKET_TAG = local.prefix }, var.settings)

  # The upstreams by the names that the functions' metrics give them: MUSTER_LORAWAN_URL is lorawan.
  upstreams = toset([
    for name in distinct(flatten([for f in local.functions : f.environment])) :
    lower(trimsuffix(trimprefix(name, "MUSTER_"), "_URL")) if endswith(name, "_URL") && contains(keys(var.settings), name)
  ])
}
