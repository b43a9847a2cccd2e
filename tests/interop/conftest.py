"""The C peers as fixtures: compile one, start it, wait until it is ready, see it end well.

- ``c_program(name)`` compiles ``name.c`` of this directory, once, and gives the program's path.
- ``start(*command, ready=None)`` starts a process; with ``ready`` it returns once the process has
  printed that line.
- ``finish(process)`` waits for a process that must end with 0 and say nothing on stderr, and gives
  its stdout.
- ``fifo``: a FIFO for this test.
- ``mq_name``, ``sysv_key``: a fresh queue name and key, whose queue, if anybody made it, is removed
  after the test; ``claim_sysv_key(key)`` does the same for a key of your choice and refuses one
  that is in use.

No fixture sleeps. HANG_LIMIT is not a measure of speed: only what never ends reaches it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest
import sysv_ipc

HERE = Path(__file__).resolve().parent
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2")
HANG_LIMIT = 60.0  # seconds

CProgram = Callable[[str], Path]
Start = Callable[..., "subprocess.Popen[bytes]"]
Finish = Callable[["subprocess.Popen[bytes]"], bytes]


@pytest.fixture(scope="session")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> CProgram:
    directory = tmp_path_factory.mktemp("c_programs")
    compiled: dict[str, Path] = {}

    def compile_once(name: str) -> Path:
        if name not in compiled:
            compiled[name] = _compile(HERE / f"{name}.c", directory / name)
        return compiled[name]

    return compile_once


def _compile(source: Path, program: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail(
            "the C peers need a C compiler, and there is no `cc` on PATH: install gcc",
            pytrace=False,
        )
    # -lrt: before glibc 2.34 the mq_ functions were in a library of their own.
    command = [compiler, *FLAGS, str(source), "-o", str(program), "-lrt"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=HANG_LIMIT, check=False
    )
    if result.returncode != 0:
        pytest.fail(f"{' '.join(command)}\n{result.stderr}", pytrace=False)
    return program


@pytest.fixture
def start() -> Iterator[Start]:
    processes: list[subprocess.Popen[bytes]] = []

    def start_one(
        *command: str | os.PathLike[str], ready: str | None = None, pass_fds: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # so that what _read_line leaves is still in the pipe for communicate()
            pass_fds=pass_fds,
        )
        processes.append(process)
        if ready is not None:
            line = _read_line(process)
            if line != ready.encode():
                process.kill()
                _, complaint = process.communicate(timeout=HANG_LIMIT)
                pytest.fail(
                    f"{process.args!r} said {line!r} instead of {ready!r}; stderr: {complaint!r}"
                )
        return process

    yield start_one
    for process in processes:
        process.terminate()  # not kill: a server removes its socket
    for process in processes:
        try:
            process.communicate(timeout=HANG_LIMIT)  # closes its pipes too
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            pytest.fail(f"{process.args!r} did not end on SIGTERM")


def _read_line(process: subprocess.Popen[bytes]) -> bytes:
    """One line without its newline; what came before the end, if the end comes first."""
    assert process.stdout is not None
    readable = select.poll()
    readable.register(process.stdout, select.POLLIN)
    deadline = time.monotonic() + HANG_LIMIT
    line = b""
    while not line.endswith(b"\n"):
        if not readable.poll(max(0.0, deadline - time.monotonic()) * 1000):
            pytest.fail(f"{process.args!r} printed no line (so far {line!r}) and did not end")
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            return line
        line += byte
    return line[:-1]


@pytest.fixture
def finish() -> Finish:
    def finish_one(process: subprocess.Popen[bytes]) -> bytes:
        output, complaint = process.communicate(timeout=HANG_LIMIT)
        assert (process.returncode, complaint) == (0, b""), f"{process.args!r} ended badly"
        return output

    return finish_one


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o600)
    yield path
    path.unlink()


@pytest.fixture
def mq_name() -> Iterator[str]:
    name = f"/kinfolk-interop-{secrets.token_hex(8)}"
    yield name
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue(name)


@pytest.fixture
def claim_sysv_key() -> Iterator[Callable[[int], int]]:
    claimed: list[int] = []

    def claim(key: int) -> int:
        with contextlib.suppress(sysv_ipc.ExistentialError):
            sysv_ipc.MessageQueue(key)
            pytest.fail(f"somebody else's queue has the key {key:#x}")
        claimed.append(key)
        return key

    yield claim
    for key in claimed:
        with contextlib.suppress(sysv_ipc.ExistentialError):
            sysv_ipc.MessageQueue(key).remove()


@pytest.fixture
def sysv_key(claim_sysv_key: Callable[[int], int]) -> int:
    return claim_sysv_key(secrets.randbelow(0x7FFFFFFF) + 1)
