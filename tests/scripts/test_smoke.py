"""scripts/smoke against `muster serve`: it passes, and through a proxy that spoils one thing the check
for that thing fails and no other."""

import http.client
import http.server
import importlib.util
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse
import urllib.request
import warnings
from importlib.machinery import SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))
import stack  # noqa: E402

# What `muster-sim packet` takes unless it is told otherwise.
PROJECT = "2f1e9a7c-6d35-4c1b-9a55-0c8f3f1d7e42"
PACKET_TOKEN = "muster-sim-packet-token"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "debug"


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


class Spoiler:
    """What a proxy does to requests and answers; this one does nothing."""

    def request(self, method, path, headers, body):
        return method, path, headers, body

    def answer(self, status, headers, body, path):
        return status, headers, body


def request(change):
    """A spoiler of requests."""
    spoiler = Spoiler()
    spoiler.request = change
    return spoiler


def answer(change):
    """A spoiler of answers."""
    spoiler = Spoiler()
    spoiler.answer = change
    return spoiler


def with_query(change):
    def changed(method, path, headers, body):
        path, _, query = path.partition("?")
        return method, f"{path}?{change(query)}" if query else path, headers, body

    return request(changed)


def last_of_each(pairs):
    return list({name.lower(): (name, value) for name, value in pairs}.values())


def is_large(body):
    return len(body) > 1 << 20


def without(name):
    return answer(lambda status, headers, body, path: (status, [it for it in headers if it[0].lower() != name], body))


def replaced(status, old, new):
    """Replaces a part of the bodies of answers with this status."""
    return answer(lambda is_now, headers, body, path: (is_now, headers, body.replace(old, new) if is_now == status else body))


class Balancer(Spoiler):
    """Does what a load balancer of AWS does, as far as smoke looks."""

    def answer(self, status, headers, body, path):
        if path.startswith("/smoke-"):
            headers = [("Content-Type", "application/json"), ("Server", "awselb/2.0")]
        return status, headers, body


class Proxy:
    def __init__(self, server, spoiler, context=None, is_strict=False):
        upstream = urllib.parse.urlsplit(server)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def pass_on(self):
                if is_strict and "transfer-encoding" in self.headers and "content-length" in self.headers:
                    return self.give(400, [("Server", "awselb/2.0")], b"")
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = [it for it in self.headers.items() if it[0].lower() not in ("content-length", "transfer-encoding")]
                if context:
                    headers.append(("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678"))
                method, path, headers, body = spoiler.request(self.command, self.path, headers, body)
                connection = http.client.HTTPConnection(upstream.hostname, upstream.port, timeout=60)
                connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers:
                    connection.putheader(name, value)
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                found = connection.getresponse()
                content = found.read()
                connection.close()
                headers = [it for it in found.getheaders() if it[0].lower() not in ("content-length", "date")]
                return self.give(*spoiler.answer(found.status, headers, content, self.path))

            def give(self, status, headers, body):
                self.send_response_only(status)
                for name, value in [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = pass_on

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            handle_error = lambda *_: None  # noqa: E731  handshakes that are refused on purpose

        self.server = Server(("127.0.0.1", 0), Handler)
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class Stage(unittest.TestCase):
    """A server with its upstreams, and smoke."""

    @classmethod
    def setUpClass(cls):
        stack.binaries("muster", "simulators")
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER_", "AWS_"))}
        cls.environment = {**clean, "XDG_CONFIG_HOME": cls.folder.name, "NO_PROXY": "127.0.0.1"}
        lorawan = cls.start([TARGET / "muster-sim", "lorawan", "--latency", "10ms"])
        shoutcloud = cls.start([TARGET / "muster-sim", "shoutcloud"])
        cls.upstreams = {"MUSTER_LORAWAN_URL": lorawan, "MUSTER_SHOUTCLOUD_URL": shoutcloud}
        fleet, deployments = (cls.start([TARGET / "muster-sim", *what]) for what in (["cpx"], ["deployments", "--count", "12"]))
        vendor = cls.start([TARGET / "muster-sim", "packet"])
        cls.machines = {"MUSTER_PACKET_URL": vendor, "MUSTER_PACKET_PROJECT": PROJECT}
        cls.server, cls.key = cls.serve("state", MUSTER_CPX_URL=fleet, MUSTER_DEPLOYMENTS_URL=deployments,
                                        MUSTER_PACKET_TOKEN=PACKET_TOKEN, **cls.machines)
        cls.narrow = cls.ask("POST", "/api/v1/keys", {"tenant": "smoke", "scopes": ["shout:write"]})["token"]

    @classmethod
    def serve(cls, name, **more):
        """A server with a state of its own: its address, and its first key."""
        state = Path(cls.folder.name, name)
        server = cls.start([TARGET / "muster", "--state", state, "serve", "--listen", "127.0.0.1:0"], **cls.upstreams, **more)
        return server, (state / "key").read_text().strip()

    @classmethod
    def ask(cls, method, path, body=None):
        headers = {"Authorization": f"Bearer {cls.key}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body else None
        return json.loads(urllib.request.urlopen(urllib.request.Request(cls.server + path, data, headers, method=method)).read())

    @classmethod
    def start(cls, argv, **more):
        """Starts a process that ends with the tests, and returns the address that it prints."""
        log = Path(cls.folder.name, f"{Path(argv[0]).name}-{len(os.listdir(cls.folder.name))}.log")
        with open(log, "w") as file:
            process = subprocess.Popen([str(part) for part in argv], env={**cls.environment, **more},
                                       stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.terminate)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            found = re.search(r"http://127\.0\.0\.1:[1-9]\d*", log.read_text())
            if found:
                return found.group(0)
            time.sleep(0.05)
        raise AssertionError(f"{argv[0]} does not start: {log.read_text()}")

    def smoke(self, url, *more, key=None):
        keys = {"MUSTER_KEY": self.key, "MUSTER_SHOUT_KEY": self.narrow} if key is None else {"MUSTER_KEY": key}
        environment = {**self.environment, **keys}
        ran = subprocess.run([sys.executable, ROOT / "scripts" / "smoke", url, "--wait", "1", *more], env=environment,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        lines = [re.match(r"(ok|FAILED|skipped) +(.*)", line).groups() for line in ran.stdout.splitlines()]
        failed = [text for outcome, text in lines if outcome == "FAILED"]
        self.assertEqual(ran.returncode, 1 if failed else 0, ran.stdout + ran.stderr)
        return lines, failed


class Smoke(Stage):
    def test_a_server_in_good_order_passes(self):
        lines, failed = self.smoke(self.server, "--batch", "30")
        self.assertEqual(failed, [])
        self.assertEqual(sum(outcome == "ok" for outcome, _ in lines), 100, lines)
        self.assertIn(("ok", "services: 10 services on 150 servers"), lines)
        self.assertTrue(any(text.startswith("autoscaler: 12 deployments: ") for _, text in lines), lines)
        self.assertTrue(any(re.match(r"devices: what could be launched: [1-9]\d* combinations, first ", text) for _, text in lines), lines)

    def test_without_a_key_it_looks_at_what_is_public(self):
        lines, failed = self.smoke(self.server, "--batch", "30", key="")
        self.assertEqual(failed, [])
        self.assertIn(("skipped", "what needs a key: give it in MUSTER_KEY"), lines)

    def test_a_server_that_is_not_there_is_one_failure(self):
        lines, failed = self.smoke("http://127.0.0.1:1")
        self.assertEqual((len(lines), len(failed)), (1, 1))

    def test_each_check_fails_where_the_thing_that_it_is_for_is_spoilt(self):
        nobodys = b"There is nothing at /smoke-"
        spoilt = {
            "a path of nobody": answer(lambda status, headers, body, path: (200 if nobodys in body else status, headers, body)),
            "the description": replaced(200, b'"/api/v1/shout"', b'"/api/v1/whisper"'),
            "each answer has a request id": answer(lambda status, headers, body, path: (
                status, [it for it in headers if path != "/healthz" or it[0] != "x-request-id"], body)),
            "no key or a wrong one": request(lambda method, path, headers, body: (
                method, path, headers if any(name.lower() == "authorization" for name, _ in headers)
                else [*headers, ("Authorization", f"Bearer {self.key}")], body)),
            "a wrong method": without("allow"),
            "headers in any case": request(lambda method, path, headers, body: (
                method, path, [it for it in headers if it[0] != "aUtHoRiZaTiOn"], body)),
            "a query parameter twice": with_query(lambda query: urllib.parse.urlencode(dict(urllib.parse.parse_qsl(query)))),
            "a percent-encoded query": with_query(urllib.parse.unquote),
            "a header twice": request(lambda method, path, headers, body: (method, path, last_of_each(headers), body)),
            "a wrong body": request(lambda method, path, headers, body: (method, path, headers, body.replace("ö".encode(), b"o"))),
            "a body of more than 1 MiB": request(lambda method, path, headers, body: (
                method, path, headers, body[:9] if is_large(body) else body)),
            "shout: 200": replaced(200, b"TEELF", b"teelf"),
            "services /api/v1/servers: its list": answer(lambda status, headers, body, path: (
                status, headers, body.replace(b'"items"', b'"things"') if path.startswith("/api/v1/servers?") else body)),
            "services /api/v1/services: an id of nobody": answer(lambda status, headers, body, path: (
                200 if path.endswith("/SmokeTestService") else status, headers, body)),
            "services: {": replaced(200, b'"unknown":0', b'"unknown":1'),
            "services: its worker has looked: last at 19": replaced(200, b'"observed_at":"20', b'"observed_at":"19'),
            "services: its worker has looked: never": answer(lambda status, headers, body, path: (
                status, headers, b'{"items":[]}' if "state=all" in path else body)),
            "autoscaler: its list": answer(lambda status, headers, body, path: (
                status, headers, body.replace(b'"items"', b'"things"') if path == "/api/v1/deployments?limit=1" else body)),
            "autoscaler: an id of nobody": answer(lambda status, headers, body, path: (
                200 if path.startswith("/api/v1/deployments/0000") and status == 404 and "smoke" not in path else status, headers, body)),
            "autoscaler: {": answer(lambda status, headers, body, path: (
                status, headers, re.sub(rb'"free":(\d)', rb'"free":9999999\1', body))),
            "autoscaler: its worker has ticked: last at 19": replaced(200, b'"ticked_at":"20', b'"ticked_at":"19'),
            "autoscaler: its worker has ticked: never": answer(lambda status, headers, body, path: (
                status, headers, re.sub(b'"ticked_at":"[^"]*"', b'"ticked_at":null', body))),
            "devices /api/v1/catalog/plans: its list": answer(lambda status, headers, body, path: (
                status, headers, body.replace(b'"items"', b'"things"') if path == "/api/v1/catalog/plans?max_age=1" else body)),
            "devices /api/v1/devices: an id of nobody": answer(lambda status, headers, body, path: (
                200 if path.startswith("/api/v1/devices/0000") and status == 404 and "smoke" not in path else status, headers, body)),
            "devices: what could be launched: [9999999": answer(lambda status, headers, body, path: (
                status, headers, re.sub(rb'"price":[\d.]+', b'"price":9999999', body, count=1) if path == "/api/v1/devices/plan" else body)),
            "nobody writes over another version: ETag": without("etag"),
            # Without the header, or with one that everything fits, something would be written.
            "nobody writes over another version: 428": request(lambda method, path, headers, body: (
                method, path, [it for it in headers if it[0].lower() != "if-match"], body)),
            "nobody writes over another version: 200": request(lambda method, path, headers, body: (
                method, path, [(name, "*" if name.lower() == "if-match" else value) for name, value in headers], body)),
            "a key without the scope": request(lambda method, path, headers, body: (
                method, path, [(name, value.replace(self.narrow, self.key)) for name, value in headers], body)),
            "a key without the scope is a 403: 401": request(lambda method, path, headers, body: (
                method, path, [(name, value.replace(self.narrow, "mk_1")) for name, value in headers], body)),
        }
        for check, spoiler in spoilt.items():
            with self.subTest(check), Proxy(self.server, spoiler) as proxy:
                _, failed = self.smoke(proxy.url)
                self.assertTrue(failed and all(check in line for line in failed), f"{check}: {failed}")
        # What was put in the place of a policy is what was there.
        self.assertEqual(self.ask("GET", "/api/v1/deployments-policy")["set"], {})
        # Not even the ones that let everybody in.
        made = self.ask("GET", "/api/v1/batches?deleted=true&limit=500")
        self.assertEqual([item for item in made["items"] if item["label"] != "smoke test"], [], "nothing is made without --batch")
        self.assertEqual(self.ask("GET", "/api/v1/devices")["items"], [], "nothing is launched")

    def test_each_step_of_a_batch_fails_where_the_thing_that_it_is_for_is_spoilt(self):
        keys = iter(range(10 ** 6))
        spoilt = {
            "five at once": request(lambda method, path, headers, body: (
                method, path, [(name, f"{value}{next(keys)}" if name == "Idempotency-Key" else value) for name, value in headers], body)),
            "the same request again": without("idempotency-replayed"),
            "another request with its key": replaced(422, b"idempotency-key-reused", b"invalid-input"),
            "30 DevEUIs are registered": replaced(200, b'"registered":30', b'"registered":29'),
            "the DevEUI behind a short code": replaced(200, b'"short_code":"', b'"short_code":"X'),
            "the same as CSV": replaced(200, b"short_code,deveui\r\n", b"deveui,short_code\r\n"),
            "a second batch is cancelled": answer(lambda status, headers, body, path: (405 if status == 202 else status, headers, body)),
            "page by page": without("link"),
            "a batch that is deleted": replaced(200, b'"deleted_at"', b'"removed_at"'),
        }
        for check, spoiler in spoilt.items():
            with self.subTest(check), Proxy(self.server, spoiler) as proxy:
                _, failed = self.smoke(proxy.url, "--batch", "30")
                self.assertTrue(any(check in line for line in failed), f"{check}: {failed}")

    def test_an_upstream_that_is_away_is_no_failure_but_proves_nothing(self):
        local = replaced(200, b'"via":"shoutcloud"', b'"via":"local"')
        away = {"type": "urn:muster:problem:upstream-failed", "title": "x", "status": 502, "detail": "SHOUTCLOUD cannot be had"}
        gone = answer(lambda status, headers, body, path: (
            (502, headers, json.dumps(away).encode()) if path == "/api/v1/shout" and status == 200 else (status, headers, body)))
        server, key = self.serve("without-cpx")
        for spoiler in (local, gone):
            with Proxy(server, spoiler) as proxy:
                lines, failed = self.smoke(proxy.url, key=key)
                self.assertEqual(failed, [])
                self.assertTrue(any(outcome == "skipped" and "not proven: SHOUTCLOUD did not answer" in text for outcome, text in lines), lines)

    def test_a_fleet_that_is_not_configured_or_away_is_no_failure_if_the_setting_is_named(self):
        server, key = self.serve("not-configured")
        lines, failed = self.smoke(server, key=key)
        self.assertEqual(failed, [])
        self.assertIn(("skipped", "services: reached, but MUSTER_CPX_URL is not set"), lines)
        self.assertIn(("skipped", "autoscaler: reached, but MUSTER_DEPLOYMENTS_URL is not set"), lines)
        self.assertIn(("skipped", "devices: what could be launched: reached, but MUSTER_PACKET_URL is not set"), lines)
        # The lists of devices are ours, those of the catalogue are not.
        self.assertIn(("ok", "devices /api/v1/devices: its list"), lines)
        self.assertIn(("skipped", "devices /api/v1/catalog/plans: its list: reached, but MUSTER_PACKET_URL is not set"), lines)
        with Proxy(server, replaced(503, b"MUSTER_CPX_URL", b"something")) as proxy:
            _, failed = self.smoke(proxy.url, key=key)
            self.assertTrue(any(line.startswith("services: ") and "expected the setting to be named" in line for line in failed), failed)
        server, key = self.serve("without-token", **self.machines)
        lines, failed = self.smoke(server, key=key)
        self.assertEqual(failed, [])
        self.assertIn(("skipped", "devices: what could be launched: reached, but MUSTER_PACKET_TOKEN is not set"), lines)
        # A token that the vendor refuses is the operator's to change.
        server, key = self.serve("wrong-token", MUSTER_PACKET_TOKEN="x", **self.machines)
        _, failed = self.smoke(server, key=key)
        self.assertTrue(failed and all(line.startswith("devices") and "vendor-denied" in line for line in failed), failed)
        # Nobody listens at port 1.
        away = {name: "http://127.0.0.1:1" for name in ("MUSTER_CPX_URL", "MUSTER_PACKET_URL")}
        server, key = self.serve("away", MUSTER_PACKET_PROJECT=PROJECT, MUSTER_PACKET_TOKEN=PACKET_TOKEN, **away)
        lines, failed = self.smoke(server, key=key)
        self.assertEqual(failed, [])
        skipped = [text for outcome, text in lines if outcome == "skipped"]
        self.assertTrue(any(text.startswith("services: reached, but its upstream is away") for text in skipped), lines)
        self.assertTrue(any(text.startswith("devices: what could be launched: reached, but its upstream is away") for text in skipped), lines)


class SmokeOverTls(Stage):
    """What is promised of a load balancer only."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.chain, key = Path(cls.folder.name, "chain.pem"), Path(cls.folder.name, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=smoke", "-addext",
                        "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cls.chain], check=True, capture_output=True)
        cls.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cls.context.minimum_version = ssl.TLSVersion.TLSv1_2
        cls.context.load_cert_chain(cls.chain, key)

    def test_a_load_balancer_in_good_order_passes(self):
        with Proxy(self.server, Balancer(), self.context, is_strict=True) as proxy:
            lines, failed = self.smoke(proxy.url, "--ca-file", str(self.chain))
        self.assertEqual(failed, [])
        for line in ("an ambiguous request is refused", "TLS 1.2 is accepted", "TLS 1.3 is accepted",
                     "a path of nobody is a 404: by the load balancer"):
            self.assertIn(("ok", line), lines)

    def test_a_load_balancer_that_takes_ambiguous_requests_fails(self):
        with Proxy(self.server, Balancer(), self.context) as proxy:
            _, failed = self.smoke(proxy.url, "--ca-file", str(self.chain))
        self.assertEqual([line.split(":")[0] for line in failed], ["an ambiguous request is refused"])

    def test_old_tls_fails(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.chain.with_name("key.pem"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context.minimum_version = ssl.TLSVersion.TLSv1_1
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ALL:@SECLEVEL=0")
        with Proxy(self.server, Balancer(), context, is_strict=True) as proxy:
            lines, failed = self.smoke(proxy.url, "--ca-file", str(self.chain))
        failed = [line.split(":")[0] for line in failed]
        # Some systems' TLS library speaks no TLS 1.1 at all; then nothing can be said.
        if ("skipped", "TLS 1.1 is refused") in [(outcome, text.split(":")[0]) for outcome, text in lines]:
            failed.append("TLS 1.1 is refused")
        self.assertEqual(failed, ["TLS 1.3 is accepted", "TLS 1.1 is refused"])

    def test_a_certificate_that_is_not_trusted_is_said_so(self):
        with Proxy(self.server, Balancer(), self.context) as proxy:
            lines, failed = self.smoke(proxy.url)
        self.assertEqual(len(lines), 1)
        self.assertIn("--ca-file", failed[0])


class Account:
    """A stack whose IAM allows these pairs of an action and the end of an ARN."""

    prefix, region, account = "muster-test", "eu-west-1", "123456789012"

    def __init__(self, allowed):
        self.allowed = allowed

    def aws(self, service, call, *args, check):
        if (service, call) == ("iam", "get-role"):
            return {"Role": {"Arn": "arn:aws:iam::123456789012:role/made-up"}}
        resource, actions = args[args.index("--resource-arns") + 1], args[args.index("--action-names") + 1:]
        return {"EvaluationResults": [
            {"EvalActionName": action, "EvalDecision": "allowed" if (action, resource.split(":")[-1]) in self.allowed else "implicitDeny"}
            for action in actions]}


class Privileges(unittest.TestCase):
    def test_iam_must_allow_what_a_function_has_in_its_entry_and_no_more(self):
        script = load(ROOT / "scripts" / "smoke")
        every = {"GetItem", "PutItem", "Query", "UpdateItem", "Scan"}
        entry = {"name": "worker", "tables": {"services": ["PutItem", "Query"]}, "topics": ["alarms"]}
        right = {("dynamodb:PutItem", "table/muster-test-services"), ("dynamodb:Query", "table/muster-test-services"),
                 ("sns:Publish", "muster-test-alarms")}
        script.privileges(Account(right), entry, every)
        for one in right:
            with self.assertRaisesRegex(script.Wrong, f"{one[0].split(':')[1]} on {one[1]} is implicitDeny"):
                script.privileges(Account(right - {one}), entry, every)
        for one in (("dynamodb:Scan", "table/muster-test-services"), ("dynamodb:Query", "table/muster-test-access"),
                    ("sns:Subscribe", "muster-test-alarms")):
            with self.assertRaisesRegex(script.Wrong, f"{one[0].split(':')[1]} on {one[1]} is allowed"):
                script.privileges(Account(right | {one}), entry, every)
        with self.assertRaisesRegex(script.Wrong, "Publish on muster-test-alarms is allowed"):
            script.privileges(Account(right), {**entry, "topics": []}, every)


if __name__ == "__main__":
    unittest.main()
