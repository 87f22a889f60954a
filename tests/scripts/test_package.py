"""What scripts/package promises of its zips, without building anything."""

import importlib.util
import io
import json
import os
import re
import sys
import tempfile
import unittest
import zipfile
from contextlib import redirect_stderr
from importlib.machinery import SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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


script = load(ROOT / "scripts" / "package")


def elf(machine, glibc="2.34"):
    """As much of a program as the checks read."""
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + b"GLIBC_2.2.5\0GLIBC_" + glibc.encode() + b"\0"


def workspace(**packages):
    """What `cargo metadata` would say of packages with these binaries."""
    return {"packages": [
        {"name": package, "targets": [{"name": package, "kind": ["lib"]},
                                      *({"name": binary, "kind": ["bin"]} for binary in binaries)]}
        for package, binaries in packages.items()
    ]}


class Zips(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def binary(self, name, content, modified, mode):
        path = self.folder / name / "bootstrap"
        path.parent.mkdir()
        path.write_bytes(content)
        path.chmod(mode)
        os.utime(path, (modified, modified))
        return path

    def test_the_same_binary_makes_the_same_zip_whenever_and_wherever_it_was_built(self):
        content = os.urandom(1000) * 50
        first = script.pack(self.binary("first", content, 1_600_000_000, 0o755))
        second = script.pack(self.binary("second", content, 1_700_000_001, 0o600))
        self.assertEqual(first, second)
        other = script.pack(self.binary("other", content + b"1", 1_600_000_000, 0o755))
        self.assertNotEqual(first, other)

    def test_a_zip_holds_the_bootstrap_alone_and_lambda_may_run_it(self):
        packed = script.pack(self.binary("function", b"program", 1_600_000_000, 0o600))
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            (entry,) = archive.infolist()
            self.assertEqual(archive.read(entry), b"program")
        self.assertEqual(entry.filename, "bootstrap")
        self.assertEqual(oct(entry.external_attr >> 16), oct(0o100755))
        self.assertEqual(entry.create_system, 3)
        self.assertEqual(entry.date_time, (1980, 1, 1, 0, 0, 0))
        self.assertEqual(entry.extra, b"")

    def test_a_large_zip_is_refused_by_name_and_size(self):
        fits, large = bytes(script.LIMIT), bytes(script.LIMIT + 500_000)
        script.refuse_large({"shout": fits})
        with self.assertRaisesRegex(script.Failed, r"batches\.zip is 6\.00 MB.*5\.50 MB") as caught:
            script.refuse_large({"shout": fits, "batches": large})
        self.assertNotIn("shout", str(caught.exception))

    def test_the_table_has_a_line_for_each_package(self):
        binary = self.binary("shout", bytes(1_500_000), 1_600_000_000, 0o755)
        lines = script.table({"shout": binary}, {"shout": b"packed"}).splitlines()
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[1], r"^shout +1\.50 MB +0\.00 MB  [0-9a-f]{64}$")

    def test_a_file_is_replaced_only_where_it_differs_and_never_in_place(self):
        path = self.folder / "bootstrap"
        script.place(path, b"one", mode=0o755)
        self.assertEqual(path.stat().st_mode & 0o777, 0o755)
        os.utime(path, (1, 1))
        script.place(path, b"one", mode=0o755)
        self.assertEqual(path.stat().st_mtime, 1)
        with open(path, "rb") as running:
            script.place(path, b"two", mode=0o755)
            self.assertEqual(running.read(), b"one")
        self.assertEqual(path.read_bytes(), b"two")


class Binaries(unittest.TestCase):
    def test_a_program_for_another_machine_is_refused(self):
        script.check("shout", elf(183), "arm64")
        script.check("shout", elf(62), "x86_64")
        for binary, arch in ((elf(62), "arm64"), (elf(183), "x86_64"), (b"#!/bin/sh\n", "arm64"), (b"", "arm64")):
            with self.assertRaisesRegex(script.Failed, "shout is not a program for"):
                script.check("shout", binary, arch)

    def test_a_program_that_needs_a_newer_glibc_than_the_runtime_has_is_refused(self):
        with self.assertRaisesRegex(script.Failed, r"shout needs glibc 2\.36, and the runtime has 2\.34"):
            script.check("shout", elf(62, "2.36"), "x86_64")
        # By number: as text, 2.4 would come after 2.34.
        script.check("shout", elf(62, "2.4"), "x86_64")

    def test_this_machine_is_named_as_aws_names_it(self):
        names = {machine: script.native(machine) for machine in ("x86_64", "AMD64", "aarch64", "arm64")}
        self.assertEqual(names, {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"})
        with self.assertRaisesRegex(script.Failed, "riscv64"):
            script.native("riscv64")

    def test_a_package_that_is_not_there_is_named(self):
        with self.assertRaisesRegex(script.Failed, "the package three, which this workspace does not have"):
            script.require_binaries(["one", "three"], workspace(one=["one"], two=["two"]))

    def test_a_package_has_one_binary_and_it_has_the_same_name(self):
        script.require_binaries(["one", "two"], workspace(one=["one"], two=["two"], command=["command", "another"]))
        # It has a library of its name, which is not enough.
        for binaries, said in ((["another"], "it has another"), (["one", "one-worker"], "it has one, one-worker"),
                               ([], "it has none")):
            with self.assertRaisesRegex(script.Failed, f"the package one must have one binary of its own name; {said}$") as caught:
                script.require_binaries(["two", "one"], workspace(one=binaries, two=["two"]))
            self.assertIn("functions/one/src/main.rs", caught.exception.hint)

    def test_compiler_flags_of_the_surroundings_are_left_out(self):
        flags = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS",
                 "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS"]
        said = io.StringIO()
        with redirect_stderr(said):
            others = {"RUSTFLAGS_OF_OTHERS": "1", "HOME": "/"}
            kept = script.surroundings({**dict.fromkeys(flags, "-Copt-level=0"), **others})
        self.assertEqual(set(kept), {"RUSTFLAGS_OF_OTHERS", "HOME", "CARGO_TARGET_DIR", "CARGO_ZIGBUILD_CACHE_DIR"})
        self.assertIn(", ".join(flags), said.getvalue())


class ThisClone(unittest.TestCase):
    def test_every_function_of_the_stack_runs_a_package_that_is_built_once(self):
        names = script.packages()
        stack = json.loads((ROOT / "infra" / "functions.json").read_text())
        self.assertEqual(set(names), {function["package"] for function in stack["functions"]})
        self.assertEqual(len(names), len(set(names)))
        script.require_binaries(names, script.metadata())

    def test_a_capability_has_one_function_of_each_kind_at_most(self):
        # The kind is the handler, and the handler is what the binary tells its functions apart by.
        stack = json.loads((ROOT / "infra" / "functions.json").read_text())
        kinds = [(function["package"], function["kind"]) for function in stack["functions"]]
        self.assertEqual(len(kinds), len(set(kinds)))
        self.assertLessEqual({kind for _, kind in kinds}, {"http", "worker"})

    def test_the_profile_of_the_functions_leaves_nothing_for_cargo_lambda_to_fill_in(self):
        # What is not stated, cargo-lambda may set its own way: panic = "abort", for one.
        text = (ROOT / "Cargo.toml").read_text()

        def profile(name):
            stated = re.search(rf"^\[profile\.{name}\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL).group(1)
            settings = dict(re.findall(r"^([\w-]+) = (.+?)\s*$", stated, re.MULTILINE))
            inherited = settings.pop("inherits", None)
            return {**(profile(inherited.strip('"')) if inherited else {}), **settings}

        settings = profile(script.PROFILE)
        self.assertEqual(settings["panic"], '"unwind"')
        self.assertLessEqual({"lto", "codegen-units", "strip", "opt-level"}, set(settings))

    def test_the_devcontainer_has_the_tools_that_would_be_installed(self):
        folder = ROOT / ".devcontainer"
        settings = json.loads((folder / "devcontainer.json").read_text())
        dockerfile = (folder / settings["build"]["dockerfile"]).read_text()
        self.assertIn(f"cargo-lambda=={script.CARGO_LAMBDA} ziglang=={script.ZIG} ", dockerfile)
        for triple, _ in script.ARCHITECTURES.values():
            self.assertIn(triple, dockerfile)


if __name__ == "__main__":
    unittest.main()
