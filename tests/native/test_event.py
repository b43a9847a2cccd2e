"""The event as plain C threads, under the sanitizers (see event_test.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

ROUNDS = {
    "rounds": 500,
    "instants": 500,
    "brief": 2000,
    "deaths": 50,
    "finishing": 50,
    "stops": 300,
    "misuse": 1,
}
CORE = ("event", "mutex", "mutex_wait", "robust", "sync_object")


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("event")

    def compile_to(name, flags=(), **changed):
        """Compile; those of ``changed`` by their stems instead."""
        core = [changed.get(stem, NATIVE / f"{stem}.c") for stem in CORE]
        return c_compiler.program(directory / name, [HERE / "event_test.c", *core], *flags)

    return compile_to


def run(program, what, rounds, limit=HANG_LIMIT):
    done = subprocess.run(
        [program, what, str(rounds)], check=False, timeout=limit, capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_core(sanitizer, what, build):
    assert run(build(sanitizer, SANITIZERS[sanitizer]), what, ROUNDS[what]) == (0, "")


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("finishing", "    if (new & WAKING)\n", "    if (new != word && new & WAKING)\n"),
        ("instants", " || (word & GENERATION) != round;", " || (0 && round);"),
        ("deaths", "        wake_all(event, word); /* rule 2 */", "        {}"),
    ],
    ids=["finishing", "instants", "deaths"],
)
def test_a_broken_one_hangs(what, old, new, build, tmp_path):
    text = (NATIVE / "event.c").read_text()
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in event.c"
    (tmp_path / "event.c").write_text(text.replace(old, new))
    program = build(f"broken-{what}", event=tmp_path / "event.c")
    with pytest.raises(subprocess.TimeoutExpired):
        run(program, what, 20 * ROUNDS[what], limit=1)


def test_who_does_not_look_properly_is_caught(build, tmp_path):
    text = (NATIVE / "event.c").read_text()
    assert text.count("memory_order_acquire);") == 1
    text = text.replace("memory_order_acquire);", "memory_order_relaxed);")
    text = text.replace("memory_order_acq_rel,", "memory_order_relaxed,")
    (tmp_path / "event.c").write_text(text)
    program = build("relaxed", SANITIZERS["thread"], event=tmp_path / "event.c")
    code, message = run(program, "rounds", ROUNDS["rounds"])
    assert code != 0
    assert "data race" in message
