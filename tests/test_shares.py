"""`tests.shares`: every test once, the failures told, and what was left told by the last line too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import namespaces
from tests.conformance.fixtures import peers as peers

ROOT = Path(__file__).parent.parent

MODULE = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(3))
def test_it(number):
    pathlib.Path({record!r}).open("a").write(f"{{os.getppid()}} {name} {{number}}\\n")
    assert (number, {name!r}) != (1, {fails!r})
"""


def run(directory: Path) -> subprocess.CompletedProcess[str]:
    """The test modules of a directory, shared out."""
    command = [
        sys.executable,
        "-m",
        "tests.shares",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    command += ["-c", os.devnull, "--rootdir", str(directory), str(directory)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def run_shares(
    directory: Path, fails: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Ten modules of three tests, of which one may fail; and the tests that were run."""
    record = directory / "record"
    for name in "abcdefghij":
        text = MODULE.format(record=str(record), name=name, fails=fails)
        (directory / f"test_{name}.py").write_text(text)
    done = run(directory)
    return done, [line.partition(" ")[2] for line in record.read_text().splitlines()]


@pytest.mark.parametrize("fails", ["", "d"])
def test_each_test_runs_once_and_the_sum_is_that_of_all(fails, tmp_path):
    done, ran = run_shares(tmp_path, fails)
    for name in "abcdefghij":  # a module whole, and in order
        assert [line for line in ran if line[0] == name] == [f"{name} {n}" for n in range(3)]
    assert sorted(ran) == [f"{name} {number}" for name in "abcdefghij" for number in range(3)]
    assert done.returncode == (1 if fails else 0), done.stdout
    assert ("test_d.py::test_it[1]" in done.stdout) is bool(fails)
    last = done.stdout.splitlines()[-1]
    expected = "1 failed, 29 passed in" if fails else "30 passed in"
    assert re.fullmatch(rf"=+ {expected} [0-9.]+s \([0-9:]+\) =+", last)


APART = """
import os, pathlib, pytest

@pytest.mark.parametrize("number", range(2))
def test_it(number):
    made = [pathlib.Path("/dev/shm/kinfolk-tests-{name}"), os.stat("/dev/shm").st_dev]
    made[0].touch()
    with open({record!r}, "a") as record:
        print("{name}", os.readlink("/proc/self/ns/ipc"), made[1], file=record)
    if {leaves!r} != "{name}":
        made[0].unlink()
"""


@pytest.mark.parametrize("leaves", ["", "a"])
def test_a_run_has_kernel_objects_of_its_own_and_answers_for_them(leaves, tmp_path, peers):
    if not peers.fork(lambda voice: namespaces.be_alone()).result():
        pytest.skip("namespaces are not to be had here")
    record = tmp_path / "record"
    for name in "abcd":
        text = APART.format(record=str(record), name=name, leaves=leaves)
        (tmp_path / f"test_{name}.py").write_text(text)
    done = run(tmp_path)
    seen = {tuple(line.split()[1:]) for line in record.read_text().splitlines()}
    ours = os.readlink("/proc/self/ns/ipc"), str(os.stat("/dev/shm").st_dev)
    assert {namespace for namespace, _ in seen} & {ours[0]} == set()
    assert {device for _, device in seen} & {ours[1]} == set()
    assert done.returncode == (1 if leaves else 0), done.stdout
    assert ("in /dev/shm: kinfolk-tests-a; first seen after" in done.stdout) is bool(leaves)
