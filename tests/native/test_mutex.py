"""The robust mutex as plain C threads, under the sanitizers (see mutex_test.c)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

CORE = ("mutex", "mutex_wait", "robust", "sync_object")
ROUNDS = {
    "turns": 5000,
    "deaths": 100,
    "making": 300,
    "neighbours": 2000,
    "overwritten": 100,
    "fairness": 10,
    "forks": 20,
    "misuse": 1,
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("mutex")

    def compile_to(name, flags=(), native=NATIVE):
        """Compile, with the sources in a directory."""
        sources = [HERE / "mutex_test.c", *(native / f"{stem}.c" for stem in CORE)]
        return c_compiler.program(directory / name, sources, *flags, include=[native])

    return compile_to


def run(program, what, rounds):
    done = subprocess.run(
        [program, what, str(rounds)],
        check=False,
        timeout=HANG_LIMIT,
        capture_output=True,
        text=True,
        env={**os.environ, "TSAN_OPTIONS": "detect_deadlocks=0"},  # any order, on purpose
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_core(sanitizer, what, build):
    assert run(build(sanitizer, SANITIZERS[sanitizer]), what, ROUNDS[what]) == (0, "")


@pytest.mark.parametrize(
    ("what", "source", "old", "new", "seen"),
    [
        (
            "neighbours",
            "robust.c",
            "if (!as_known && !stands_between(prev, node, next)) {",
            "if (!as_known) {",
            "kin_mutex_unlock",
        ),
        (
            "overwritten",
            "mutex.c",
            "        if (held->state == state)\n",
            "        if (0 && held->state == state)\n",
            "EILSEQ",
        ),
        (
            "fairness",
            "patience.h",
            "time - patience->since > KIN_PATIENCE",
            "time - patience->since > (uint64_t)KIN_PATIENCE * 1000",
            "MOST_TURNS",
        ),
        (
            "turns",
            "mutex_word.h",
            "return atomic_compare_exchange_strong_explicit(&state->word, &old, new, memory_order_acquire,",
            "return atomic_compare_exchange_strong_explicit(&state->word, &old, new, memory_order_relaxed,",
            "data race",
        ),
    ],
    ids=["believes nothing", "links twice", "has patience", "sees nothing"],
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
    code, message = run(program, what, 20 * ROUNDS[what])
    assert code != 0
    assert seen in message
