"""The start and the reaping of children as plain C, under the sanitizers (see spawn_test.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

CORE = ("spawn", "spawn_descriptors", "child", "watcher", "sysv_wait")
ROUNDS = {"descriptors": 200, "failures": 10, "threads": 20, "reaping": 50, "lasting": 5}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("spawn")

    def compile_to(name, flags=(), **changed):
        """Compile; those of ``changed`` by their stems instead."""
        core = [changed.get(stem, NATIVE / f"{stem}.c") for stem in CORE]
        return c_compiler.program(directory / name, [HERE / "spawn_test.c", *core], *flags)

    return compile_to


def run(program, what, rounds, child, limit=HANG_LIMIT):
    done = subprocess.run(
        [program, what, str(rounds), child],
        check=False,
        timeout=limit,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


# ThreadSanitizer makes vfork a fork: nobody waits until the child has begun or failed, as these two rely on.
PAIRS = [
    (s, w) for s in SANITIZERS for w in ROUNDS if s != "thread" or w not in ("failures", "lasting")
]


@pytest.mark.parametrize(("sanitizer", "what"), PAIRS)
def test_the_core(sanitizer, what, build):
    program = build(sanitizer, SANITIZERS[sanitizer])
    assert run(program, what, ROUNDS[what], build("plain")) == (0, "")


def broken(tmp_path, source, old, new):
    """A copy of a source with a mistake."""
    text = (NATIVE / source).read_text()
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {source}"
    path = tmp_path / source
    path.write_text(text.replace(old, new))
    return path


def test_without_close_range(build, tmp_path):
    """As on a kernel before 5.9, or in a sandbox that knows no such call."""
    old = broken(tmp_path, "spawn_descriptors.c", "syscall(SYS_close_range,", "syscall(-1,")
    program = build("old-kernel", spawn_descriptors=old)
    assert run(program, "descriptors", 200, build("plain")) == (0, "")


def test_without_close_range_and_without_proc(build, tmp_path):
    old = broken(tmp_path, "spawn_descriptors.c", "syscall(SYS_close_range,", "syscall(-1,")
    old.write_text(old.read_text().replace('"/proc/self/fd"', '"/nonexistent"'))
    program = build("no-proc", spawn_descriptors=old)
    assert run(program, "descriptors", 100, build("plain")) == (0, "")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        # Each is a guard of the descriptors; without it the test of them has to fail.
        (
            "overwrites",
            "if (is_needed(plan, descriptor->there, i))",
            "if (0 && is_needed(plan, 0, i))",
        ),
        ("inherits", "? fcntl(descriptor->here, F_SETFD, 0)", "? 0"),
        ("leaks", "from < kept)\n", "from > kept)\n"),
        ("stays", "here = elsewhere;", "here = number;"),
    ],
)
def test_a_broken_one_is_caught(name, old, new, build, tmp_path):
    source = broken(tmp_path, "spawn_descriptors.c", old, new)
    program = build(name, spawn_descriptors=source)
    code, message = run(program, "descriptors", 500, build("plain"), limit=HANG_LIMIT)
    assert code == 1
    assert "kin_spawn" in message


def test_a_child_that_is_not_reaped_under_the_lock_is_reaped_twice(build, tmp_path):
    """The negative control of reaping: without the first look, the second waitid says ECHILD."""
    path = broken(tmp_path, "child.c", "    if (child->collected)\n        return;\n", "")
    program = build("twice", child=path)
    code, message = run(program, "reaping", 50, build("plain"))
    assert code == 1
    assert "error == 0" in message
