"""The waits for the kernel's semaphores as plain C threads, under the sanitizers (see kernel_semaphores_test.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import sysv_ipc

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

ROUNDS = {"wakes": 2000, "restarting": 500, "deadlines": 50, "traffic": 3000}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernel_semaphores")

    def compile_to(name, flags=(), semaphores=NATIVE / "kernel_semaphores.c"):
        sources = [HERE / "kernel_semaphores_test.c", semaphores, NATIVE / "sysv_wait.c"]
        return c_compiler.program(directory / name, sources, *flags)

    return compile_to


@pytest.fixture
def set_id():
    semaphore = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX)
    yield semaphore.id
    semaphore.remove()


@pytest.mark.parametrize("kind", ["posix", "set"])
@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_waits(sanitizer, what, kind, build, set_id):
    program = build(sanitizer, SANITIZERS[sanitizer])
    subprocess.run(
        [program, what, kind, str(ROUNDS[what]), str(set_id)], check=True, timeout=HANG_LIMIT
    )


def test_a_call_that_is_restarted_would_never_be_left(build, set_id, tmp_path):
    """The negative control: sem_wait goes on after a handler with SA_RESTART, if that comes when it sleeps, and not just before."""
    source = (NATIVE / "kernel_semaphores.c").read_text()
    taken_away = "wait->restarts = true;"
    assert source.count(taken_away) == 1
    broken = tmp_path / "kernel_semaphores.c"
    broken.write_text(source.replace(taken_away, ""))
    program = build("broken", semaphores=broken)

    def wake_at_random() -> None:
        for _ in range(50):
            command = [program, "restarting", "posix", "500", str(set_id)]
            subprocess.run(command, check=True, timeout=2)

    with pytest.raises(subprocess.TimeoutExpired):
        wake_at_random()
