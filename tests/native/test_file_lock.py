"""Waiting for locks on files as plain C threads, under the sanitizers (see file_lock_test.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

ROUNDS = {"wakes": 300, "deadlines": 30, "turns": 500}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("file_lock")

    def compile_to(name, flags=(), source=NATIVE / "file_lock.c"):
        sources = [HERE / "file_lock_test.c", source, NATIVE / "sysv_wait.c"]
        return c_compiler.program(directory / name, sources, *flags)

    return compile_to


@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_core(sanitizer, what, build, tmp_path):
    program = build(sanitizer, SANITIZERS[sanitizer])
    command = [program, what, str(ROUNDS[what]), tmp_path / "file"]
    subprocess.run(command, check=True, timeout=HANG_LIMIT)


def test_what_is_restarted_never_ends(build, tmp_path):
    """The negative control: with SA_RESTART left as it was, the first deadline is not kept."""
    source = (NATIVE / "file_lock.c").read_text()
    rule = "wait->restarts = true;"
    assert source.count(rule) == 1
    broken = tmp_path / "file_lock.c"
    broken.write_text(source.replace(rule, "(void)wait;"))
    command = [build("broken", source=broken), "deadlines", "1", tmp_path / "file"]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(command, check=True, timeout=0.5)
