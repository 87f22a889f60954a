"""What scripts/destroy takes for a stack's own, and what it says where it cannot look."""

import importlib.util
import io
import json
import sys
import unittest
from contextlib import redirect_stderr
from importlib.machinery import SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
import residue  # noqa: E402
from stack import Failed, Stack  # noqa: E402


def load(path):
    """A script without a suffix as a module."""
    loader = SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


destroy = load(ROOT / "scripts" / "destroy")
TABLES = ("access", "batches", "devices", "services", "autoscaler")


class Account(Stack):
    """The stack muster-test in an account that gives these answers, and nothing for the rest."""

    def __init__(self, answers):
        super().__init__("test")
        self.account, self.region, self.emulated = "123456789012", "eu-west-1", True
        self.answers, self.calls = answers, []

    def aws(self, *args, check=True):
        self.calls.append(" ".join(args))
        answer = next((answer for call, answer in self.answers.items() if " ".join(args).startswith(call)), None)
        if callable(answer):
            answer = answer(args)
        if check and isinstance(answer, str):
            raise Failed(answer)
        return answer


def tagged(*arns, environment="test"):
    tags = [{"Key": "Project", "Value": "muster"}, {"Key": "Environment", "Value": environment}]
    return [{"ResourceARN": arn, "Tags": tags} for arn in arns]


def names(found):
    return [f"{thing.kind} {thing.name}" for thing in found.left]


class Residue(unittest.TestCase):
    def test_nothing_is_nothing(self):
        self.assertEqual(residue.look(Account({})), ([], [], []))

    def test_a_stack_whose_name_begins_alike_is_another(self):
        tables = {"TableNames": ["muster-test", "muster-test-batches", "muster-test-2-batches", "muster-testing", "other"]}
        account = Account({"dynamodb list-tables": tables})
        self.assertEqual(names(residue.look(account, ["muster-test-2"])), ["table muster-test", "table muster-test-batches"])
        # … also where only its tags tell of it.
        other = tagged("arn:aws:dynamodb:eu-west-1:123456789012:table/muster-test-2-batches", environment="test-2")
        account.answers["resourcegroupstaggingapi"] = {"ResourceTagMappingList": other}
        self.assertEqual(names(residue.look(account)), ["table muster-test", "table muster-test-batches"])

    def test_what_is_refused_is_said_and_not_taken_for_nothing(self):
        refused = "An error occurred (AccessDenied) when calling the ListRoles operation"
        found = residue.look(Account({"iam list-roles": refused, "resourcegroupstaggingapi": "no", "acm": "no", "dynamodb list-backups": "no"}))
        self.assertEqual(found.left, [])
        self.assertEqual(sorted(found.unchecked), ["anything by tag: no", "backup of a table: no", "certificate: no", f"role: {refused}"])

    def test_the_index_of_tags_counts_where_the_service_itself_was_not_asked(self):
        arns = ["arn:aws:ec2:eu-west-1:123456789012:vpc/vpc-1", "arn:aws:sqs:eu-west-1:123456789012:muster-test-dead-letters",
                "arn:aws:kms:eu-west-1:123456789012:key/1"]
        account = Account({"resourcegroupstaggingapi": {"ResourceTagMappingList": tagged(*arns)}})
        # The VPC and the queue are gone; the index has not heard of it.
        self.assertEqual(names(residue.look(account)), [f"tagged {arns[2]}"])
        account.answers["ec2 describe-vpcs"] = "not allowed"
        self.assertEqual(names(residue.look(account)), [f"tagged {arns[0]}", f"tagged {arns[2]}"])

    def test_what_a_vpc_takes_with_it_is_not_listed(self):
        found = residue.look(Account({
            "ec2 describe-security-groups": {"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "default"}, {"GroupId": "sg-2", "GroupName": "x"}]},
            "ec2 describe-route-tables": {"RouteTables": [{"RouteTableId": "rtb-1", "Associations": [{"Main": True}]}]},
            "ec2 describe-network-acls": {"NetworkAcls": [{"NetworkAclId": "acl-1", "IsDefault": True}, {"NetworkAclId": "acl-2", "IsDefault": False}]},
        }))
        self.assertEqual(names(found), ["security group sg-2", "network ACL acl-2"])

    def test_the_interfaces_that_lambda_still_holds_are_found_by_their_description(self):
        lambdas = {"NetworkInterfaces": [
            {"NetworkInterfaceId": "eni-1", "Description": "AWS Lambda VPC ENI-muster-test-batches-01234567"},
            {"NetworkInterfaceId": "eni-2", "Description": "AWS Lambda VPC ENI-muster-test-2-batches-01234567"},
        ]}
        account = Account({"ec2 describe-network-interfaces --filters Name=description": lambdas})
        self.assertEqual(names(residue.look(account, ["muster-test-2"])), ["network interface eni-1"])

    def test_a_secret_that_can_still_be_had_back_is_kept_and_not_left(self):
        secrets = [{"Name": "muster-test/A", "DeletedDate": 1795236959.5}, {"Name": "muster-test/B"}, {"Name": "muster-test-a"}, {"Name": "mine"}]
        found = residue.look(Account({"secretsmanager list-secrets": {"SecretList": secrets}}))
        self.assertEqual(names(found), ["secret muster-test/B", "secret muster-test-a"])
        self.assertIn("muster-test/A, marked as deleted (2026-11-21)", found.kept[0])

    def test_long_names_are_cut_as_the_load_balancer_has_them(self):
        # The same as substr(name, 0, 23)-substr(sha256(name), 0, 8) in Terraform.
        self.assertEqual(residue.short_name("muster-test"), "muster-test")
        self.assertEqual(residue.short_name("a-name-of-twenty-chars-environment12"), "a-name-of-twenty-chars--" + residue.checksum("a-name-of-twenty-chars-environment12")[:8])
        self.assertEqual(len(residue.short_name("a" * 60)), 32)

    def test_every_look_knows_how_to_remove_what_it_finds(self):
        for place in residue.places(Account({}), residue.Names("muster-test")):
            self.assertTrue(place.remove.startswith(("aws ", "for policy in $(aws ")), place)


class Protection(unittest.TestCase):
    def test_only_this_stacks_own_tables_are_looked_at(self):
        account = Account({"dynamodb describe-table": {"Table": {"DeletionProtectionEnabled": True}}, "elbv2": "An error occurred (LoadBalancerNotFound)"})
        self.assertEqual(destroy.protection(account), [("table", f"muster-test-{name}") for name in TABLES])
        with redirect_stderr(io.StringIO()):
            destroy.unprotect(account, destroy.protection(account))
        changed = [call for call in account.calls if "update-table" in call]
        self.assertEqual(changed, [f"dynamodb update-table --table-name muster-test-{name} --no-deletion-protection-enabled" for name in TABLES])

    def test_what_cannot_be_seen_is_not_taken_for_unprotected(self):
        missing = "An error occurred (ResourceNotFoundException)"
        for answers in ({"dynamodb describe-table": "AccessDenied"}, {"dynamodb describe-table": missing, "elbv2": "AccessDenied"}):
            with self.assertRaises(Failed):
                destroy.protection(Account(answers))
        self.assertEqual(destroy.protection(Account({"dynamodb describe-table": missing, "elbv2": "LoadBalancerNotFound"})), [])

    def test_it_is_switched_off_only_where_the_environments_name_is_given_again(self):
        protected = [("table", "muster-test-batches")]
        for word in (None, "yes", "prod"):
            with self.assertRaises(Failed):
                destroy.check_unprotect(Account({}), protected, word)
        destroy.check_unprotect(Account({}), protected, "test")


class StateBucket(unittest.TestCase):
    @staticmethod
    def account(states):
        """With this many resources in the states of these environments, and these other objects."""
        def get(args):
            Path(args[-1]).write_text(json.dumps({"version": 4, "resources": [{}] * states[args[args.index("--key") + 1]]}))
            return {}

        return Account({"s3api list-objects-v2": {"Contents": [{"Key": key} for key in states]}, "s3api get-object": get})

    def test_it_is_removed_where_nothing_is_in_its_states(self):
        account = self.account({"test.tfstate": 0, "prod.tfstate": 0})
        with redirect_stderr(io.StringIO()):
            destroy.remove_state_bucket(account)
        self.assertEqual(account.calls[-1], "s3api delete-bucket --bucket muster-terraform-123456789012-eu-west-1")

    def test_it_stays_where_somebody_needs_it(self):
        for states, why in (({"test.tfstate": 0, "prod.tfstate": 3}, "3 resources of prod"), ({"test.tfstate": 1}, "1 resources of test"),
                            ({"prod.tfstate": 0, "prod.tfstate.tflock": 0}, "somebody is at work"), ({"notes.txt": 0}, "notes.txt")):
            account = self.account(states)
            with self.assertRaisesRegex(Failed, why):
                destroy.remove_state_bucket(account)
            self.assertFalse(any("delete" in call for call in account.calls), account.calls)


if __name__ == "__main__":
    unittest.main()
