"""Tries every action on every table, every secret and every topic, as each function; reads what to try
from standard input. Run by scripts/rehearse with a Python that has boto3."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

KEY = {"pk": {"S": "PRIVILEGES"}, "sk": {"S": "PRIVILEGES"}}
# A condition that never holds, so that a write which is allowed changes nothing.
NEVER = {"ConditionExpression": "attribute_exists(#never)", "ExpressionAttributeNames": {"#never": "never"}}

ACTIONS = {
    "BatchGetItem": lambda db, table: db.batch_get_item(RequestItems={table: {"Keys": [KEY]}}),
    "BatchWriteItem": lambda db, table: db.batch_write_item(RequestItems={table: [{"DeleteRequest": {"Key": KEY}}]}),
    "ConditionCheckItem": lambda db, table: db.transact_write_items(
        TransactItems=[{"ConditionCheck": {"TableName": table, "Key": KEY, **NEVER}}]),
    "DeleteItem": lambda db, table: db.delete_item(TableName=table, Key=KEY, **NEVER),
    "DescribeTable": lambda db, table: db.describe_table(TableName=table),
    "GetItem": lambda db, table: db.get_item(TableName=table, Key=KEY),
    "PutItem": lambda db, table: db.put_item(TableName=table, Item=KEY, **NEVER),
    "Query": lambda db, table: db.query(
        TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": "PRIVILEGES"}}),
    "Scan": lambda db, table: db.scan(TableName=table, Limit=1),
    "UpdateItem": lambda db, table: db.update_item(TableName=table, Key=KEY, UpdateExpression="REMOVE nothing", **NEVER),
    "UpdateTable": lambda db, table: db.update_table(TableName=table, BillingMode="PAY_PER_REQUEST"),
}
REFUSED = ("AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation")


def allowed(call):
    try:
        call()
        return True
    except ClientError as error:
        return error.response["Error"]["Code"] not in REFUSED


def client(service, credentials):
    session = boto3.Session(
        aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"], aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=credentials["AWS_SESSION_TOKEN"])
    return session.client(service, config=Config(retries={"max_attempts": 1}))


def main():
    work = json.load(sys.stdin)
    tries = []
    for name, function in work["functions"].items():
        database, secrets, topics = (client(service, function["credentials"]) for service in ("dynamodb", "secretsmanager", "sns"))
        for capability, table in work["tables"].items():
            for action, call in ACTIONS.items():
                expected = action in function["tables"].get(capability, [])
                tries.append((f"{name}: {action} on {table}", expected, lambda call=call, db=database, table=table: call(db, table)))
        for secret, place in work["secrets"].items():
            tries.append((f"{name}: GetSecretValue of {place}", secret in function["secrets"],
                          lambda secrets=secrets, place=place: secrets.get_secret_value(SecretId=place)))
        for topic, arn in work["topics"].items():
            # Nothing is sent: there is no message without a text.
            tries.append((f"{name}: Publish to {arn}", topic in function["topics"],
                          lambda topics=topics, arn=arn: topics.publish(TopicArn=arn, Message="")))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: allowed(one[2]), tries))
    wrong = [f"{what} is {'allowed' if was else 'refused'}" for (what, expected, _), was in zip(tries, found) if was != expected]
    may = sum(found)
    print(f"{len(tries)} calls tried: {may} allowed, {len(tries) - may} refused", file=sys.stderr)
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    sys.exit(1 if wrong or not may else 0)


main()
