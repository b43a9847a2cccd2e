"""The semaphore as plain C threads, under the sanitizers (see semaphore_test.c)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds
HANG_OF_BROKEN = 3

SOURCES = (
    *("semaphore", "semaphore_wait", "members", "members_leave", "watcher"),
    *("mutex", "mutex_wait", "robust", "sync_object", "child", "sysv_wait", "signal_info"),
)
ROUNDS = {
    "turns": 1000,
    "several": 1000,
    "pairs": 2000,
    "making": 200,
    "stopping": 50,
    "behind": 20,
    "dying": 20,
    "leaving": 5,
    "recycled": 10,
    "fairness": 10,
    "forks": 10,
    "misuse": 1,
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("semaphore")

    def compile_to(name, flags=(), native=NATIVE):
        """Compile, with the sources in a directory."""
        sources = [HERE / "semaphore_test.c", *(native / f"{stem}.c" for stem in SOURCES)]
        return c_compiler.program(directory / name, sources, *flags, include=[native])

    return compile_to


def run(program, what, rounds, limit=HANG_LIMIT):
    try:
        done = subprocess.run(
            [program, what, str(rounds)],
            check=False,
            timeout=limit,
            capture_output=True,
            text=True,
            env={**os.environ, "TSAN_OPTIONS": "detect_deadlocks=0 atexit_sleep_ms=0"},
        )
    except subprocess.TimeoutExpired:
        return None, "hangs"
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_core(sanitizer, what, build):
    assert run(build(sanitizer, SANITIZERS[sanitizer]), what, ROUNDS[what]) == (0, "")


@pytest.mark.parametrize(
    ("what", "source", "old", "new", "seen"),
    [
        (
            "behind",
            "semaphore.c",
            "word & KIN_SEVERAL ? INT_MAX : (long)count",
            "(long)count",
            "hangs",
        ),
        (
            "recycled",
            "members.c",
            "is_another(watched->pid, watched->start)",
            "is_another(watched->pid, 0)",
            "value == 1",
        ),
        (
            "turns",
            "semaphore_word.h",
            "memory_order_acq_rel, memory_order_relaxed);\n}\n\nstatic inline uint32_t\nkin_value_in",
            "memory_order_relaxed, memory_order_relaxed);\n}\n\nstatic inline uint32_t\nkin_value_in",
            "data race",
        ),
        (
            "fairness",
            "patience.h",
            "time - patience->since > KIN_PATIENCE",
            "time - patience->since > (uint64_t)KIN_PATIENCE * 1000",
            "MOST_TURNS",
        ),
    ],
    ids=["wakes one of several", "believes a pid", "sees nothing", "has patience"],
)
def test_a_broken_one_is_caught(what, source, old, new, seen, build, tmp_path):
    copy = tmp_path / "native"
    shutil.copytree(NATIVE, copy)
    shutil.copytree(NATIVE.parent / "include", tmp_path / "include")
    text = (copy / source).read_text()
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {source}"
    (copy / source).write_text(text.replace(old, new))
    sanitizer = "thread" if seen == "data race" else "plain"
    if what == "fairness" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("with one CPU, who sleeps is woken in time")
    program = build(f"broken-{what}", SANITIZERS[sanitizer], copy)
    limit = HANG_OF_BROKEN if seen == "hangs" else HANG_LIMIT
    code, message = run(program, what, 20 * ROUNDS[what], limit)
    assert code != 0
    assert seen in message
