"""Opening, while somebody else who is alive does not get on: he makes the object, or has the lock of the names, and was stopped."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk.sync import name_lock
from tests.conformance.peers import Call, Peers
from tests.unit.semaphores import interrupt_when_asleep
from tests.unit.test_memory_space import in_a_tiny_one

KINDS: list[Any] = [kin.Mutex, kin.Event, kin.Condition, kin.Semaphore]
each_kind = pytest.mark.parametrize("kind", KINDS)

GUARD = slice(64, 68)  # who makes an object has its guard


class Interrupted(Exception):
    """Raised by a signal handler."""


def being_made_by(thread: int) -> mmap.mmap:
    """Memory in which a thread has begun to make an object."""
    memory = mmap.mmap(-1, 2**16)
    memory[GUARD] = thread.to_bytes(4, "little")
    return memory


@pytest.fixture
def maker(peers: Peers) -> int:
    """A process that does not get on."""

    def stand(voice: Any) -> None:
        voice.say(os.getpid())
        signal.pause()

    return int(peers.fork(stand).hear())


@pytest.fixture
def handling():
    """Has a function called when SIGUSR1 comes."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda function: signal.signal(signal.SIGUSR1, lambda *_: function())
    signal.signal(signal.SIGUSR1, before)


@each_kind
def test_a_signal_handler_runs_meanwhile(kind: Any, maker: int, handling: Any) -> None:
    memory = being_made_by(maker)

    def give_up() -> None:
        memory[GUARD] = bytes(4)

    handling(give_up)
    interrupt_when_asleep(signal.SIGUSR1)
    kind.inside(memory).close()


@each_kind
def test_what_it_raises_ends_it(kind: Any, maker: int, handling: Any) -> None:
    memory = being_made_by(maker)

    def fail() -> None:
        raise Interrupted

    handling(fail)
    interrupt_when_asleep(signal.SIGUSR1)
    with pytest.raises(Interrupted):
        kind.inside(memory)
    memory[GUARD] = bytes(4)
    kind.inside(memory).close()


def error_of(kind: Any, memory: mmap.mmap) -> kin.KinfolkError:
    with pytest.raises(kin.KinfolkError) as caught:
        kind.inside(memory)
    return caught.value


def nobody() -> int:
    """The number of a process that there was."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_in_the_end_it_says_who_makes_it(maker: int) -> None:
    """And where nobody does, that this is none."""
    calls = [Call(error_of, kind, being_made_by(maker)) for kind in KINDS]
    other = Call(error_of, kin.Mutex, being_made_by(nobody()))
    own = Call(error_of, kin.Mutex, being_made_by(threading.get_native_id()))
    for call in calls:
        error = call.result()
        assert isinstance(error, kin.Timeout), error
        assert f"process {maker} (" in error.why
        assert "kill -CONT" in error.remedy
    assert isinstance(other.result(), kin.CorruptObject)
    assert "of this process" in own.result().why


# ── the lock of the names ────────────────────────────────────────────────────────────────────


OPENINGS: list[Callable[[], Any]] = [
    *((lambda k=kind: k(name="x")) for kind in KINDS),
    lambda: kin.SysVSemaphore(0x7A11),
    kin.SysVSemaphore,
]


@pytest.mark.parametrize("use", OPENINGS)
def test_a_lock_that_somebody_keeps(use: Callable[[], Any], peers: Peers, monkeypatch: Any) -> None:
    monkeypatch.setattr(name_lock, "PATIENCE", 0.05)

    def live() -> tuple[int, str]:
        directory = runtime_directory.path_name()
        os.mkdir(directory, 0o700)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)
            os.write(writer, b".")
            signal.pause()
        os.read(reader, 1)
        try:
            use()
        except kin.Timeout as error:
            return pid, error.why
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return pid, ""

    pid, why = in_a_tiny_one(peers, live)
    assert f"process {pid} (" in why
