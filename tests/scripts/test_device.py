"""`muster device` on a terminal: what Ctrl-C asks, and what the answers do. Whatever happens, the
simulated vendor knows what is still alive."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
import stack  # noqa: E402

TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "debug"
PATIENCE = 45
PROJECT, TOKEN = "2f1e9a7c-6d35-4c1b-9a55-0c8f3f1d7e42", "muster-sim-packet-token"
LAUNCH = ["device", "launch", "--os", "debian_12", "--plan", "c3.small.x86", "--facility", "ewr1"]
CTRL_C = b"\x03"
QUESTION = b"[keep/teardown]"


class Terminal:
    """A command on a pseudo-terminal: what it has written there, both streams in one."""

    def __init__(self, environment, *args):
        self.seen = b""
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.execve(TARGET / "muster", ["muster", *args], environment)

    def read(self, seconds):
        """What comes within so many seconds; none where the terminal is closed."""
        if not select.select([self.end], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self.end, 65536)
        except OSError:  # Linux's way to say that nobody has it open any more
            data = b""
        self.seen += data
        return data or None

    def until(self, what):
        """Waits until it has written something, from now on."""
        begin, end = len(self.seen), time.monotonic() + PATIENCE
        while what not in self.seen[begin:]:
            if time.monotonic() > end or self.read(0.1) is None:
                raise AssertionError(f"it does not say {what!r}: {self.seen.decode(errors='replace')}")

    def type(self, text):
        os.write(self.end, text)

    def ended(self):
        """Its exit code."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.read(0.1) is not None:
            pass
        if time.monotonic() > end:
            os.kill(self.pid, 9)
            raise AssertionError(f"it does not end: {self.seen.decode(errors='replace')}")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@unittest.skipUnless(sys.platform != "win32", "a pseudo-terminal")
class OnATerminal(unittest.TestCase):
    def setUp(self):
        stack.binaries("muster", "simulators")
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        # Nothing comes up before somebody answers.
        command = [TARGET / "muster-sim", "packet", "--provision", "1h", "--deprovision", "200ms"]
        self.vendor = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.vendor.stdout.close)
        self.addCleanup(self.vendor.wait)
        self.addCleanup(self.vendor.terminate)
        self.url = re.search(r"http://\S+", self.vendor.stdout.readline()).group()
        self.environment = {
            "HOME": home.name, "XDG_STATE_HOME": home.name, "TERM": "xterm", "MUSTER_PACKET_URL": self.url,
            "MUSTER_PACKET_PROJECT": PROJECT, "MUSTER_PACKET_TOKEN": TOKEN,
        }

    def alive(self):
        with urllib.request.urlopen(f"{self.url}/_sim/stats") as answer:
            return json.load(answer)["alive"]

    def muster(self, *args):
        command = [TARGET / "muster", *args]
        ran = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran)
        return ran.stdout

    def launching(self, *args):
        """A launch that is under way and has been interrupted."""
        terminal = Terminal(self.environment, *LAUNCH, *args)
        terminal.until(b"step 0 of 10")
        self.assertEqual(self.alive(), 1)
        terminal.type(CTRL_C)
        return terminal

    def test_ctrl_c_asks_and_what_is_kept_stays(self):
        terminal = self.launching()
        terminal.until(QUESTION)
        terminal.type(b"what?\n")
        terminal.until(QUESTION)
        terminal.type(b"keep\n")
        self.assertEqual(terminal.ended(), 130)
        self.assertIn(b"Kept: device ", terminal.seen)
        self.assertEqual(self.alive(), 1)
        self.assertEqual(json.loads(self.muster("device", "list", "-o", "json"))["items"][0]["state"], "Provisioning")

    def test_ctrl_c_asks_and_what_is_torn_down_is_gone(self):
        terminal = self.launching("--on-interrupt", "ask")
        terminal.until(QUESTION)
        terminal.type(b"t\n")
        self.assertEqual(terminal.ended(), 130)
        self.assertIn(b"is gone: the vendor has nothing of it left", terminal.seen)
        self.assertEqual(self.alive(), 0)

    def test_a_second_ctrl_c_instead_of_an_answer_leaves_at_once_and_says_what_is_left(self):
        terminal = self.launching()
        terminal.until(QUESTION)
        terminal.type(CTRL_C)
        self.assertEqual(terminal.ended(), 130)
        self.assertRegex(terminal.seen, rb"Left as it is: device \S+\. `muster device delete ")
        self.assertEqual(self.alive(), 1)

    def test_nobody_is_asked_who_has_answered_beforehand(self):
        terminal = self.launching("--on-interrupt", "teardown")
        self.assertEqual(terminal.ended(), 130)
        self.assertNotIn(QUESTION, terminal.seen)
        self.assertEqual(self.alive(), 0)

    def test_a_deletion_is_asked_about(self):
        device = self.muster(*LAUNCH, "--no-wait").strip()
        terminal = Terminal(self.environment, "device", "delete", device)
        terminal.until(b"Tear down ")
        terminal.type(b"\n")
        self.assertEqual(terminal.ended(), 1)
        self.assertIn(b"nothing was done", terminal.seen)
        terminal = Terminal(self.environment, "device", "delete", device)
        terminal.until(b"[y/N]")
        terminal.type(b"y\n")
        self.assertEqual(terminal.ended(), 0)
        self.assertIn(b"is gone", terminal.seen)
        self.assertEqual(self.alive(), 0)


if __name__ == "__main__":
    unittest.main()
