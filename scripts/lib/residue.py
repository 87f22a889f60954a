"""What is left of a stack in its account, found by tag and by name, with the command that removes it.

Terraform removes what its state knows. An apply that was killed in its first seconds leaves more:
things that were made and not yet written down. Tags alone do not find all of it (no addresses, no
functions' network interfaces, no dashboards), names alone neither, so both are looked for.
"""

import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, NamedTuple, Optional

from stack import INFRA


class Thing(NamedTuple):
    """One thing that is left."""

    kind: str
    name: str
    remove: str  # the command


class Residue(NamedTuple):
    """What was found."""

    left: list  # of Thing
    kept: list  # of texts: what AWS keeps for a while on purpose, at no cost
    unchecked: list  # of texts: where nobody could look, and why


class Look(NamedTuple):
    """One place to look: a call of the aws command that lists things of one kind."""

    kind: str
    types: tuple  # the types in ARNs that this look answers for
    call: str
    key: str  # where in the answer the list is
    name: Callable
    remove: str  # a format of the item's fields and `name`
    is_ours: Optional[Callable] = None  # of name and item; None where the call lists this stack's own only


class Names:
    """The names that a stack gives: its prefix, and whatever begins with it."""

    def __init__(self, prefix, others=()):
        self.prefix = prefix
        # Another stack's prefix may begin with ours, as muster-test-2 does with muster-test.
        self.others = [other for other in others if other.startswith(f"{prefix}-")]

    def __contains__(self, name):
        def is_of(prefix):
            return name == prefix or name.startswith((f"{prefix}-", f"{prefix}/"))

        return is_of(self.prefix) and not any(is_of(other) for other in self.others)


def checksum(text):
    """SHA-256 in hexadecimal, as Terraform's sha256()."""
    return hashlib.sha256(text.encode()).hexdigest()


def short_name(name):
    """The name of a load balancer or target group as alb.tf cuts it to 32 characters."""
    return name if len(name) <= 32 else f"{name[:23]}-{checksum(name)[:8]}"


def functions():
    """The names in functions.json."""
    return [function["name"] for function in json.loads((INFRA / "functions.json").read_text())["functions"]]


def tables(stack):
    """The full names of this stack's tables, from tables.json."""
    return [f"{stack.prefix}-{table['name']}" for table in json.loads((INFRA / "tables.json").read_text())]


def places(stack, names):
    """Where to look, in the order in which things can be removed."""
    prefix = stack.prefix
    tags = f"Name=tag:Project,Values={stack.name} Name=tag:Environment,Values={stack.environment}"
    balancers = {short_name(name) for name in (prefix, *(f"{prefix}-{name}" for name in functions()))}
    is_balancer = lambda name, _: name in names or name in balancers  # noqa: E731
    is_named = lambda name, _: name in names  # noqa: E731
    last = lambda text: re.split("[:/]", text)[-1]  # noqa: E731
    last_of = lambda text, start: (text or "").split(start)[-1]  # noqa: E731

    def network(kind, resource, call, key, identity, remove, option="--filters", more="", name=None):
        name = name or (lambda it: it[identity])
        return Look(kind, (f"ec2:{resource}",), f"ec2 {call} {option} {tags} {more}", key, name, f"aws ec2 {remove}")

    yield Look("event source mapping", ("lambda:event-source-mapping",), "lambda list-event-source-mappings",
               "EventSourceMappings", lambda it: it["FunctionArn"].split(":function:")[-1].split(":")[0],
               "aws lambda delete-event-source-mapping --uuid {UUID}", is_named)
    yield Look("schedule", ("scheduler:schedule",), f"scheduler list-schedules --name-prefix {prefix}", "Schedules",
               lambda it: it["Name"], "aws scheduler delete-schedule --name {Name} --group-name {GroupName}", is_named)
    yield Look("schedule group", ("scheduler:schedule-group",), f"scheduler list-schedule-groups --name-prefix {prefix}",
               "ScheduleGroups", lambda it: it["Name"], "aws scheduler delete-schedule-group --name {Name}", is_named)
    yield Look("function", ("lambda:function",), "lambda list-functions", "Functions", lambda it: it["FunctionName"],
               "aws lambda delete-function --function-name {FunctionName}", is_named)
    yield Look("load balancer",
               ("elasticloadbalancing:loadbalancer", "elasticloadbalancing:listener", "elasticloadbalancing:listener-rule"),
               "elbv2 describe-load-balancers", "LoadBalancers", lambda it: it["LoadBalancerName"],
               "aws elbv2 delete-load-balancer --load-balancer-arn {LoadBalancerArn}", is_balancer)
    yield Look("target group", ("elasticloadbalancing:targetgroup",), "elbv2 describe-target-groups", "TargetGroups",
               lambda it: it["TargetGroupName"], "aws elbv2 delete-target-group --target-group-arn {TargetGroupArn}", is_balancer)
    yield Look("web ACL", ("wafv2:regional",), "wafv2 list-web-acls --scope REGIONAL", "WebACLs", lambda it: it["Name"],
               "aws wafv2 delete-web-acl --scope REGIONAL --name {Name} --id {Id} --lock-token {LockToken}", is_named)
    yield Look("alarm", ("cloudwatch:alarm",), f"cloudwatch describe-alarms --alarm-name-prefix {prefix}-", "MetricAlarms",
               lambda it: it["AlarmName"], "aws cloudwatch delete-alarms --alarm-names {AlarmName}", is_named)
    yield Look("dashboard", ("cloudwatch:dashboard",), f"cloudwatch list-dashboards --dashboard-name-prefix {prefix}",
               "DashboardEntries", lambda it: it["DashboardName"],
               "aws cloudwatch delete-dashboards --dashboard-names {DashboardName}", is_named)
    yield Look("topic", ("sns",), "sns list-topics", "Topics", lambda it: last(it["TopicArn"]),
               "aws sns delete-topic --topic-arn {TopicArn}", is_named)
    yield Look("queue", ("sqs",), f"sqs list-queues --queue-name-prefix {prefix}", "QueueUrls", lambda it: last(it["it"]),
               "aws sqs delete-queue --queue-url {it}", is_named)
    yield Look("table", ("dynamodb:table",), "dynamodb list-tables", "TableNames", lambda it: it["it"],
               "aws dynamodb delete-table --table-name {it}", is_named)
    yield Look("secret", ("secretsmanager:secret",), "secretsmanager list-secrets --include-planned-deletion", "SecretList",
               lambda it: it["Name"], "aws secretsmanager delete-secret --force-delete-without-recovery --secret-id {Name}", is_named)
    for start in ("/aws/lambda/", "/aws/vpc/", "aws-waf-logs-"):
        yield Look("log group", ("logs:log-group",), f"logs describe-log-groups --log-group-name-prefix {start}{prefix}",
                   "logGroups", lambda it: it["logGroupName"], "aws logs delete-log-group --log-group-name {logGroupName}",
                   lambda name, _, start=start: name[len(start):] in names)
    yield Look("log resource policy", (), "logs describe-resource-policies", "resourcePolicies", lambda it: it["policyName"],
               "aws logs delete-resource-policy --policy-name {policyName}", is_named)
    yield Look("bucket", ("s3",), "s3api list-buckets", "Buckets", lambda it: it["Name"],
               "aws s3 rb --force s3://{Name}", lambda name, _: name in names and name != stack.state_bucket)

    yield Look("flow log", ("ec2:vpc-flow-log",), "ec2 describe-flow-logs", "FlowLogs", lambda it: it["FlowLogId"],
               "aws ec2 delete-flow-logs --flow-log-ids {FlowLogId}",
               lambda _, it: last_of(it.get("LogGroupName") or it.get("LogDestination"), "/aws/vpc/") in names)

    # The network, by tag: every one of these has its tags from the moment it is made.
    yield network("NAT gateway", "natgateway", "describe-nat-gateways", "NatGateways", "NatGatewayId",
                  "delete-nat-gateway --nat-gateway-id {NatGatewayId}", option="--filter",
                  more="Name=state,Values=pending,available,deleting,failed")  # deleted ones are shown for an hour
    yield network("VPC endpoint", "vpc-endpoint", "describe-vpc-endpoints", "VpcEndpoints", "VpcEndpointId",
                  "delete-vpc-endpoints --vpc-endpoint-ids {VpcEndpointId}")
    yield network("address", "elastic-ip", "describe-addresses", "Addresses", "AllocationId",
                  "release-address --allocation-id {AllocationId}", name=lambda it: f"{it['AllocationId']} ({it.get('PublicIp')})")
    yield network("network interface", "network-interface", "describe-network-interfaces", "NetworkInterfaces",
                  "NetworkInterfaceId", "delete-network-interface --network-interface-id {NetworkInterfaceId}")
    # Lambda's own carry no tags; it removes them itself, some time after the last function is gone.
    lambdas = "AWS Lambda VPC ENI-"
    yield Look("network interface", (),
               f"ec2 describe-network-interfaces --filters Name=description,Values={lambdas.replace(' ', '?')}{prefix}-*",
               "NetworkInterfaces", lambda it: it["NetworkInterfaceId"],
               "aws ec2 delete-network-interface --network-interface-id {NetworkInterfaceId}  # Lambda does so itself within 45 minutes",
               lambda _, it: it.get("Description", "").startswith(lambdas) and it["Description"][len(lambdas):] in names)
    yield network("security group", "security-group", "describe-security-groups", "SecurityGroups", "GroupId",
                  "delete-security-group --group-id {GroupId}")
    yield network("subnet", "subnet", "describe-subnets", "Subnets", "SubnetId", "delete-subnet --subnet-id {SubnetId}")
    yield network("network ACL", "network-acl", "describe-network-acls", "NetworkAcls", "NetworkAclId",
                  "delete-network-acl --network-acl-id {NetworkAclId}")
    yield network("route table", "route-table", "describe-route-tables", "RouteTables", "RouteTableId",
                  "delete-route-table --route-table-id {RouteTableId}")
    yield network("internet gateway", "internet-gateway", "describe-internet-gateways", "InternetGateways", "InternetGatewayId",
                  "delete-internet-gateway --internet-gateway-id {InternetGatewayId}  # after detach-internet-gateway, if it has a VPC")
    yield network("VPC", "vpc", "describe-vpcs", "Vpcs", "VpcId", "delete-vpc --vpc-id {VpcId}")

    yield Look("role", ("iam:role",), "iam list-roles", "Roles", lambda it: it["RoleName"],
               "for policy in $(aws iam list-role-policies --role-name {RoleName} --query PolicyNames --output text); "
               "do aws iam delete-role-policy --role-name {RoleName} --policy-name $policy; done; "
               "aws iam delete-role --role-name {RoleName}", is_named)
    # No keys: the stack makes none. A customer key is the customer's and stays.


def look(stack, others=()):
    """Looks everywhere. `others` are the prefixes of other stacks in the account."""
    found = Residue([], [], [])
    tagged = stack.aws("resourcegroupstaggingapi", "get-resources", "--tag-filters", f"Key=Project,Values={stack.name}", check=False)
    if isinstance(tagged, str):
        found.unchecked.append(f"anything by tag: {tagged}")
        tagged = None
    tagged = [(it["ResourceARN"], environment(it)) for it in (tagged or {}).get("ResourceTagMappingList") or []]
    # Stacks that neither this clone nor the state bucket knows show by their tags.
    others = {*others, *(f"{stack.name}-{other}" for _, other in tagged if other != stack.environment)}

    names = Names(stack.prefix, others)
    everywhere = list(places(stack, names))
    further = [lambda: certificates_left(stack), lambda: records_left(stack), lambda: backups_kept(stack, names)]
    with ThreadPoolExecutor(max_workers=6) as pool:
        answers = list(pool.map(lambda it: stack.aws(*it.call.split(), check=False), everywhere))
        for part in pool.map(lambda it: it(), further):
            for whole, some in zip(found, part):
                whole.extend(some)

    looked_at, listed = {"acm:certificate"}, {}
    for place, answer in zip(everywhere, answers):
        if isinstance(answer, str):
            found.unchecked.append(f"{place.kind}: {answer}")
            continue
        looked_at.update(place.types)
        for item in (answer or {}).get(place.key) or []:
            item = {"it": item} if isinstance(item, str) else item
            name = place.name(item)
            if goes_with_something_else(item) or (place.is_ours and not place.is_ours(name, item)):
                continue
            if "DeletedDate" in item:
                found.kept.append(
                    f"secret {name}, marked as deleted ({day(item['DeletedDate'])}); for up to 30 days its name is taken\n"
                    f"    back: aws secretsmanager restore-secret --secret-id {name}\n"
                    f"    away: {place.remove.format(**item)}")
            else:
                # A thing that two looks find is listed once.
                listed.setdefault((place.kind, name), Thing(place.kind, name, place.remove.format(**item)))
    found.left[:0] = listed.values()

    for arn, whose in tagged:
        # The index of tags remembers for hours what is gone: what the service itself was asked for,
        # it knows better.
        service, kind = arn_type(arn)
        if whose == stack.environment and not looked_at & {service, f"{service}:{kind}"}:
            found.left.append(Thing("tagged", arn, f"aws {service} help  # has the command that deletes it"))
    return found


def environment(resource):
    """The value of a resource's tag Environment, as the index of tags has it."""
    return next((tag["Value"] for tag in resource.get("Tags") or [] if tag["Key"] == "Environment"), "")


def goes_with_something_else(item):
    """What a VPC brings along and takes with it: it cannot be deleted, and need not."""
    is_default_group = "GroupId" in item and item.get("GroupName") == "default"
    is_main = any(association.get("Main") for association in item.get("Associations") or [])
    return is_default_group or is_main or (item.get("IsDefault") is True and "NetworkAclId" in item)


def arn_type(arn):
    """The service of an ARN and the type of the resource, empty where the service has only one."""
    service, rest = arn.split(":")[2], arn.split(":", 5)[5]
    return service, re.split("[:/]", rest)[0] if re.search("[:/]", rest) else ""


def day(when):
    """The day of a time as the aws command writes it: seconds or a text, by its version."""
    return time.strftime("%Y-%m-%d", time.gmtime(when)) if isinstance(when, (int, float)) else str(when)[:10]


def certificates(stack):
    """This stack's certificates: pairs of ARN and name. A text if that cannot be found out."""
    answer = stack.aws("acm", "list-certificates", check=False)
    if isinstance(answer, str):
        return answer
    mine = []
    for certificate in (answer or {}).get("CertificateSummaryList") or []:
        # Ours are imported, or for the stack's own name; the tags of all others need no look.
        if certificate.get("Type") == "AMAZON_ISSUED" and certificate["DomainName"] != stack.variable("domain_name"):
            continue
        arn = certificate["CertificateArn"]
        tags = stack.aws("acm", "list-tags-for-certificate", "--certificate-arn", arn, check=False)
        if isinstance(tags, str):
            return tags
        tags = {tag["Key"]: tag.get("Value") for tag in tags["Tags"]}
        if (tags.get("Project"), tags.get("Environment")) == (stack.name, stack.environment):
            mine.append((arn, tags.get("Name", "")))
    return mine


def certificates_left(stack):
    found = certificates(stack)
    if isinstance(found, str):
        return Residue([], [], [f"certificate: {found}"])
    remove = "aws acm delete-certificate --certificate-arn"
    return Residue([Thing("certificate", name or arn, f"{remove} {arn}") for arn, name in found], [], [])


def records_left(stack):
    """The DNS records of the stack's own name, in the zone that it was given."""
    zone, domain = stack.variable("zone_id"), stack.variable("domain_name")
    if not zone or not domain:
        return Residue([], [], [])
    answer = stack.aws("route53", "list-resource-record-sets", "--hosted-zone-id", zone, check=False)
    if isinstance(answer, str):
        return Residue([], [], [f"DNS record: {answer}"])
    left = []
    for record in answer["ResourceRecordSets"]:
        name = record["Name"].rstrip(".")
        is_validation = record["Type"] == "CNAME" and re.fullmatch(rf"_[0-9a-f]+\.{re.escape(domain)}", name)
        if is_validation or (name == domain and record["Type"] == "A" and "AliasTarget" in record):
            change = json.dumps({"Changes": [{"Action": "DELETE", "ResourceRecordSet": record}]}, separators=(",", ":"))
            left.append(Thing("DNS record", f"{record['Type']} {name}",
                              f"aws route53 change-resource-record-sets --hosted-zone-id {zone} --change-batch '{change}'"))
    return Residue(left, [], [])


def backups_kept(stack, names):
    """The backups that DynamoDB itself makes of a table with point-in-time recovery when it goes."""
    answer = stack.aws("dynamodb", "list-backups", "--backup-type", "SYSTEM", check=False)
    if isinstance(answer, str):
        return Residue([], [], [f"backup of a table: {answer}"])
    return Residue([], [
        f"backup of table {backup['TableName']}, until {day(backup.get('BackupExpiryDateTime', '35 days'))}, at no cost\n"
        f"    back: aws dynamodb restore-table-from-backup --target-table-name {backup['TableName']} --backup-arn {backup['BackupArn']}"
        for backup in (answer or {}).get("BackupSummaries") or [] if backup.get("TableName") in names
    ], [])
