#!/usr/bin/env python3
"""Checks infra/ without an account and without a network: format, validity, Terraform's own tests, and
checkov, whose findings must all be on the list infra/checkov.json with a reason."""

import fnmatch
import json
import os
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stack import INFRA, TARGET, Failed, init, last_lines, main, run, say, terraform, virtual_environment  # noqa: E402

CHECKOV = "checkov==3.2.459"
FOLDER = TARGET / "terraform" / "check"


def check():
    if not shutil.which("terraform"):
        if os.environ.get("CI"):
            raise Failed("missing: terraform")
        say("not checked: terraform is not installed")
        return
    run(["terraform", f"-chdir={INFRA}", "fmt", "-check", "-recursive", "-diff"])
    init(FOLDER, "-backend=false")
    terraform(FOLDER, "validate", "-no-color")
    tested = terraform(FOLDER, "test", "-no-color", quiet=True, check=False)
    say("\n".join(re.findall(r"^  run .*\.\.\. .*|^Success.*|^Failure.*", tested.out, re.MULTILINE)))
    if tested.code != 0:
        errors = re.findall(r"^Error: .*(?:\n(?!  run ).*){0,12}", tested.out + tested.err, re.MULTILINE)
        raise Failed("terraform test failed", last_lines("\n".join(errors), 60))
    checkov()


def checkov():
    bin_dir = virtual_environment("checkov", CHECKOV)
    known = json.loads((INFRA / "checkov.json").read_text())
    ran = run([bin_dir / "checkov", "--directory", INFRA, "--framework", "terraform", "--var-file", INFRA / "env" / "prod.tfvars",
               "--skip-download", "--quiet", "--compact", "--output", "json"], quiet=True, check=False)
    try:
        report = json.loads(ran.out)
    except ValueError:
        raise Failed("checkov failed", last_lines(ran.err)) from None
    used, unknown = set(), []
    for finding in report["results"]["failed_checks"]:
        for number, entry in enumerate(known):
            # Brackets in an address are its own, not a pattern's.
            pattern = entry["resource"].replace("[", "[[]")
            if entry["check"] == finding["check_id"] and fnmatch.fnmatchcase(finding["resource"], pattern):
                used.add(number)
                break
        else:
            unknown.append(f"{finding['check_id']} {finding['resource']}: {finding['check_name']}")
    unused = [f"{entry['check']} {entry['resource']}" for number, entry in enumerate(known) if number not in used]
    passed = report["summary"]["passed"]
    if unknown:
        raise Failed("checkov finds what infra/checkov.json does not excuse", "\n  ".join(unknown))
    if unused:
        raise Failed("infra/checkov.json excuses what checkov does not find any more; remove it", "\n  ".join(unused))
    if not passed:
        raise Failed("checkov checked nothing")
    say(f"checkov: {passed} checks passed, {len(report['results']['failed_checks'])} excused with a reason")


if __name__ == "__main__":
    main(check)
