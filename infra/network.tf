# The VPC: two public subnets for the load balancer and the NAT gateways, two private ones for the
# functions. Nothing in it can be reached from outside but the load balancer.

# Not asked where the zones are named.
data "aws_availability_zones" "available" {
  count = var.availability_zones == null ? 1 : 0

  state = "available"

  # Without the Local Zones, which have neither NAT gateways nor functions.
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }

  lifecycle {
    postcondition {
      condition     = length(self.names) >= 2
      error_message = "This region offers fewer than two zones to this account. Choose another region, or name two zones in availability_zones."
    }
  }
}

locals {
  zones = var.availability_zones == null ? slice(data.aws_availability_zones.available[0].names, 0, 2) : var.availability_zones

  # An eighth of the VPC each, half of it unused. The smallest VPC, a /24, gives a /27: the least
  # that a load balancer accepts.
  subnet_cidrs = [for index in range(4) : cidrsubnet(var.vpc_cidr, 3, index)]

  nat_count = var.nat == "per_zone" ? 2 : 1

  anywhere = "0.0.0.0/0"
}

resource "aws_vpc" "main" {
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = local.prefix }
}

resource "aws_subnet" "public" {
  count = 2

  vpc_id            = aws_vpc.main.id
  availability_zone = local.zones[count.index]
  cidr_block        = local.subnet_cidrs[count.index]
  # The load balancer and the NAT gateways bring their own addresses; nothing else gets one.
  map_public_ip_on_launch = false

  tags = { Name = "${local.prefix}-public-${local.zones[count.index]}" }
}

resource "aws_subnet" "private" {
  count = 2

  vpc_id            = aws_vpc.main.id
  availability_zone = local.zones[count.index]
  cidr_block        = local.subnet_cidrs[2 + count.index]

  tags = { Name = "${local.prefix}-private-${local.zones[count.index]}" }

  # Lambda gives its network interfaces back up to 45 minutes after the last function is gone, with
  # the functions' roles, which therefore go after the subnets.
  timeouts {
    delete = "60m"
  }
  depends_on = [aws_iam_role_policy.function]
}

# Ways out

resource "aws_internet_gateway" "main" {
  vpc_id = aws_vpc.main.id

  tags = { Name = local.prefix }
}

# What the upstreams see as our address. 3.65 USD a month each.
resource "aws_eip" "nat" {
  count = local.nat_count

  domain = "vpc"

  tags = { Name = "${local.prefix}-nat-${local.zones[count.index]}" }

  depends_on = [aws_internet_gateway.main]
}

# The upstreams, Secrets Manager and CloudWatch are reached through here. 32.85 USD a month each and
# 0.045 per GB. Secrets Manager gets no interface endpoint: about 7 USD per zone and month for a call
# at each cold start.
resource "aws_nat_gateway" "main" {
  count = local.nat_count

  allocation_id = aws_eip.nat[count.index].id
  subnet_id     = aws_subnet.public[count.index].id

  tags = { Name = "${local.prefix}-${local.zones[count.index]}" }

  depends_on = [aws_internet_gateway.main]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.main.id

  tags = { Name = "${local.prefix}-public" }
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = local.anywhere
  gateway_id             = aws_internet_gateway.main.id
}

resource "aws_route_table_association" "public" {
  count = 2

  route_table_id = aws_route_table.public.id
  subnet_id      = aws_subnet.public[count.index].id
}

# One for each zone even with a single NAT gateway, so that a second one changes a route and no table.
resource "aws_route_table" "private" {
  count = 2

  vpc_id = aws_vpc.main.id

  tags = { Name = "${local.prefix}-private-${local.zones[count.index]}" }
}

resource "aws_route" "nat" {
  count = 2

  route_table_id         = aws_route_table.private[count.index].id
  destination_cidr_block = local.anywhere
  nat_gateway_id         = aws_nat_gateway.main[count.index % local.nat_count].id
}

resource "aws_route_table_association" "private" {
  count = 2

  route_table_id = aws_route_table.private[count.index].id
  subnet_id      = aws_subnet.private[count.index].id
}

# Gateway endpoints cost nothing and keep the store's traffic off the NAT gateway, which charges per GB.

resource "aws_vpc_endpoint" "dynamodb" {
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.${local.region}.dynamodb"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = aws_route_table.private[*].id

  # A second lock besides the roles: through here nobody's table is reached but this stack's, with
  # whatever credentials, so nothing can be carried off into another account's.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TablesOfThisStack"
      Effect    = "Allow"
      Principal = "*"
      Action    = sort(distinct(flatten([for f in local.functions : [for actions in values(f.tables) : formatlist("dynamodb:%s", actions)]])))
      # A table's indexes are below it.
      Resource = "arn:${local.partition}:dynamodb:${local.region}:${local.account_id}:table/${local.prefix}-*"
    }]
  })

  tags = { Name = "${local.prefix}-dynamodb" }
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = aws_route_table.private[*].id

  # The functions need nothing of S3: Lambda fetches their code outside the VPC, and the access logs
  # are written by the load balancer. So the endpoint is there to close the way, which would
  # otherwise lead through the NAT gateway to every bucket of the region. A capability that uses a
  # bucket allows it here.
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "Nothing"
      Effect    = "Deny"
      Principal = "*"
      Action    = "*"
      Resource  = "*"
    }]
  })

  tags = { Name = "${local.prefix}-s3" }
}

# Security groups. Their rules are written inside, and empty lists as such: a rule that was added by
# hand is removed by the next apply.

# What nobody chose a group for gets this one, and with it no connection at all.
resource "aws_default_security_group" "closed" {
  vpc_id  = aws_vpc.main.id
  ingress = []
  egress  = []

  tags = { Name = "${local.prefix}-default-closed" }
}

resource "aws_security_group" "alb" {
  name        = "${local.prefix}-alb"
  description = "Load balancer: web from the allowed addresses, nothing out"
  vpc_id      = aws_vpc.main.id

  ingress {
    description = "HTTPS"
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = var.allowed_cidrs
  }

  ingress {
    description = "HTTP, only to be redirected"
    protocol    = "tcp"
    from_port   = 80
    to_port     = 80
    cidr_blocks = var.allowed_cidrs
  }

  # Type 3, code 4. It comes from routers on the way, not from the client; without it long answers
  # are lost on a way with small packets.
  ingress {
    description = "Path MTU discovery"
    protocol    = "icmp"
    from_port   = 3
    to_port     = 4
    cidr_blocks = [local.anywhere]
  }

  # The load balancer calls Lambda's API, not an address in the VPC.
  egress = []

  tags = { Name = "${local.prefix}-alb" }
}

resource "aws_security_group" "functions" {
  name        = "${local.prefix}-functions"
  description = "Functions: web out, nothing in"
  vpc_id      = aws_vpc.main.id

  ingress = []

  egress {
    description = "AWS and the upstreams"
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = [local.anywhere]
  }

  egress {
    description = "Upstreams without TLS"
    protocol    = "tcp"
    from_port   = 80
    to_port     = 80
    cidr_blocks = [local.anywhere]
  }

  tags = { Name = "${local.prefix}-functions" }

  # As for the private subnets.
  timeouts {
    delete = "60m"
  }
  depends_on = [aws_iam_role_policy.function]
}

# Network ACLs: the same for whole subnets, whatever its group. They know no connections, so the
# answers need rules of their own, to the ports that clients (1024 and up) and NAT gateways choose.
# Names are resolved all the same: no ACL and no group stands before the VPC's own resolver.

locals {
  web = {
    80  = { protocol = "tcp", from_port = 80, to_port = 80, icmp_type = null, icmp_code = null }
    443 = { protocol = "tcp", from_port = 443, to_port = 443, icmp_type = null, icmp_code = null }
  }
  answers = { protocol = "tcp", from_port = 1024, to_port = 65535, icmp_type = null, icmp_code = null }
  # "Packet too big", for the load balancer and the NAT gateways.
  path_mtu = { protocol = "icmp", from_port = 0, to_port = 0, icmp_type = 3, icmp_code = 4 }

  network_acls = {
    # In: clients to the load balancer, functions to the NAT gateway, upstreams' answers to it.
    # Out: the NAT gateway to upstreams, answers to clients and functions.
    public = {
      subnet_ids = aws_subnet.public[*].id
      ingress    = { 100 = local.web[80], 110 = local.web[443], 120 = local.answers, 130 = local.path_mtu }
      egress     = { 100 = local.web[80], 110 = local.web[443], 120 = local.answers }
    }
    private = {
      subnet_ids = aws_subnet.private[*].id
      ingress    = { 120 = local.answers }
      egress     = { 100 = local.web[80], 110 = local.web[443] }
    }
  }
}

resource "aws_network_acl" "tier" {
  # The emulator keeps neither an entry's ports nor which ACL a subnet has.
  for_each = { for tier, acl in local.network_acls : tier => acl if !var.emulated }

  vpc_id     = aws_vpc.main.id
  subnet_ids = each.value.subnet_ids

  dynamic "ingress" {
    for_each = each.value.ingress
    content {
      rule_no    = ingress.key
      action     = "allow"
      cidr_block = local.anywhere
      protocol   = ingress.value.protocol
      from_port  = ingress.value.from_port
      to_port    = ingress.value.to_port
      icmp_type  = ingress.value.icmp_type
      icmp_code  = ingress.value.icmp_code
    }
  }

  dynamic "egress" {
    for_each = each.value.egress
    content {
      rule_no    = egress.key
      action     = "allow"
      cidr_block = local.anywhere
      protocol   = egress.value.protocol
      from_port  = egress.value.from_port
      to_port    = egress.value.to_port
    }
  }

  tags = { Name = "${local.prefix}-${each.key}" }
}

# Flow logs: who spoke with whom, and who was refused. About 0.50 USD per GB of log; ten-minute
# records are fewer than one-minute ones.

resource "aws_cloudwatch_log_group" "flow" {
  count = var.flow_logs ? 1 : 0

  name              = "/aws/vpc/${local.prefix}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_iam_role" "flow" {
  count = var.flow_logs ? 1 : 0

  name        = "${local.prefix}-flow-logs"
  description = "What the VPC's flow logs may do: write to their log group"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      # Nobody else's flow logs.
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:ec2:${local.region}:${local.account_id}:vpc-flow-log/*" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "flow" {
  count = var.flow_logs ? 1 : 0

  name = "flow-logs"
  role = aws_iam_role.flow[0].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid    = "Logs"
      Effect = "Allow"
      Action = ["logs:CreateLogStream", "logs:DescribeLogGroups", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      # Without CreateLogGroup: the group is there, with a retention.
      Resource = "arn:${local.partition}:logs:${local.region}:${local.account_id}:log-group:/aws/vpc/${local.prefix}:*"
    }]
  })
}

resource "aws_flow_log" "main" {
  count = var.flow_logs ? 1 : 0

  vpc_id                   = aws_vpc.main.id
  traffic_type             = "ALL"
  max_aggregation_interval = 600
  log_destination_type     = "cloud-watch-logs"
  log_destination          = aws_cloudwatch_log_group.flow[0].arn
  iam_role_arn             = aws_iam_role.flow[0].arn

  tags = { Name = local.prefix }

  depends_on = [aws_iam_role_policy.flow]
}
