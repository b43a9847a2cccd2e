"""The kernel says no, at every system call of making, finding and operating: a typed error, and nothing is left.

Each case runs in a peer that can't be used for anything else afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.thread_waiter import lend, take_back
from tests.conformance.peers import HANG, Peers
from tests.unit.refusals import refuse
from tests.unit.semaphores import sem_key as sem_key
from tests.unit.semaphores import sem_name as sem_name
from tests.unit.semaphores import set_of, sets
from tests.unit.test_memory_faults import held

IPC_RMID, IPC_SET, IPC_STAT, GETALL, SETALL = 0, 1, 2, 13, 17


def error_of(call: Callable[[], Any], *refusal: Any, **how: Any) -> tuple[str, bool]:
    """In a peer: the error of a call that is refused something, and whether it left a descriptor."""
    take_back(lend())  # a thread that waits for a lock keeps a descriptor
    before = held()
    refuse(*refusal, **how)
    try:
        call()
    except kin.KinfolkError as error:
        assert "\n" not in str(error)
        return type(error).__name__, held() != before
    return "", held() != before


def warm() -> None:
    """What is loaded with the first, and could not be with a refusal."""
    kin.PosixSemaphore().close()
    kin.SysVSemaphore().close()
    with contextlib.suppress(kin.KinfolkError):
        kin.PosixSemaphore("/none", None)


POSIX_MADE = [
    ("openat", errno.EMFILE, {}, "LimitReached"),
    ("openat", errno.EACCES, {}, "AccessDenied"),
    ("openat", errno.ENOSPC, {}, "NoSpace"),
    ("pwrite64", errno.ENOSPC, {}, "NoSpace"),
    ("fchmod", errno.EPERM, {}, "AccessDenied"),
    ("linkat", errno.ENOSPC, {}, "NoSpace"),
    ("linkat", errno.EPERM, {}, "AccessDenied"),
    ("mmap", errno.ENOMEM, {"of_files": True}, "LimitReached"),
]


@pytest.mark.parametrize(("call", "code", "how", "error"), POSIX_MADE)
def test_a_posix_one_that_is_refused(
    call: str, code: int, how: Any, error: str, sem_name: str, peers: Peers
) -> None:
    warm()
    peer = peers.fork(
        lambda voice: error_of(lambda: kin.PosixSemaphore(sem_name), call, code, **how)
    )
    assert peer.result() == (error, False)
    assert not os.path.lexists(f"/dev/shm/sem.{sem_name[1:]}")


@pytest.mark.parametrize(
    ("call", "code", "how", "error"),
    [
        ("openat", errno.EMFILE, {}, "LimitReached"),
        ("openat", errno.EACCES, {}, "AccessDenied"),
        ("newfstatat", errno.EIO, {}, "KernelError"),
        ("fallocate", errno.ENOSPC, {}, "NoSpace"),
        ("mmap", errno.ENOMEM, {"of_files": True}, "LimitReached"),
    ],
)
def test_a_posix_one_that_is_found_and_refused(
    call: str, code: int, how: Any, error: str, sem_name: str, peers: Peers
) -> None:
    warm()
    semaphore = kin.PosixSemaphore(sem_name, 4)
    peer = peers.fork(
        lambda voice: error_of(lambda: kin.PosixSemaphore(sem_name), call, code, **how)
    )
    assert peer.result() == (error, False)
    assert semaphore.value == 4


SETS_MADE = [
    ("semget", errno.ENOSPC, {}, "NoSpace"),
    ("semget", errno.EINVAL, {"command": 2}, "LimitReached"),
    ("semget", errno.ENOMEM, {}, "LimitReached"),
    ("semget", errno.ENOSYS, {}, "KernelError"),
    ("semctl", errno.EACCES, {"command": SETALL, "at": 2}, "AccessDenied"),
    ("semctl", errno.ENOMEM, {"command": SETALL, "at": 2}, "LimitReached"),
    ("semctl", errno.EPERM, {"command": IPC_SET, "at": 2}, "AccessDenied"),
    ("semctl", errno.EACCES, {"command": IPC_STAT, "at": 2}, "AccessDenied"),
    ("semtimedop", errno.EACCES, {}, "AccessDenied"),
    ("semtimedop", errno.ENOMEM, {}, "LimitReached"),
]


@pytest.mark.parametrize("keyless", [False, True])
@pytest.mark.parametrize(("call", "code", "how", "error"), SETS_MADE)
def test_a_set_that_is_refused(
    call: str, code: int, how: Any, error: str, keyless: bool, sem_key: int, peers: Peers
) -> None:
    warm()
    before = sets()
    key = None if keyless else sem_key

    def make() -> None:
        kin.SysVSemaphore(key, n=2).close()

    assert peers.fork(lambda voice: error_of(make, call, code, **how)).result() == (error, False)
    assert sets() == before


@pytest.mark.parametrize(
    ("call", "code", "error"),
    [
        ("flock", errno.ENOLCK, "KernelError"),
        ("linkat", errno.ENOSPC, "NoSpace"),
        ("openat", errno.EMFILE, "LimitReached"),
    ],
)
def test_a_set_without_a_key_that_nobody_could_be_known_to_use(
    call: str, code: int, error: str, peers: Peers
) -> None:
    warm()
    before = sets()

    def make() -> None:
        kin.SysVSemaphore().close()

    assert peers.fork(lambda voice: error_of(make, call, code)).result() == (error, False)
    assert sets() == before


FOUND = [
    ("semget", errno.EACCES, {}, "AccessDenied"),
    ("semctl", errno.EIDRM, {"command": GETALL, "at": 2}, ""),  # not asked of a complete one
    ("openat", errno.EMFILE, {}, "LimitReached"),
]


@pytest.mark.parametrize(("call", "code", "how", "error"), FOUND)
def test_a_set_that_is_found_and_refused(
    call: str, code: int, how: Any, error: str, sem_key: int, peers: Peers
) -> None:
    warm()
    semaphore = kin.SysVSemaphore(sem_key, value=4)
    peer = peers.fork(
        lambda voice: error_of(lambda: kin.SysVSemaphore(sem_key).close(), call, code, **how)
    )
    assert peer.result() == (error, False)
    assert (set_of(sem_key), semaphore.values) == (semaphore.id, (4,))


OPERATING = [
    (errno.EACCES, "AccessDenied"),
    (errno.EIDRM, "NotFound"),
    (errno.EINVAL, "NotFound"),
    (errno.ENOMEM, "LimitReached"),
    (errno.ERANGE, "LimitReached"),
    (errno.E2BIG, "LimitReached"),
    (errno.EFBIG, "InvalidValue"),
    (errno.ENOSPC, "KernelError"),
]


@pytest.mark.parametrize(("code", "error"), OPERATING)
def test_an_operation_that_is_refused(code: int, error: str, peers: Peers) -> None:
    semaphore = kin.SysVSemaphore(value=4)
    peer = peers.fork(lambda voice: error_of(semaphore.acquire, "semtimedop", code))
    assert peer.result() == (error, False)
    assert semaphore.values == (4,)
    semaphore.close()


def test_a_wait_without_a_timer_to_be_had(peers: Peers) -> None:
    """A System V one needs none."""
    posix, system_v = kin.PosixSemaphore(None, 0), kin.SysVSemaphore(value=0)

    def wait(semaphore: Any) -> tuple[str, bool]:
        return error_of(lambda: semaphore.acquire(0.01), "timer_create", errno.EAGAIN)

    assert peers.fork(lambda voice: wait(posix)).result() == ("LimitReached", False)
    assert peers.fork(lambda voice: wait(system_v)).result() == ("Timeout", False)
    system_v.close()


def test_a_removal_that_is_refused(sem_key: int, peers: Peers) -> None:
    semaphore = kin.SysVSemaphore(sem_key)
    peer = peers.fork(
        lambda voice: error_of(semaphore.unlink, "semctl", errno.EPERM, command=IPC_RMID, at=2)
    )
    assert peer.result() == ("AccessDenied", False)
    assert set_of(sem_key) == semaphore.id


def test_tasks_without_a_thread_to_be_had(peers: Peers) -> None:
    for semaphore in (kin.PosixSemaphore(None, 0), kin.SysVSemaphore(value=0)):

        def wait(voice: Any, semaphore: Any = semaphore) -> str:
            asyncio.run(asyncio.sleep(0))
            for call in ("clone", "clone3"):
                refuse(call, errno.EAGAIN)
            try:
                asyncio.run(semaphore.aacquire(HANG))
            except kin.LimitReached as error:
                return error.what
            return ""

        assert peers.fork(wait).result() == "a task can't wait here"
        semaphore.close()
