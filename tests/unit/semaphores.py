"""What the tests of the kernel's semaphores share: names, keys, and a look at what is there."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
from collections.abc import Iterator

import pytest

import kinfolk as kin
from kinfolk._native import sysv_sem_remove
from kinfolk.sync.sysv_set import all_sets
from tests.conformance.peers import Call, state, until


@pytest.fixture
def sem_name(unique_name: str) -> Iterator[str]:
    """A name for a POSIX semaphore; what is left there at the end is removed."""
    yield "/" + unique_name
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"/dev/shm/sem.{unique_name}")


@pytest.fixture
def sem_key() -> Iterator[int]:
    """A key for a set; what is left there at the end is removed."""
    key = secrets.randbelow(2**31 - 1) + 1
    yield key
    number = set_of(key)
    if number is not None:
        sysv_sem_remove(number)


def set_of(key: int) -> int | None:
    """The id of the set of a key."""
    return next((number for number, status in all_sets() if status.key == key), None)


def sets() -> set[int]:
    """The ids of all sets."""
    return {number for number, _ in all_sets()}


def value_of(semaphore: kin.PosixSemaphore | kin.SysVSemaphore) -> int:
    """That of the first one."""
    return semaphore.value if isinstance(semaphore, kin.PosixSemaphore) else semaphore.values[0]


def until_asleep(tid: int) -> None:
    """Wait until a thread of this process sleeps in the kernel."""
    until(lambda: state(os.getpid(), tid) == "S", f"thread {tid} asleep")


def until_blocked(call: Call) -> None:
    """Wait until a call in another thread sleeps in the kernel."""
    until(lambda: call.thread.native_id, "a thread that runs")
    until_asleep(call.thread.native_id or 0)


def interrupt_when_asleep(number: int) -> Call:
    """A thread that sends this one a signal, once it sleeps."""
    tid, thread = threading.get_native_id(), threading.get_ident()

    def interrupt() -> None:
        until_asleep(tid)
        signal.pthread_kill(thread, number)

    return Call(interrupt)
