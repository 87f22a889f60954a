"""`muster services track` and `muster deployments --watch` on a terminal: what they show, and that the
terminal is as it was however they end. It is a pseudo-terminal whose other end is a small emulator."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
import stack  # noqa: E402

TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "debug"
PATIENCE = 30
ENTER, LEAVE, SHOW, HIDE = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?25l"
SEQUENCE = re.compile(rb"\x1b\[([?0-9;]*)([A-Za-z])")


class Emulator:
    """As much of a terminal as is drawn on."""

    def __init__(self, rows, columns):
        self.resize(rows, columns)
        self.rest = b""

    def resize(self, rows, columns):
        self.rows, self.columns, self.row, self.column = rows, columns, 0, 0
        self.clear()

    def clear(self):
        self.cells = [[" "] * self.columns for _ in range(self.rows)]

    def feed(self, data):
        data, self.rest = self.rest + data, b""
        while data:
            if data[:1] == b"\x1b":
                found = SEQUENCE.match(data)
                if not found:
                    if len(data) > 30:
                        raise AssertionError(f"no known sequence: {data[:30]}")
                    self.rest = data
                    return
                self.control(found.group(1).decode(), found.group(2).decode())
                data = data[found.end():]
                continue
            text, data = (data.split(b"\x1b", 1) + [b""])[:2] if b"\x1b" in data else (data, b"")
            data = b"\x1b" + data if data else b""
            try:
                self.write(text.decode())
            except UnicodeDecodeError as error:
                self.write(text[:error.start].decode())
                self.rest = text[error.start:]

    def control(self, numbers, command):
        if command == "H":
            row, column = (numbers.split(";") + ["1"])[:2] if numbers else ("1", "1")
            self.row, self.column = int(row) - 1, int(column) - 1
        elif command == "J" or (numbers, command) == ("?1049", "h"):
            self.clear()

    def write(self, text):
        for character in text:
            if character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1
            elif self.row < self.rows and self.column < self.columns:
                self.cells[self.row][self.column] = character
                self.column += 1

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.cells)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, command, rows=24, columns=100, **environment):
        self.master, self.slave = pty.openpty()
        self.emulator = Emulator(rows, columns)
        self.size(rows, columns)
        self.modes = self.stty()
        self.seen = b""
        self.home = tempfile.TemporaryDirectory(prefix="muster-track-")
        environment = {"PATH": os.environ["PATH"], "HOME": self.home.name, "TERM": "xterm-256color", **environment}
        # As a login shell would: its session is this terminal's, which can hang up on it.
        command = [sys.executable, "-c", "import fcntl, os, sys, termios; os.setsid(); "
                   "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])", *map(str, command)]
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environment)

    def close(self):
        self.process.kill()
        self.process.wait()
        for end in (self.master, self.slave):
            if end is not None:
                os.close(end)
        self.home.cleanup()

    def size(self, rows, columns):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows, columns):
        self.read(0)
        self.emulator.resize(rows, columns)
        self.size(rows, columns)

    def stty(self):
        return subprocess.run(["stty", "-a"], stdin=self.slave, check=True, stdout=subprocess.PIPE).stdout

    def read(self, patience):
        """What is written within so many seconds; some of it."""
        if select.select([self.master], [], [], patience)[0]:
            data = os.read(self.master, 65536)
            self.seen += data
            self.emulator.feed(data)

    def until(self, claim, what):
        """Reads until `claim` is true of what is on the screen."""
        end = time.monotonic() + PATIENCE
        while not claim(self.emulator.text()):
            if time.monotonic() > end:
                raise AssertionError(f"waited in vain for {what}:\n{self.emulator.text()}\n{self.seen[-500:]}")
            self.read(0.05)
        return self.emulator.text()

    def shows(self, text):
        return self.until(lambda screen: text in screen, text)

    def type(self, keys):
        os.write(self.master, keys)

    def ended(self):
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise AssertionError(f"it does not end: {self.seen[-500:]}")
            self.read(0.05)
        while select.select([self.master], [], [], 0)[0]:
            self.read(0)
        return self.process.returncode


class Drawn:
    """What holds for every command that draws. A class says how its simulator is started and how the
    command is: `simulator` and `follow`."""

    @classmethod
    def setUpClass(cls):
        stack.binaries("muster", "simulators")
        cls.process = subprocess.Popen([TARGET / "muster-sim", *cls.simulator], stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(cls.stop)
        cls.url = cls.process.stdout.readline().split()[-1]

    @classmethod
    def stop(cls):
        cls.process.kill()
        cls.process.wait()
        cls.process.stdout.close()

    def faults(self, **faults):
        request = urllib.request.Request(self.url + "/_sim/faults", json.dumps(faults).encode(),
                                         {"content-type": "application/json"})
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()

    def on_terminal(self, command, **terminal):
        terminal = Terminal([TARGET / "muster", *command], **terminal)
        self.addCleanup(terminal.close)
        return terminal

    def assert_given_back(self, terminal):
        """The alternate screen left, the cursor shown after it was hidden last, the modes as before."""
        seen = terminal.seen
        self.assertEqual((seen.count(ENTER), seen.count(LEAVE)), (1, 1), seen[-300:])
        self.assertGreater(seen.rindex(LEAVE), seen.rindex(ENTER))
        self.assertGreater(seen.rindex(SHOW), seen.rindex(HIDE))
        self.assertEqual(terminal.stty(), terminal.modes)

    def test_keys_end_it_and_the_terminal_is_as_it_was(self):
        for name, keys, code in [("q", b"q", 0), ("Esc", b"\x1b", 0), ("Ctrl-C", b"\x03", 130)]:
            with self.subTest(name):
                terminal = self.follow()
                terminal.shows("q ends")
                self.assertNotEqual(terminal.stty(), terminal.modes, "the terminal was never raw")
                terminal.type(keys)
                self.assertEqual(terminal.ended(), code)
                self.assert_given_back(terminal)

    def test_signals_end_it_and_the_terminal_is_as_it_was(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number):
                terminal = self.follow()
                terminal.shows("q ends")
                terminal.process.send_signal(number)
                self.assertEqual(terminal.ended(), 130)
                self.assert_given_back(terminal)

    def test_a_second_signal_ends_it_though_nobody_reads_the_terminal(self):
        terminal = self.follow(rows=200, columns=500)
        terminal.shows("q ends")
        # Each size is drawn anew, until the terminal takes no more.
        for columns in range(500, 400, -1):
            terminal.size(200, columns)
            time.sleep(0.01)
        # Two that come close together may count as one.
        end = time.monotonic() + PATIENCE
        while terminal.process.poll() is None and time.monotonic() < end:
            terminal.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        self.assertEqual(terminal.process.poll(), 130)
        modes = [modes.split(b";", 1)[1] for modes in (terminal.stty(), terminal.modes)]
        without_size = [re.sub(rb"rows \d+; columns \d+;", b"", modes) for modes in modes]
        self.assertEqual(*without_size)

    def test_a_terminal_that_is_gone_ends_it(self):
        terminal = self.follow()
        terminal.shows("q ends")
        for end in ("slave", "master"):
            os.close(getattr(terminal, end))
            setattr(terminal, end, None)
        self.assertIn(terminal.process.wait(PATIENCE), (1, 130))

    def test_no_color_means_none(self):
        terminal = self.follow(NO_COLOR="1")
        terminal.shows("q ends")
        terminal.type(b"q")
        self.assertEqual(terminal.ended(), 0)
        self.assertNotIn(b"38;5;", terminal.seen)


class Track(Drawn, unittest.TestCase):
    simulator = ["cpx"]

    def follow(self, name="AuthService", interval="0.5s", **terminal):
        command = ["services", "track", name, "--interval", interval, "--cp-url", self.url]
        return self.on_terminal(command, **terminal)

    def test_a_panic_gives_the_terminal_back_before_it_is_told(self):
        built = subprocess.run(
            # The whole workspace, as `scripts/test` builds it: alone it would be built a second time.
            ["cargo", "test", "--locked", "--quiet", "--workspace", "--no-run", "--message-format=json"],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        messages = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
        [binary] = [message["executable"] for message in messages if message.get("executable")
                    and message["target"]["name"] == "muster" and "lib" in message["target"]["kind"]]
        test = "terminal::tests::a_panic_while_the_terminal_is_ours"
        terminal = Terminal([binary, "--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        self.addCleanup(terminal.close)
        self.assertEqual(terminal.ended(), 101)
        self.assert_given_back(terminal)
        self.assertIn(b"told on the terminal", terminal.seen[terminal.seen.index(LEAVE):])

    def test_a_service_is_shown_with_what_changes(self):
        terminal = self.follow()
        first = terminal.shows("since the start")
        for text in ("AuthService  Healthy", "every 500ms", "servers healthy", "IP", "Status", "CPU so far", "q ends"):
            self.assertIn(text, first)
        self.assertRegex(first, r"\n10\.58\.1\.\d+ +(Healthy|Unhealthy) +\d+% +(0|[+-]\d+) +\d+% +(0|[+-]\d+) +[▁-█]{2,}")
        self.assertIn(b"38;5;", terminal.seen, "no colours")
        terminal.until(lambda screen: re.search("[▁-█]{5}", screen), "five readings")
        terminal.type(b"q")
        self.assertEqual(terminal.ended(), 0)

    def test_a_failed_reading_is_told_above_the_last_one_until_the_next(self):
        terminal = self.follow()
        terminal.shows("since the start")
        self.faults(down="503")
        self.addCleanup(self.faults, down="no")
        broken = terminal.shows("no reading: CPX")
        self.assertIn("503", broken)
        self.assertRegex(broken, r"\n10\.58\.1\.\d+ ")
        terminal.shows("For 2 s no reading")
        self.faults(down="no")
        terminal.until(lambda screen: "no reading" not in screen, "the next reading")
        terminal.type(b"q")
        self.assertEqual(terminal.ended(), 0)

    def test_it_scrolls_and_follows_the_size(self):
        terminal = self.follow(rows=12)
        terminal.shows("1 to 5 of 1")
        terminal.type(b"\x1b[B")
        terminal.shows("2 to 6 of 1")
        terminal.type(b"\x1b[6~")
        terminal.shows("6 to 10 of 1")
        terminal.type(b"\x1b[A")
        terminal.shows("5 to 9 of 1")
        terminal.type(b"\x1b[H")
        terminal.shows("1 to 5 of 1")
        terminal.resize(40, 60)
        screen = terminal.shows("servers.  q ends")
        self.assertIn("AuthService", screen)
        for rows, columns in [(1, 1), (2, 200), (50, 1), (3, 10), (6, 30)]:
            terminal.resize(rows, columns)
            time.sleep(0.1)
        terminal.resize(24, 100)
        terminal.shows("q ends")
        terminal.type(b"q")
        self.assertEqual(terminal.ended(), 0)
        self.assertIn(LEAVE, terminal.seen)

    def test_without_a_terminal_that_can_be_drawn_on_there_are_lines(self):
        terminal = self.follow(TERM="dumb")
        terminal.shows("IP")
        self.assertNotIn(ENTER, terminal.seen)
        terminal.type(b"\x03")
        self.assertEqual(terminal.ended(), 130)

    def test_what_is_wrong_from_the_beginning_is_told_without_taking_the_screen(self):
        terminal = self.follow(name="Nobody")
        self.assertEqual(terminal.ended(), 3)
        self.assertNotIn(ENTER, terminal.seen)
        self.assertIn("Nobody", terminal.emulator.text())


class Deployments(Drawn, unittest.TestCase):
    simulator = ["deployments", "--count", "30"]

    def follow(self, *flags, **terminal):
        command = ["deployments", "--watch", "--interval", "0.5s", "--api-url", self.url, *flags]
        return self.on_terminal(command, **terminal)

    def test_the_deployments_are_shown_with_their_bars_and_scroll(self):
        terminal = self.follow(rows=15, columns=120)
        first = terminal.shows("1 to 10 of 30 deployments")
        for text in ("30 deployments", "tick of ", "every 500ms", "Deployment", "Free", "Target", "Hosts", "dry run"):
            self.assertIn(text, first)
        self.assertRegex(first, r"\nap-\d+ +\d+\.\d% +[\d.]+% +[#.]*\|[#.]* +\d+ +\d+ +[a-z_]+ +[A-Z]")
        self.assertIn(b"38;5;", terminal.seen, "no colours")
        terminal.type(b"\x1b[6~")
        terminal.shows("10 to 19 of 30")
        terminal.resize(50, 120)
        terminal.shows("30 deployments.  q ends")
        for rows, columns in [(1, 1), (2, 200), (50, 1), (3, 10), (6, 30)]:
            terminal.resize(rows, columns)
            time.sleep(0.1)
        terminal.type(b"q")
        self.assertEqual(terminal.ended(), 0)
        self.assertIn(LEAVE, terminal.seen)

    def test_without_a_terminal_that_can_be_drawn_on_there_are_blocks(self):
        terminal = self.follow("--only", "gone", TERM="dumb")
        terminal.shows("0 deployments")
        self.assertNotIn(ENTER, terminal.seen)
        terminal.type(b"\x03")
        self.assertEqual(terminal.ended(), 130)


if __name__ == "__main__":
    unittest.main()
