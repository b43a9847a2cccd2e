"""SIGKILL at random moments, of many senders and receivers of one ring: nothing hangs, is torn, comes twice, is lost or leaks."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.c_compiler import NATIVE

pytest.importorskip("numpy")

ROOT = NATIVE.parent
LIMIT = 30  # seconds after which somebody hangs
KILLS, MANY = 84, 1700  # of each of the twelve


def storm(size, senders, receivers, kills, *, mistake="", limit=LIMIT, package=None):
    """What came of it, and what it complained of."""
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-m", "tests.faults.ring_storm", size, mistake]
    numbers = (senders, receivers, kills, seed, limit)
    environment = dict(os.environ)
    if package is not None:
        environment["PYTHONPATH"] = str(package)
    done = subprocess.run(
        [*command, *map(str, numbers)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(*command, *numbers, done.stdout, done.stderr)
    return json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


SHAPES = pytest.mark.parametrize(
    ("senders", "receivers"), [(1, 1), (4, 1), (1, 4), (4, 4)], ids=["1x1", "4x1", "1x4", "4x4"]
)


SIZES = pytest.mark.parametrize("size", ["small", "large", "acknowledged"])


def holds(size, outcome, complaints):
    assert complaints == ""
    assert outcome["received"] > 0
    may_be_lost = 0 if size == "acknowledged" else outcome["killed_receivers"]
    assert outcome["lost"] <= may_be_lost, "a returned send was not delivered"
    wrong = {what: outcome[what] for what in ("torn", "twice", "disorder", "leaked")}
    assert not any(wrong.values()), outcome


@pytest.mark.timeout(300)
@SHAPES
@SIZES
def test_killed_at_random(size, senders, receivers):
    holds(size, *storm(size, senders, receivers, KILLS))


@pytest.mark.soak
@SHAPES
@SIZES
def test_killed_twenty_thousand_times(size, senders, receivers):
    holds(size, *storm(size, senders, receivers, MANY))


@pytest.mark.parametrize("mistake", ["torn", "twice", "lost", "leaked"])
def test_it_would_be_seen(mistake):
    outcome, _ = storm("large", 2, 2, 10, mistake=mistake)
    assert outcome[mistake] > (outcome["killed_receivers"] if mistake == "lost" else 0)


@pytest.mark.parametrize(
    ("wrong", "senders", "receivers"), [("lost", 1, 1), ("twice", 1, 4)], ids=["lost", "twice"]
)
def test_it_would_be_seen_where_it_is_acknowledged(wrong, senders, receivers):
    outcome, _ = storm("acknowledged", senders, receivers, 20, mistake=f"{wrong}, acknowledged")
    assert outcome[wrong]


PLAIN = """
    static _Thread_local struct robust_list_head unknown; /* to the kernel */
    unknown = *thread->head;
    unknown.list.next = &unknown.list;
    thread->head = &unknown;
"""


@pytest.fixture
def plain_package(tmp_path):
    """A kinfolk whose mutex is not released when its holder dies."""
    native, package = tmp_path / "native", tmp_path / "src"
    shutil.copytree(NATIVE, native)
    shutil.copytree(ROOT / "include", tmp_path / "include")
    shutil.copytree(ROOT / "src" / "kinfolk", package / "kinfolk")
    robust = native / "robust.c"
    text, after = robust.read_text(), "    thread->pid_namespace = stat("
    assert text.count(after) == 1
    robust.write_text(text.replace(after, PLAIN + after))
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail("these tests need a C compiler, and there is no `cc` on PATH: install gcc")
    subprocess.run(
        [
            *(compiler, "-std=c11", "-D_GNU_SOURCE", "-O0", "-fPIC", "-shared", "-pthread", "-w"),
            *(f"-I{sysconfig.get_path('include')}", *native.glob("*.c")),
            *("-o", package / "kinfolk" / "_native.abi3.so", "-DPy_LIMITED_API=0x030b0000"),
        ],
        check=True,
    )
    return package


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_with_a_plain_mutex_it_hangs(plain_package):
    _, complaints = storm("small", 4, 4, 2000, limit=3, package=plain_package)
    assert "hangs" in complaints
