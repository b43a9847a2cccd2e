"""The kernel says no, at every system call of creating, attaching and growing: a typed error, and nothing is left.

Each case runs in a peer that can't be used for anything else afterwards. Whether a descriptor was left is asked without
opening anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
from collections.abc import Callable
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.memory.sysv_segment import all_segments
from tests.conformance.peers import Peers, until
from tests.conformance.test_exhaustion import room_for
from tests.namespaces import CLONE_NEWIPC, NotHere, in_namespaces
from tests.unit.memories import EVERY, NAMED, NewAddress, is_there
from tests.unit.refusals import refuse

F_ADD_SEALS = 1033
IPC_RMID, IPC_STAT, IPC_SET = 0, 2, 1


def held() -> list[int]:
    """The descriptors of this process."""
    found = []
    for number in range(300):
        with contextlib.suppress(OSError):
            fcntl.fcntl(number, fcntl.F_GETFD)
            found.append(number)
    return found


def own_segments() -> set[int]:
    return {number for number, status in all_segments() if status.made_by == os.getpid()}


def error_of(voice: Any, prepare: Callable[[], Any], call: Callable[[], Any]) -> tuple[str, bool]:
    """In a peer: the error of a call that is refused something, and whether it left a descriptor."""
    before = held()
    prepare()
    try:
        call().close()
    except kin.KinfolkError as error:
        assert "\n" not in str(error)
        return type(error).__name__, held() != before
    return "", held() != before


CREATING = [
    ("memfd", "memfd_create", errno.EMFILE, {}, "LimitReached"),
    ("memfd", "memfd_create", errno.ENOMEM, {}, "LimitReached"),
    ("memfd", "memfd_create", errno.ENOSYS, {}, "KernelError"),
    ("memfd", "fallocate", errno.ENOSPC, {}, "NoSpace"),
    ("memfd", "fallocate", errno.ENOMEM, {}, "NoSpace"),
    ("memfd", "fallocate", errno.EFBIG, {}, "LimitReached"),
    ("memfd", "fchmod", errno.EPERM, {}, "AccessDenied"),
    ("memfd", "fcntl", errno.EPERM, {"command": F_ADD_SEALS}, "AccessDenied"),
    ("memfd", "mmap", errno.ENOMEM, {"of_files": True}, "LimitReached"),
    ("memfd", "mmap", errno.EPERM, {"of_files": True}, "AccessDenied"),
    ("shm", "openat", errno.EMFILE, {}, "LimitReached"),
    ("shm", "openat", errno.ENFILE, {}, "LimitReached"),
    ("shm", "openat", errno.ENOSPC, {}, "NoSpace"),
    ("shm", "openat", errno.EACCES, {}, "AccessDenied"),
    ("shm", "fallocate", errno.ENOSPC, {}, "NoSpace"),
    ("shm", "fallocate", errno.EDQUOT, {}, "NoSpace"),
    ("shm", "fallocate", errno.EIO, {}, "KernelError"),
    ("shm", "fchmod", errno.EPERM, {}, "AccessDenied"),
    ("shm", "mmap", errno.ENOMEM, {"of_files": True}, "LimitReached"),
    ("shm", "linkat", errno.ENOSPC, {}, "NoSpace"),
    ("shm", "linkat", errno.EPERM, {}, "AccessDenied"),
    ("shm", "linkat", errno.ENOENT, {}, "NotFound"),
    ("file", "openat", errno.EROFS, {}, "KernelError"),
    ("file", "fallocate", errno.ENOSPC, {}, "NoSpace"),
    ("file", "mmap", errno.EAGAIN, {"of_files": True}, "KernelError"),
    ("file", "linkat", errno.EDQUOT, {}, "NoSpace"),
    ("sysv-shm", "shmget", errno.ENOSPC, {}, "NoSpace"),
    ("sysv-shm", "shmget", errno.ENOMEM, {}, "NoSpace"),
    ("sysv-shm", "shmget", errno.EINVAL, {}, "LimitReached"),
    ("sysv-shm", "shmget", errno.ENOSYS, {}, "KernelError"),
    ("sysv-shm", "shmat", errno.ENOMEM, {}, "LimitReached"),
    ("sysv-shm", "shmat", errno.EMFILE, {}, "LimitReached"),
    ("sysv-shm", "shmat", errno.EACCES, {}, "AccessDenied"),
    ("sysv-shm", "shmctl", errno.EACCES, {"command": IPC_STAT}, "AccessDenied"),
    ("sysv-shm without a key", "shmat", errno.ENOMEM, {}, "LimitReached"),
]


@pytest.mark.parametrize(("kind", "call", "code", "how", "error"), CREATING)
def test_a_creation_that_is_refused_leaves_nothing(
    kind: str, call: str, code: int, how: Any, error: str, new_address: NewAddress, peers: Peers
) -> None:
    address = new_address(kind)
    _warm(kind, new_address)

    def create(voice: Any) -> tuple[Any, set[int]]:
        outcome = error_of(
            voice,
            lambda: refuse(call, code, **how),
            lambda: kin.SharedMemory.create(address, 10_000),
        )
        return outcome, own_segments() if call != "openat" else set()

    assert peers.fork(create).result() == ((error, False), set())
    if kind in NAMED:
        assert not is_there(address)


FOR_PEERS = [
    ("shm", "flock", errno.ENOLCK, {}, "KernelError"),
    ("shm", "linkat", errno.ENOSPC, {}, "NoSpace"),
    ("shm", "fchmod", errno.EPERM, {}, "AccessDenied"),
    ("sysv-shm", "flock", errno.ENOLCK, {}, "KernelError"),
    ("sysv-shm", "linkat", errno.ENOSPC, {}, "NoSpace"),
    ("sysv-shm", "fchmod", errno.EPERM, {}, "AccessDenied"),
    ("sysv-shm", "openat", errno.EMFILE, {}, "LimitReached"),
    ("sysv-shm", "shmat", errno.ENOMEM, {}, "LimitReached"),
]


@pytest.mark.parametrize(("kind", "call", "code", "how", "error"), FOR_PEERS)
def test_one_with_a_membership_leaves_nothing(
    kind: str, call: str, code: int, how: Any, error: str, new_address: NewAddress, peers: Peers
) -> None:
    address = new_address(kind)
    _warm(kind, new_address)

    def create(voice: Any) -> Any:
        return error_of(
            voice,
            lambda: refuse(call, code, **how),
            lambda: kin.SharedMemory.create(address, 10_000, lifetime="peers"),
        )

    assert peers.fork(create).result() == (error, False)
    assert not is_there(address)


def test_without_a_process_for_its_guard_there_is_none(
    new_address: NewAddress, peers: Peers
) -> None:
    for kind in ("shm", "sysv-shm"):
        address = new_address(kind)

        def create(voice: Any, address: str = address) -> Any:
            def prepare() -> None:
                for call in ("vfork", "clone3", "clone"):
                    refuse(call, errno.EAGAIN)

            return error_of(
                voice, prepare, lambda: kin.SharedMemory.create(address, 100, lifetime="peers")
            )

        assert peers.fork(create).result() == ("LimitReached", False)
        assert not is_there(address)


ATTACHING = [
    ("shm", "openat", errno.EMFILE, {}, "LimitReached"),
    ("shm", "openat", errno.ELOOP, {}, "KernelError"),
    ("shm", "mmap", errno.ENOMEM, {"of_files": True}, "LimitReached"),
    ("file", "mmap", errno.ENODEV, {"of_files": True}, "KernelError"),
    ("file", "fallocate", errno.ENOSPC, {}, "NoSpace"),
    ("sysv-shm", "shmget", errno.ENOENT, {}, "NotFound"),
    ("sysv-shm", "shmget", errno.EACCES, {}, "AccessDenied"),
    ("sysv-shm", "shmctl", errno.EACCES, {}, "AccessDenied"),
    ("sysv-shm", "shmctl", errno.EIDRM, {}, "NotFound"),
    ("sysv-shm", "shmat", errno.EIDRM, {}, "NotFound"),
    ("sysv-shm", "shmat", errno.ENOMEM, {}, "LimitReached"),
]


@pytest.mark.parametrize(("kind", "call", "code", "how", "error"), ATTACHING)
def test_an_attachment_that_is_refused_leaves_nothing(
    kind: str, call: str, code: int, how: Any, error: str, new_address: NewAddress, peers: Peers
) -> None:
    address = new_address(kind)
    memory = kin.SharedMemory.create(address, 10_000)
    kin.SharedMemory.attach(address).close()

    def attach(voice: Any) -> Any:
        return error_of(
            voice, lambda: refuse(call, code, **how), lambda: kin.SharedMemory.attach(address)
        )

    assert peers.fork(attach).result() == (error, False)
    assert is_there(address)
    memory.unlink()


def test_a_file_system_that_can_not_reserve_is_written_to(
    new_address: NewAddress, peers: Peers
) -> None:
    """As posix_fallocate(3) does; but not what somebody else may be writing to."""
    for kind in ("shm", "file"):
        address = new_address(kind)

        def create(_: Any, address: str = address) -> int:
            refuse("fallocate", errno.EOPNOTSUPP)
            with kin.SharedMemory.create(address, 10_000) as memory:
                blocks = os.fstat(memory.fileno()).st_blocks
                kin.SharedMemory.attach(address).close()
                memory.resize(20_000)
                memory.unlink()
            return blocks * 512

        assert peers.fork(create).result() >= 10_000


def test_a_disk_that_fails_is_heard_of(new_address: NewAddress, peers: Peers) -> None:
    def flush(_: Any) -> None:
        memory = kin.SharedMemory.create(new_address("file"), 100)
        refuse("msync", errno.EIO)
        memory.flush()

    peer = peers.fork(flush)
    with pytest.raises(AssertionError) as caught:
        peer.result()
    assert isinstance(caught.value.error, kin.KernelError)  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EPERM])
def test_growing_that_is_refused_leaves_it_as_it_was(
    code: int, new_address: NewAddress, peers: Peers
) -> None:
    for kind in ("memfd", "shm", "file"):
        memory = kin.SharedMemory.create(new_address(kind), 100)

        def grow(_: Any, memory: kin.SharedMemory = memory) -> tuple[str, int]:
            refuse("fallocate", code)
            try:
                memory.resize(100_000)
            except kin.KinfolkError as error:
                return type(error).__name__, memory.size
            return "", 0

        expected = "NoSpace" if code == errno.ENOSPC else "AccessDenied"
        assert peers.fork(grow).result() == (expected, 100)
        assert memory.remap() == 100
        memory.close()


@pytest.mark.parametrize(
    ("kind", "lifetime"),
    [*((kind, "name") for kind in EVERY), ("shm", "peers"), ("sysv-shm", "peers")],
)
def test_every_number_of_descriptors_that_is_too_few(
    kind: str, lifetime: Any, new_address: NewAddress, peers: Peers
) -> None:
    address = new_address(kind)
    how = {"lifetime": lifetime} if kind in NAMED else {}
    _warm(kind, new_address)

    def live(_: Any) -> int:
        refusals, kept = 0, []
        calls = [lambda: kin.SharedMemory.create(address, 100, **how)]
        if kind in NAMED:
            calls.append(lambda: kin.SharedMemory.attach(address))
        for call in calls:
            room = 0
            while len(kept) <= calls.index(call):
                before = held()
                with room_for(room), contextlib.suppress(kin.LimitReached):
                    kept.append(call())
                    break
                assert held() == before
                room, refusals = room + 1, refusals + 1
                assert room < 12, "it never works"
        return refusals

    assert peers.fork(live).result() > 0 or kind.startswith("sysv-shm")
    if kind in NAMED and lifetime == "name":
        kin.SharedMemory.attach(address).unlink()
    elif kind in NAMED:
        until(lambda: not is_there(address), "removed by the guard")


def test_a_limit_on_address_space(new_address: NewAddress, peers: Peers) -> None:
    for kind in EVERY:
        address = new_address(kind)
        _warm(kind, new_address)

        def create(_: Any, address: str = address) -> None:
            limit = 64 << 20
            pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + limit,) * 2)
            with pytest.raises(kin.LimitReached, match="ulimit -v"):
                kin.SharedMemory.create(address, 2 * limit)

        peers.fork(create).result()
        if kind in NAMED:
            assert not is_there(address)


def test_a_limit_on_file_sizes(new_address: NewAddress, peers: Peers) -> None:
    for kind in ("memfd", "shm", "file"):
        address = new_address(kind)

        def create(_: Any, address: str = address) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            with pytest.raises(kin.LimitReached, match="ulimit -f"):
                kin.SharedMemory.create(address, 20_000)

        peers.fork(create).result()
        if kind in NAMED:
            assert not is_there(address)


def test_the_kernel_s_own_limits_of_segments(new_address: NewAddress, peers: Peers) -> None:
    """In an IPC namespace of its own, where the limits can be lowered."""

    def create() -> Any:
        complaints = []
        for name, value, size in (
            ("shmmax", 10_000, 20_000),
            ("shmall", 3, 20_000),
            ("shmmni", 0, 100),
        ):
            path = f"/proc/sys/kernel/{name}"
            with open(path) as file:
                before = file.read()
            try:
                with open(path, "w") as file:
                    file.write(str(value))
            except PermissionError as error:
                return NotHere(f"the limits can't be lowered: {error}")
            try:
                kin.SharedMemory.create(new_address("sysv-shm"), size)
            except (kin.NoSpace, kin.LimitReached) as error:
                complaints.append(f"{error.why} ({error.remedy})")
            with open(path, "w") as file:
                file.write(before)
        return complaints

    shmmax, shmall, shmmni = in_namespaces(peers, CLONE_NEWIPC, create)
    assert "kernel.shmmax is 10000" in shmmax
    assert "sysctl kernel.shmmax=20000" in shmmax
    assert "free 12288, kernel.shmall is 3 pages" in shmall
    assert "sysctl kernel.shmall=10" in shmall
    assert "kernel.shmmni is 0" in shmmni


def _warm(kind: str, new_address: NewAddress) -> None:
    """What is loaded and kept for good at the first time."""
    memory = kin.SharedMemory.create(new_address(kind), 100)
    if kind in NAMED:
        kin.SharedMemory.attach(memory.address).unlink()
    with contextlib.suppress(kin.Timeout):
        kin.SharedMemory.attach(new_address("shm"), timeout=0.001)
    memory.close()
