"""The waits for the kernel's semaphores as plain C threads, under the sanitizers (see kernel_semaphores_test.c)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import sysv_ipc

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent.parent / "native"
HANG_LIMIT = 60  # seconds

SANITIZERS = {
    "plain": (),
    "thread": ("-fsanitize=thread",),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
ROUNDS = {"wakes": 2000, "restarting": 500, "deadlines": 50, "traffic": 3000}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernel_semaphores")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail("these tests need a C compiler, and there is no `cc` on PATH: install gcc")

    def compile_to(name, flags=(), semaphores=NATIVE / "kernel_semaphores.c"):
        program = directory / name
        if not program.exists():
            subprocess.run(
                [
                    *(compiler, "-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-pthread"),
                    *("-Wall", "-Wextra", "-Werror", *flags, f"-I{NATIVE}"),
                    *(HERE / "kernel_semaphores_test.c", semaphores, NATIVE / "sysv_wait.c"),
                    *("-o", program),
                ],
                check=True,
            )
        return program

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
    """The negative control: sem_wait goes on after a handler with SA_RESTART."""
    source = (NATIVE / "kernel_semaphores.c").read_text()
    taken_away = "wait->restarts = true;"
    assert source.count(taken_away) == 1
    broken = tmp_path / "kernel_semaphores.c"
    broken.write_text(source.replace(taken_away, ""))
    program = build("broken", semaphores=broken)
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run([program, "restarting", "posix", "500", str(set_id)], check=True, timeout=1)
