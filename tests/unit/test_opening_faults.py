"""The kernel says no, at every system call of opening a Mutex, an Event, a Condition or a Semaphore: a typed error, and neither a name
nor a descriptor is left. And no space that somebody else forgot to have is touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.sync import names
from tests.conformance.peers import Peers
from tests.unit.refusals import refuse
from tests.unit.test_kernel_semaphore_faults import error_of
from tests.unit.test_memory_space import in_a_tiny_one

ROOT = Path(__file__).parents[2]
KINDS: list[Any] = [kin.Mutex, kin.Event, kin.Condition, kin.Semaphore]
each_kind = pytest.mark.parametrize("kind", KINDS)

Refusal = tuple[str, int, dict[str, Any], str]

READ = os.O_RDONLY | os.O_CLOEXEC
MAKE = os.O_RDWR | os.O_CLOEXEC | os.O_TMPFILE
FIND = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: of looking for a name: what is refused, how, and the error for that
LOOKED_UP: list[Refusal] = [
    ("openat", errno.EMFILE, {"command": DIRECTORY, "at": 2}, "LimitReached"),
    ("newfstatat", errno.EIO, {}, "KernelError"),
    ("flock", errno.ENOLCK, {}, "KernelError"),
    ("openat", errno.EMFILE, {"command": FIND, "at": 2}, "LimitReached"),
    ("openat", errno.EACCES, {"command": FIND, "at": 2}, "AccessDenied"),
]
#: of a file, in which it lies
OF_A_FILE: list[Refusal] = [
    ("fallocate", errno.ENOSPC, {}, "NoSpace"),
    ("mmap", errno.ENOMEM, {"of_files": True}, "LimitReached"),
]
if sys.version_info < (3, 13):  # whose mmap needs no descriptor of its own
    OF_A_FILE.append(("fcntl", errno.EMFILE, {"command": fcntl.F_DUPFD_CLOEXEC}, "LimitReached"))
MADE: list[Refusal] = [
    ("openat", errno.EMFILE, {"command": MAKE, "at": 2}, "LimitReached"),
    ("openat", errno.ENOSPC, {"command": MAKE, "at": 2}, "NoSpace"),
    ("fchmod", errno.EPERM, {}, "AccessDenied"),
    ("linkat", errno.ENOSPC, {}, "NoSpace"),
    ("linkat", errno.EPERM, {}, "AccessDenied"),
]
ANONYMOUS: list[Refusal] = [
    ("memfd_create", errno.EMFILE, {}, "LimitReached"),
    ("fcntl", errno.EPERM, {"command": fcntl.F_ADD_SEALS}, "AccessDenied"),
]


def refused(calls: list[Refusal]) -> Any:
    return pytest.mark.parametrize(("call", "code", "how", "error"), calls)


@pytest.fixture
def warm(unique_name: str) -> Iterator[str]:
    """A name; what is loaded with the first of each kind, and could not be with a refusal, is there."""
    for kind in KINDS:
        kind(name=unique_name).close()
        kind().close()
    names_left(unique_name, remove=True)
    yield unique_name
    names_left(unique_name, remove=True)


def names_left(name: str, *, remove: bool = False) -> list[str]:
    found = []
    for kind in KINDS:
        path = names.path_of(kind.KIND, name)
        if os.path.lexists(path):
            found.append(path)
            if remove:
                os.unlink(path)
    return found


@each_kind
@refused([*LOOKED_UP, *MADE, *OF_A_FILE])
def test_one_that_can_not_be_made(
    kind: Any, call: str, code: int, how: Any, error: str, warm: str, peers: Peers
) -> None:
    peer = peers.fork(lambda _: error_of(lambda: kind(name=warm), call, code, **how))
    assert peer.result() == (error, False)
    assert names_left(warm) == []
    kind(name=warm).unlink()


@each_kind
@refused([*LOOKED_UP, *OF_A_FILE])
def test_one_that_is_found(
    kind: Any, call: str, code: int, how: Any, error: str, warm: str, peers: Peers
) -> None:
    found = kind(name=warm)
    peer = peers.fork(lambda _: error_of(lambda: kind(name=warm), call, code, **how))
    assert peer.result() == (error, False)
    found.unlink()  # the same one, which still has its name


@each_kind
@refused([*ANONYMOUS, *OF_A_FILE])
def test_one_without_a_name(
    kind: Any, call: str, code: int, how: Any, error: str, warm: str, peers: Peers
) -> None:
    peer = peers.fork(lambda _: error_of(kind, call, code, **how))
    assert peer.result() == (error, False)


def open_first_of_all(kind: str, name: str) -> None:
    """In a process that has never opened any, and can't learn which boot this is."""
    made: Any = getattr(kin, kind)
    for each in KINDS:
        each.inside  # noqa: B018 - loaded
    with contextlib.suppress(kin.InvalidValue):
        kin.Mutex("")
    refuse("openat", errno.EMFILE, command=READ, at=2)
    try:
        made(name=name)
    except kin.LimitReached as error:
        print(error.what, names_left(name))


@each_kind
def test_the_first_one_in_a_process(kind: Any, warm: str) -> None:
    code = f"import tests.unit.test_opening_faults as t; t.open_first_of_all({kind.__name__!r}, {warm!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "it can't be opened []\n"), done.stderr
    assert names_left(warm) == []


# ── space that nobody has had ────────────────────────────────────────────────────────────────


def sparse(path: str, size: int) -> None:
    """A file as ftruncate(2) alone makes it."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with open(path, "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.truncate(size)


def fill() -> None:
    """Leave no page of /dev/shm."""
    with open("/dev/shm/fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(mmap.PAGESIZE)):
            pass


def killed_by(function: Callable[[], object]) -> int:
    """The signal that ends a forked child which calls it, or 0."""
    pid = os.fork()
    if pid == 0:
        function()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])


SPARSE: list[tuple[Callable[[], Any], str, int]] = [
    *((lambda k=kind: k(name="x"), names.path_of(kind.KIND, "x"), kind.SIZE) for kind in KINDS),
    (lambda: kin.PosixSemaphore("/x"), "/dev/shm/sem.x", kin.PosixSemaphore.SIZE),
]


@pytest.mark.parametrize(("use", "path", "size"), SPARSE, ids=[path for _, path, _ in SPARSE])
def test_a_file_without_space_when_there_is_none(
    use: Callable[[], Any], path: str, size: int, warm: str, peers: Peers
) -> None:
    def touch() -> None:
        """The negative control."""
        with open(path, "r+b") as file:
            mmap.mmap(file.fileno(), size)[0] = 1

    def live() -> tuple[str, int, bool]:
        sparse(path, size)
        fill()
        try:
            use()
        except kin.KinfolkError as error:
            return type(error).__name__, killed_by(touch), os.path.exists(path)
        return "", 0, True

    assert in_a_tiny_one(peers, live) == ("NoSpace", signal.SIGBUS, True)


@each_kind
def test_a_file_without_space_when_there_is_some(kind: Any, warm: str, peers: Peers) -> None:
    def live() -> int:
        path = names.path_of(kind.KIND, "x")
        sparse(path, kind.SIZE)
        kind(name="x").close()
        return os.stat(path).st_blocks

    assert in_a_tiny_one(peers, live) > 0


@pytest.mark.parametrize("kind", [kin.Condition, kin.Semaphore])
def test_a_file_that_is_larger_than_any(kind: Any, warm: str) -> None:
    """It is not filled, either."""
    path = names.path_of(kind.KIND, warm)
    sparse(path, kind.size(1024) + 64)
    with pytest.raises(kin.CorruptObject):
        kind(name=warm)
    assert os.stat(path).st_blocks == 0
