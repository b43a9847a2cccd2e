"""The event as plain C threads, under the sanitizers (see event_test.c)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent.parent / "native"
HANG_LIMIT = 60  # seconds

SANITIZERS = {
    "plain": (),
    "thread": ("-fsanitize=thread",),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
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
def build(tmp_path_factory):
    directory = tmp_path_factory.mktemp("event")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail("these tests need a C compiler, and there is no `cc` on PATH: install gcc")

    def compile_to(name, flags=(), **changed):
        """Compile; those of ``changed`` by their stems instead."""
        program = directory / name
        if not program.exists():
            core = [changed.get(stem, NATIVE / f"{stem}.c") for stem in CORE]
            subprocess.run(
                [
                    *(compiler, "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread"),
                    *("-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror", *flags),
                    *(f"-I{NATIVE}", HERE / "event_test.c", *core, "-o", program),
                ],
                check=True,
            )
        return program

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
