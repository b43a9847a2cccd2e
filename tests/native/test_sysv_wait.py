"""The wait core and the watcher as plain C threads, under the sanitizers (see sysv_wait_test.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import sysv_ipc

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

ROUNDS = {"wakes": 5000, "deadlines": 100, "traffic": 5000, "watcher": 1000}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sysv_wait")

    def compile_to(name, flags=(), wait_source=NATIVE / "sysv_wait.c"):
        core = [wait_source, NATIVE / "watcher.c", NATIVE / "child.c"]
        return c_compiler.program(directory / name, [HERE / "sysv_wait_test.c", *core], *flags)

    return compile_to


@pytest.fixture
def queue_id():
    queue = sysv_ipc.MessageQueue(None, sysv_ipc.IPC_CREX)
    yield queue.id
    queue.remove()


@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_core(sanitizer, what, build, queue_id):
    program = build(sanitizer, SANITIZERS[sanitizer])
    subprocess.run(
        [program, what, str(ROUNDS[what]), str(queue_id)], check=True, timeout=HANG_LIMIT
    )


@pytest.mark.soak  # nothing but patience tells that it hangs
def test_without_sending_the_signal_again_a_wake_is_lost(build, queue_id, tmp_path):
    """The negative control: one signal only, and sooner or later it comes just before the system call."""
    source = (NATIVE / "sysv_wait.c").read_text()
    again = "until.tv_nsec += one_millisecond.tv_nsec;"
    assert source.count(again) == 1
    broken = tmp_path / "sysv_wait.c"
    broken.write_text(source.replace(again, "until.tv_sec += 1000;"))
    program = build("broken", wait_source=broken)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([program, "wakes", "500000", str(queue_id)], check=True, timeout=10)
