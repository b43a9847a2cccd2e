"""FileLock and programs that lock in C or in a shell: fcntl(2), lockf(3), OFD locks, flock(2), flock(1); Python's fcntl, too."""

from __future__ import annotations

import fcntl
import itertools
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.sync.file_lock import LockKind
from tests.conformance.peers import HANG, thread_of
from tests.interop.conftest import CProgram, Finish, Start, _read_line
from tests.unit.file_locks import KINDS, is_free, until_waiting

#: What knows of what.
MEETS: dict[str, tuple[LockKind, ...]] = {"fcntl": ("ofd", "posix"), "lockf": ("ofd", "posix"), "ofd": ("ofd", "posix"), "flock": ("flock",)}  # fmt: skip

Locker = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.touch(0o600)
    return path


@pytest.fixture
def locker(c_program: CProgram, start: Start, path: Path) -> Locker:
    """The C program, when it has said a word."""

    def run(
        how: str, begin: int = 0, length: int = 0, *, shared: bool = False, says: str = "locked"
    ) -> subprocess.Popen[bytes]:
        kind = "shared" if shared else "exclusive"
        words = (how, path, str(begin), str(length), kind)
        return start(c_program("file_lock"), *words, ready=says)

    return run


@pytest.mark.parametrize(("how", "kind"), [*itertools.product(MEETS, KINDS)])
def test_what_c_has_locked(how, kind, path, locker, finish: Finish):
    program = locker(how)
    assert is_free(path, kind) == (kind not in MEETS[how])
    finish(program)
    assert is_free(path, kind)


@pytest.mark.parametrize("how", MEETS)
def test_what_c_shares(how, path, locker, finish: Finish):
    if how == "lockf":  # it knows nothing of sharing
        how = "fcntl"
    program = locker(how, shared=True)
    for kind in MEETS[how]:
        assert is_free(path, kind, shared=True)
        assert not is_free(path, kind)
    finish(program)


@pytest.mark.parametrize(
    ("how", "kind"), [(how, kind) for how, kinds in MEETS.items() for kind in kinds]
)
def test_each_waits_for_the_other(how, kind, path, locker, finish: Finish):
    lock = kin.FileLock(path, kind=kind)
    with lock:
        program = locker(how, says="busy")
        until_waiting(path)
    assert _read_line(program) == b"locked"
    with thread_of(lock.acquire) as call:
        until_waiting(path)
        finish(program)
        call.result()
    assert not is_free(path, kind)
    with pytest.warns(ResourceWarning):
        del lock


@pytest.mark.parametrize("kind", ["ofd", "posix"])
def test_bytes(kind, path, locker, finish: Finish):
    program = locker("fcntl", 10, 10)
    free = [is_free(path, kind, start=at, length=1) for at in (9, 10, 19, 20)]
    assert free == [True, False, False, True]
    with kin.FileLock(path, kind=kind, start=20):
        locker("lockf", 0, 10)
        locker("ofd", 25, 1, says="busy").kill()
    finish(program)


@pytest.mark.parametrize(
    ("how", "kind"), [(how, kind) for how, kinds in MEETS.items() for kind in kinds]
)
def test_who_is_named(how, kind, path, locker, finish: Finish):
    program = locker(how)
    with pytest.raises(kin.Timeout, match=rf"process {program.pid} \(file_lock\) holds it"):
        kin.FileLock(path, kind=kind).acquire(0.01)
    finish(program)


@pytest.mark.parametrize(("how", "kind"), [("fcntl", "ofd"), ("ofd", "posix"), ("flock", "flock")])
def test_a_killed_c_program_is_followed(how, kind, path, locker):
    program = locker(how)
    lock = kin.FileLock(path, kind=kind)
    with thread_of(lock.acquire, HANG) as call:
        until_waiting(path)
        program.send_signal(signal.SIGKILL)
        call.result()
    with pytest.warns(ResourceWarning):
        del lock


# ── flock(1) ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def flock_command() -> str:
    found = shutil.which("flock")
    if found is None:
        pytest.skip("needs flock(1), of util-linux")
    return found


@pytest.mark.parametrize("shared", [False, True])
def test_flock_of_a_shell(flock_command, shared, path):
    lock = kin.FileLock(path, kind="flock")
    tries = [flock_command, "--nonblock", "--shared" if shared else "--exclusive", path, "true"]
    with lock.hold(shared=shared):
        assert subprocess.run(tries, check=False).returncode == (0 if shared else 1)
    assert subprocess.run(tries, check=False).returncode == 0
    command = [
        flock_command,
        "--shared" if shared else "--exclusive",
        path,
        "sh",
        "-c",
        "echo; cat",
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdout.readline()
        assert not is_free(path, "flock")
        assert is_free(path, "flock", shared=True) == shared
        assert is_free(path, "ofd")
        shell.stdin.close()
    assert is_free(path, "flock")


# ── Python's own ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
def test_fcntl_of_python(kind, path):
    with open(path, "r+b") as file:
        if kind == "flock":
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX)
        # To POSIX locks the process is one, and can't be in its own way.
        assert is_free(path, kind) == (kind == "posix")
    assert is_free(path, kind)
