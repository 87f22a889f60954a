# Who can reach whom. No network: the provider is mocked; "apply" fills ids with made-up values.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment         = "test"
  deletion_protection = false
  certificate_arn     = "arn:aws:acm:us-east-1:123456789012:certificate/1"
}

run "the_network_lets_through_no_more_than_it_must" {
  command = plan

  # Subnets

  assert {
    condition = (
      [for subnet in aws_subnet.public : subnet.availability_zone] == ["us-east-1a", "us-east-1b"]
      && [for subnet in aws_subnet.private : subnet.availability_zone] == ["us-east-1a", "us-east-1b"]
    )
    error_message = "each tier needs a subnet in each of the region's first two zones"
  }
  assert {
    condition = [for subnet in concat(aws_subnet.public, aws_subnet.private) : subnet.cidr_block] == [
      "10.42.0.0/19", "10.42.32.0/19", "10.42.64.0/19", "10.42.96.0/19"
    ]
    error_message = "the subnets are not the first four eighths of the VPC"
  }
  assert {
    condition     = alltrue([for subnet in concat(aws_subnet.public, aws_subnet.private) : subnet.map_public_ip_on_launch != true])
    error_message = "nothing may get a public address just for being in a subnet"
  }

  # Security groups

  assert {
    condition     = length(aws_default_security_group.closed.ingress) == 0 && length(aws_default_security_group.closed.egress) == 0
    error_message = "the default security group lets something through"
  }

  assert {
    condition     = length(aws_security_group.functions.ingress) == 0
    error_message = "something can reach the functions"
  }
  assert {
    condition = toset([
      for rule in aws_security_group.functions.egress : "${rule.protocol} ${rule.from_port}-${rule.to_port}"
    ]) == toset(["tcp 80-80", "tcp 443-443"])
    error_message = "the functions may go out to ports 80 and 443 only"
  }

  # Network ACLs

  assert {
    condition = {
      for tier, acl in aws_network_acl.tier :
      tier => { for direction, rules in { ingress = acl.ingress, egress = acl.egress } : direction => toset([
        for rule in rules : join(" ", compact([
          rule.action, rule.protocol,
          rule.protocol == "icmp" ? "type ${rule.icmp_type} code ${rule.icmp_code}" : "${rule.from_port}-${rule.to_port}",
        ]))
      ]) }
      } == {
      public = {
        ingress = toset(["allow tcp 80-80", "allow tcp 443-443", "allow tcp 1024-65535", "allow icmp type 3 code 4"])
        egress  = toset(["allow tcp 80-80", "allow tcp 443-443", "allow tcp 1024-65535"])
      }
      private = {
        ingress = toset(["allow tcp 1024-65535"])
        egress  = toset(["allow tcp 80-80", "allow tcp 443-443"])
      }
    }
    error_message = "a network ACL lets through more or less than the web and its answers"
  }

  # Flow logs

  assert {
    condition     = aws_flow_log.main[0].traffic_type == "ALL" && aws_flow_log.main[0].log_destination_type == "cloud-watch-logs"
    error_message = "refused and accepted connections are logged, to CloudWatch"
  }
  assert {
    condition     = aws_cloudwatch_log_group.flow[0].name == "/aws/vpc/muster-test" && aws_cloudwatch_log_group.flow[0].retention_in_days == 30
    error_message = "the flow logs' group must have the retention that was asked for"
  }
  assert {
    condition = alltrue([
      for statement in jsondecode(aws_iam_role_policy.flow[0].policy).Statement :
      statement.Resource == "arn:aws:logs:us-east-1:123456789012:log-group:/aws/vpc/muster-test:*" && !contains(statement.Action, "logs:CreateLogGroup")
    ])
    error_message = "the role may write to its own group and make none"
  }
}

run "the_operators_zones_and_addresses_are_used" {
  command = plan

  variables {
    availability_zones = ["us-east-1d", "us-east-1b"]
    allowed_cidrs      = ["203.0.113.0/24", "198.51.100.7/32"]
    vpc_cidr           = "192.168.7.0/24" # the smallest that is allowed
  }

  assert {
    condition = (
      [for subnet in aws_subnet.private : subnet.availability_zone] == ["us-east-1d", "us-east-1b"]
      && length(data.aws_availability_zones.available) == 0
    )
    error_message = "the named zones are not used"
  }

  assert {
    condition     = alltrue([for subnet in aws_subnet.public : tonumber(split("/", subnet.cidr_block)[1]) <= 27])
    error_message = "a load balancer accepts no subnet smaller than /27"
  }

  assert {
    condition = toset([
      for rule in aws_security_group.alb.ingress : "${rule.from_port}-${rule.to_port} ${join(" ", rule.cidr_blocks)}" if rule.protocol == "tcp"
      ]) == toset([
      "80-80 203.0.113.0/24 198.51.100.7/32",
      "443-443 203.0.113.0/24 198.51.100.7/32",
    ])
    error_message = "ports 80 and 443, from allowed_cidrs"
  }
  assert {
    condition = [
      for rule in aws_security_group.alb.ingress : "${rule.protocol} ${rule.from_port} ${rule.to_port}" if rule.protocol != "tcp"
    ] == ["icmp 3 4"]
    error_message = "besides the web only \"packet too big\" (ICMP type 3, code 4) comes in"
  }
  assert {
    condition     = length(aws_security_group.alb.egress) == 0
    error_message = "the load balancer has no business in the VPC"
  }
}

run "with_a_single_nat_gateway_everything_is_wired_to_its_like" {
  command = apply

  variables {
    nat = "single"
  }

  assert {
    condition     = length(aws_nat_gateway.main) == 1 && length(aws_eip.nat) == 1
    error_message = "single means one NAT gateway with one address"
  }
  assert {
    condition     = [for route in aws_route.nat : route.nat_gateway_id] == [for index in range(2) : aws_nat_gateway.main[0].id]
    error_message = "both private route tables lead to the one NAT gateway"
  }
  assert {
    condition     = length(distinct([for association in aws_route_table_association.private : association.route_table_id])) == 2
    error_message = "each private subnet has a route table of its own"
  }

  # Internet

  assert {
    condition = (
      aws_route.internet.route_table_id == aws_route_table.public.id
      && aws_route.internet.gateway_id == aws_internet_gateway.main.id
      && alltrue([for route in aws_route.nat : route.gateway_id == null])
    )
    error_message = "the private subnets must not lead to the internet gateway"
  }
  assert {
    condition     = alltrue([for index in range(2) : aws_route_table_association.public[index].subnet_id == aws_subnet.public[index].id])
    error_message = "the public route table belongs to the public subnets"
  }
  assert {
    condition     = toset(aws_lb.main.subnets) == toset(aws_subnet.public[*].id)
    error_message = "the load balancer belongs into the public subnets"
  }

  assert {
    condition = (
      toset(aws_network_acl.tier["public"].subnet_ids) == toset(aws_subnet.public[*].id)
      && toset(aws_network_acl.tier["private"].subnet_ids) == toset(aws_subnet.private[*].id)
    )
    error_message = "a subnet has the other tier's ACL, or none"
  }

  # Endpoints

  assert {
    condition = (
      aws_vpc_endpoint.dynamodb.service_name == "com.amazonaws.us-east-1.dynamodb" && aws_vpc_endpoint.dynamodb.vpc_endpoint_type == "Gateway"
      && aws_vpc_endpoint.s3.service_name == "com.amazonaws.us-east-1.s3" && aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway"
    )
    error_message = "DynamoDB and S3 need a gateway endpoint each; interface endpoints cost by the hour"
  }
  assert {
    condition = alltrue([
      for endpoint in [aws_vpc_endpoint.dynamodb, aws_vpc_endpoint.s3] : toset(endpoint.route_table_ids) == toset(aws_route_table.private[*].id)
    ])
    error_message = "the endpoints belong to the private route tables"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_vpc_endpoint.dynamodb.policy).Statement : "${statement.Effect} ${join(" ", flatten([statement.Resource]))}"
    ] == ["Allow arn:aws:dynamodb:us-east-1:123456789012:table/muster-test-*"]
    error_message = "the endpoint reaches other tables than this stack's"
  }
  # What a function may do, it must be able to do through the endpoint; nothing more.
  assert {
    condition = toset(one(jsondecode(aws_vpc_endpoint.dynamodb.policy).Statement).Action) == toset(flatten([
      for f in jsondecode(file("functions.json")).functions : [for actions in values(f.tables) : [for action in actions : "dynamodb:${action}"]]
    ]))
    error_message = "the endpoint's actions are not those of functions.json"
  }
  assert {
    condition = [
      for statement in jsondecode(aws_vpc_endpoint.s3.policy).Statement : "${statement.Effect} ${statement.Principal} ${statement.Action} ${statement.Resource}"
    ] == ["Deny * * *"]
    error_message = "the functions use no bucket, so the endpoint lets nothing through"
  }
}

run "a_nat_gateway_for_each_zone_keeps_zones_apart" {
  command = apply

  variables {
    nat = "per_zone"
  }

  assert {
    condition     = length(aws_nat_gateway.main) == 2 && length(aws_eip.nat) == 2
    error_message = "per_zone means two NAT gateways with an address each"
  }
  assert {
    condition = alltrue([
      for index in range(2) :
      aws_nat_gateway.main[index].subnet_id == aws_subnet.public[index].id
      && aws_nat_gateway.main[index].allocation_id == aws_eip.nat[index].id
      && aws_route_table_association.private[index].subnet_id == aws_subnet.private[index].id
      && aws_route_table_association.private[index].route_table_id == aws_route_table.private[index].id
      && aws_route.nat[index].route_table_id == aws_route_table.private[index].id
      && aws_route.nat[index].nat_gateway_id == aws_nat_gateway.main[index].id
    ])
    error_message = "a private subnet leaves the VPC through another zone"
  }
}

run "flow_logs_can_be_left_out" {
  command = plan

  variables {
    flow_logs = false
  }

  assert {
    condition     = length(aws_flow_log.main) + length(aws_cloudwatch_log_group.flow) + length(aws_iam_role.flow) + length(aws_iam_role_policy.flow) == 0
    error_message = "without flow logs nothing of them is made"
  }
}
