"""What the scripts for a stack on AWS share: which stack it is, its tools, Terraform and the aws
command. Python's standard library only; messages go to standard error, data to standard output."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
BEGAN = time.monotonic()


class Failed(Exception):
    """Something went wrong that the user can act on: what, and what to do next."""

    def __init__(self, what, hint=None, code=1):
        super().__init__(what)
        self.hint = hint
        self.code = code


def say(text):
    print(text, file=sys.stderr, flush=True)


def step(text):
    say(f"== {text} ({time.monotonic() - BEGAN:.0f} s)")


def main(run):
    """Runs a script's main function, and turns what goes wrong into a line and an exit code."""
    # A script that is told to end goes the same way as one that is interrupted, so it cleans up.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        sys.exit(run() or 0)
    except Failed as failed:
        say(f"error: {failed}")
        if failed.hint:
            say(f"  {failed.hint}")
        sys.exit(failed.code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


class Ran:
    """What a command left: its exit code and what it printed."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


def run(argv, env=None, cwd=None, text=None, quiet=False, check=True):
    """Runs a command to its end. With `quiet` what it prints is kept, otherwise shown. An interrupt
    is passed on to the command, and it is given the time to end by itself: Terraform writes down what
    it has made."""
    pipe = subprocess.PIPE if quiet else None
    try:
        process = subprocess.Popen(
            [str(part) for part in argv], env=env, cwd=cwd, text=True,
            stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL,
            stdout=pipe if quiet else sys.stderr, stderr=pipe,
            # Away from the terminal's own signals: two of them for one Ctrl-C, and Terraform would
            # exit at once, without writing down anything.
            start_new_session=True,
        )
    except FileNotFoundError:
        raise Failed(f"{argv[0]} is not installed") from None
    interrupts = 0
    while True:
        try:
            out, err = process.communicate(text)
            break
        except KeyboardInterrupt:
            interrupts, text = interrupts + 1, None
            if interrupts == 1:
                say("interrupted: waiting for the command to end; once more ends it at once")
            process.send_signal(signal.SIGINT if interrupts < 3 else signal.SIGKILL)
    if interrupts:
        raise KeyboardInterrupt
    ran = Ran(process.returncode, out or "", err or "")
    if check and ran.code != 0:
        raise Failed(f"{Path(str(argv[0])).name} {argv[1] if len(argv) > 1 else ''} failed ({ran.code})",
                     last_lines(ran.err or ran.out))
    return ran


def last_lines(text, count=15):
    return "\n  ".join(text.strip().splitlines()[-count:]) or None


def ask(question, expected, assumed):
    """Whether a person answers `expected`. Without a terminal only `assumed` counts."""
    if assumed:
        return True
    if not sys.stdin.isatty():
        raise Failed("there is nobody to ask", "give --yes to go on without a question", 2)
    print(question, end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == expected.lower()


class Stack:
    """One stack: name and environment from its variables file, account and region from the
    surroundings."""

    def __init__(self, environment):
        environments = sorted(file.stem for file in (INFRA / "env").glob("*.tfvars"))
        if environment not in environments:
            raise Failed(f"there is no infra/env/{environment}.tfvars",
                         f"there are {', '.join(environments)}; copy one to make another", 2)
        self.environment = environment
        self.file = INFRA / "env" / f"{environment}.tfvars"
        self.name = self.variable("name") or "muster"
        stated = self.variable("environment")
        if stated != environment:
            raise Failed(f"{self.file.name} is for the environment {stated!r}",
                         f'write environment = "{environment}" in it', 2)
        self.prefix = f"{self.name}-{environment}"
        self.folder = TARGET / "terraform" / self.prefix
        self.emulated = bool(os.environ.get("AWS_ENDPOINT_URL"))
        self.region = self.account = None
        self.more = []  # further -var arguments

    def variable(self, name):
        """A variable as Terraform will see it, where it is a plain string: file before environment."""
        for line in self.file.read_text().splitlines():
            found = re.match(rf'\s*{name}\s*=\s*"([^"]*)"', line)
            if found:
                return found.group(1)
        return os.environ.get(f"TF_VAR_{name}") or None

    def choice(self, name):
        """The same, with what was given on the command line before all."""
        given = [more.split("=", 1)[1] for more in self.more if more.split("=", 1)[0] == name and "=" in more]
        return (given[-1] or None) if given else self.variable(name)

    @property
    def state_bucket(self):
        return f"{self.name}-terraform-{self.account}-{self.region}"

    @property
    def state_key(self):
        return f"{self.environment}.tfstate"

    def check(self, *tools):
        """Finds out account and region; says in one line what is missing."""
        missing = [f"{tool} (not on the PATH)" for tool in ("terraform", "aws", *tools) if not shutil.which(tool)]
        if not missing:
            version = json.loads(run(["terraform", "version", "-json"], quiet=True).out)["terraform_version"]
            if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < (1, 11):
                missing.append(f"terraform 1.11 or newer (it is {version})")
        if shutil.which("aws"):
            self.region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or \
                run(["aws", "configure", "get", "region"], quiet=True, check=False).out.strip() or None
            if self.region is None:
                missing.append("a region (set AWS_REGION)")
            else:
                os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = self.region
                who = self.aws("sts", "get-caller-identity", check=False)
                if isinstance(who, dict) and "Account" in who:
                    self.account = who["Account"]
                else:
                    missing.append("credentials that AWS accepts (aws configure, aws sso login, or AWS_PROFILE)")
        if missing:
            raise Failed(f"missing: {'; '.join(missing)}")

    def aws(self, *args, check=True):
        """Runs the aws command: its JSON answer, None for an empty one. Without `check` a refusal is
        the text of the error."""
        env = {**os.environ, "AWS_PAGER": "", "AWS_RETRY_MODE": "standard"}
        # Version 1 of the command asks the real SQS whatever the environment says.
        where = ["--endpoint-url", os.environ["AWS_ENDPOINT_URL"]] if self.emulated else []
        ran = run(["aws", *args, "--output", "json", *where], env=env, quiet=True, check=False)
        if ran.code != 0:
            error = ran.err.strip().splitlines()[-1] if ran.err.strip() else f"exit code {ran.code}"
            if not check:
                return error
            raise Failed(f"aws {' '.join(args[:2])}: {error}")
        return json.loads(ran.out) if ran.out.strip() else None

    def terraform(self, *args, quiet=False, check=True):
        """Runs Terraform in infra, with a data folder for this stack alone."""
        return terraform(self.folder, *args, quiet=quiet, check=check)

    def init(self):
        """Connects Terraform with the state bucket and gets the provider."""
        backend = {"bucket": self.state_bucket, "key": self.state_key, "region": self.region}
        if self.emulated:
            backend["use_path_style"] = "true"
        init(self.folder, "-reconfigure", *(f"-backend-config={key}={value}" for key, value in backend.items()))

    def arguments(self):
        """What every plan of this stack is given."""
        given = [f"-var-file={self.file}", *(f"-var={more}" for more in self.more)]
        if self.emulated:
            given.append("-var=emulated=true")
        return given

    def locked(self, text):
        """The explanation of a lock that somebody left, if that is what Terraform complains about."""
        if "Error acquiring the state lock" not in text:
            return None
        lock = re.search(r"\bID:\s+(\S+)", text)  # not RequestID
        who = re.search(r"Who:\s+(\S+)", text)
        when = re.search(r"Created:\s+(.+)", text)
        return Failed(
            f"the state is locked by {who.group(1) if who else 'somebody'} since {when.group(1).strip() if when else 'an unknown time'}",
            "If that run is over (it was killed, or its machine is gone), free the state and run this again:\n"
            f"    TF_DATA_DIR={self.folder / 'data'} terraform -chdir={INFRA} force-unlock {lock.group(1) if lock else 'ID'}",
        )

    def outputs(self):
        """The stack's outputs, empty where there is no stack."""
        found = json.loads(self.terraform("output", "-json", quiet=True).out or "{}")
        return {name: output["value"] for name, output in found.items()}


def terraform(folder, *args, quiet=False, check=True):
    """Runs Terraform in infra; what it keeps beside the state is in `folder`, and infra stays clean."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "TF_DATA_DIR": str(folder / "data"), "TF_IN_AUTOMATION": "1"}
    if not sys.stderr.isatty():
        env["TF_CLI_ARGS"] = " ".join(filter(None, (os.environ.get("TF_CLI_ARGS"), "-no-color")))
    return run(["terraform", f"-chdir={INFRA}", *args], env=env, quiet=quiet, check=check)


def init(folder, *args):
    """`terraform init`, with the provider from a registry or, where none is reached, a local mirror."""
    args = ["init", "-input=false", "-no-color", "-lockfile=readonly", *args]
    ran = terraform(folder, *args, quiet=True, check=False)
    if ran.code != 0 and re.search(r"[Ff]ailed to (query available|install) provider", ran.err + ran.out):
        mirror = plugin_mirror()
        if mirror:
            say(f"no provider registry is reached; using {mirror}")
            ran = terraform(folder, *args, f"-plugin-dir={mirror}", quiet=True, check=False)
    if ran.code != 0:
        raise Failed("terraform init failed", last_lines(ran.err))


def virtual_environment(name, *packages):
    """The folder of the commands of Python packages, in a virtual environment of their own."""
    folder = TARGET / "tools" / name
    mark, wanted = folder / "installed", " ".join(packages)
    if not mark.exists() or mark.read_text() != wanted:
        say(f"installing {wanted}")
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", folder], quiet=True)
        run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], quiet=True)
        mark.write_text(wanted)
    return folder / "bin"


def plugin_mirror():
    """A local mirror of Terraform providers: MUSTER_PLUGIN_DIR, else one that lies on this machine."""
    stated = os.environ.get("MUSTER_PLUGIN_DIR")
    if stated:
        return stated
    found = run(["find", "/", "-xdev", "-type", "d", "-path", "*/hashicorp/aws", "-prune"], quiet=True, check=False).out
    for line in found.splitlines():
        provider = Path(line)
        # HOST/NAMESPACE/TYPE/VERSION/PLATFORM: an unpacked mirror. Terraform's own data folders look
        # alike, but hold links into another one.
        if any(part.is_dir() and not part.is_symlink() for part in provider.glob("*/*_*")) \
                and "/.terraform/" not in line and "/data/providers/" not in line:
            return str(provider.parents[2])
    return None


def profile_file(prefix):
    """Where `muster login --profile` keeps the address and the key of a stack."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "muster", "profiles", f"{prefix}.toml")


def read_profile(path):
    """The texts in a profile: `name = "value"`."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    return {name: json.loads(value) for name, value in re.findall(r'^(\w+)\s*=\s*("(?:[^"\\]|\\.)*")\s*$', text, re.M)}


def binaries(*packages):
    """The folder with the binaries of these packages, as cargo builds them for a developer. They are
    built where that is needed: `scripts/test` has built them with everything else, and says so, as the
    same packages alone have other features of shared crates, which would build nearly all of it twice."""
    if os.environ.get("MUSTER_TEST_BUILT") != "1":
        if not shutil.which("cargo"):
            raise Failed("cargo is not installed", "muster is built with Rust: install it with rustup")
        chosen = [part for name in packages for part in ("--package", name)]
        run(["cargo", "build", "--locked", "--quiet", *chosen, "--bins"], cwd=ROOT)
    return TARGET / "debug"


def muster():
    """The path of this clone's `muster` command, built where that is needed."""
    return str(binaries("muster") / "muster")
