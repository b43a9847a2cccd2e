"""The ring as plain C threads, under the sanitizers (see ring_test.c)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
SOURCES = (
    *(
        "ring",
        "ring_wait",
        "ring_poll",
        "arena",
        "arena_ring",
        "arena_acknowledge",
        "arena_wait",
        "arena_fork",
        "arena_pages",
        "members_fork",
    ),
    *("members", "members_leave", "watcher", "mutex", "mutex_wait", "robust", "sync_object"),
    *("child", "sysv_wait", "signal_info"),
)
HANG_LIMIT = 60  # seconds

ROUNDS = {
    "stream": 20000,
    "many": 2000,
    "batches": 5000,
    "alarms": 200,
    "blocks": 2000,
    "noise": 2000,
    "overwritten": 1000,
    "misuse": 1,
}

#: What is taken out, of which file, and what then shows it.
MISTAKES = {
    "lengths are believed": (
        "ring.c",
        "may_lie(ring, there) && kin_ring_framed(frame->length) <= there",
        "may_lie(ring, there)",
        "overwritten",
    ),
    "positions are believed": (
        "ring.c",
        "return between <= ring->capacity;",
        "return ring->capacity != between;",
        "overwritten",
    ),
    "who receives a block does not hold it": (
        "arena_ring.c",
        "    else\n        kin_arena_hold(arena, row, block);\n    return 0;",
        "    block->forks = kin_robust_forks();\n    return 0;",
        "blocks",
    ),
    "how long a block is, is believed": (
        "arena_inside.h",
        "return units <= arena->shape.units - unit ? units : 0;",
        "(void)arena;\n    (void)unit;\n    return units;",
        "noise",
    ),
    "what is read is not free yet": (
        "ring.c",
        "atomic_store_explicit(&ring->mine->position, ring->at, memory_order_release)",
        "atomic_store_explicit(&ring->mine->position, ring->at, memory_order_relaxed)",
        "stream",
    ),
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    """Compile it; with other files in place of those of native/ of the same name."""
    directory = tmp_path_factory.mktemp("ring")

    def linked(name, sanitizer, *broken):
        sources = [HERE / "ring_test.c", *(NATIVE / f"{stem}.c" for stem in SOURCES)]
        stems = {each.stem for each in broken}
        parts = [*(each for each in sources if each.stem not in stems), *broken]
        return c_compiler.program(directory / name, parts, *SANITIZERS[sanitizer])

    return linked


def run(program, what, rounds, limit=HANG_LIMIT):
    try:
        done = subprocess.run(
            [program, what, str(rounds)],
            check=False,
            timeout=limit,
            capture_output=True,
            text=True,
            env={**os.environ, "TSAN_OPTIONS": "detect_deadlocks=0"},
        )
    except subprocess.TimeoutExpired:
        return None, "it hangs"
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_core(sanitizer, what, build):
    assert run(build(sanitizer, sanitizer), what, ROUNDS[what]) == (0, "")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake, build, tmp_path):
    source, old, new, what = MISTAKES[mistake]
    text = (NATIVE / source).read_text()
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {source}"
    (tmp_path / source).write_text(text.replace(old, new))
    broken = [tmp_path / source]
    if source.endswith(".h"):  # who includes it finds it beside him
        files = [NATIVE / f"{stem}.c" for stem in SOURCES]
        broken = [
            shutil.copy(file, tmp_path / file.name)
            for file in files
            if f'"{source}"' in file.read_text()
        ]
    sanitizer = "thread" if what == "stream" else "address"
    program = build(f"broken-{list(MISTAKES).index(mistake)}", sanitizer, *broken)
    code, _ = run(program, what, ROUNDS[what] * 3, limit=10)
    assert code != 0
