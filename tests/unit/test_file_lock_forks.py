"""FileLock, and processes that come and go: killed, forked, executing; at whatever instruction."""

from __future__ import annotations

import contextlib
import ctypes
import dis
import itertools
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.sync import lock_table
from kinfolk.sync.file_lock import LockKind
from kinfolk.sync.lock_holds import Hold
from kinfolk.sync.lock_path import LockPath
from tests.conformance.peers import HANG, Peers, thread_of, until
from tests.unit.file_locks import (
    KINDS,
    each_kind,
    holding,
    is_free,
    let_go,
    open_here,
    until_waiting,
    waiting,
)
from tests.unit.striking import striking_at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def dies_holding(lock: kin.FileLock, voice: Any) -> None:
    lock.acquire()
    voice.say("held")
    signal.pause()


# ── killed ───────────────────────────────────────────────────────────────────────────────────


@each_kind
def test_a_killed_holder_is_followed_by_the_next(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)
    peer = peers.fork(lambda voice: dies_holding(lock, voice))
    peer.hear()
    with thread_of(inside, lock) as call:
        until_waiting(path)
        peer.kill(reap=False)  # a zombie is as dead
        assert call.result()


def inside(lock: kin.FileLock) -> bool:
    with lock:
        return lock.held


@each_kind
def test_a_killed_waiter_leaves_nothing(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)
    with lock:
        waiter, other = peers.fork(holding(lock)), peers.fork(holding(lock))
        until_waiting(path, 2)
        waiter.kill()
        until(lambda: waiting(path) == 1, "the other alone waits")
    assert other.hear() == "held"
    let_go(other)
    assert is_free(path, kind)


@each_kind
def test_a_stopped_holder_is_not_dead(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)
    peer = peers.fork(holding(lock))
    peer.hear()
    peer.signal(signal.SIGSTOP)
    with pytest.raises(kin.Timeout, match=f"process {peer.pid} "):
        lock.acquire(0.01)
    peer.signal(signal.SIGCONT)
    let_go(peer)
    with lock.hold(timeout=HANG):
        pass


@each_kind
def test_a_thread_that_ends_still_has_it(path, kind, peers):
    """Other than with a Mutex: the kernel knows of no threads here."""
    lock = kin.FileLock(path, kind=kind)
    with thread_of(lock.acquire) as call:
        call.result()
    assert not is_free(path, kind)
    with pytest.raises(kin.NotOwner, match="acquired it"):
        lock.release()
    with pytest.warns(ResourceWarning, match="unreleased"):
        del lock
    assert peers.fork(lambda _: is_free(path, kind)).result()


# ── forked ───────────────────────────────────────────────────────────────────────────────────


def leave_a_child(lock: kin.FileLock, fork: Callable[[], int], voice: Any) -> None:
    """With it held, fork a child that touches nothing, and say who that is."""
    lock.acquire()
    pid = fork()
    if pid == 0:
        threading.Event().wait()
    voice.say(pid)
    signal.pause()


def kept_by_a_child(path: Path, kind: LockKind, fork: Callable[[], int], peers: Peers) -> bool:
    """Whether it is still locked when the parent was killed, and its child lives."""
    lock = kin.FileLock(path, kind=kind)
    peer = peers.fork(lambda voice: leave_a_child(lock, fork, voice))
    child = os.pidfd_open(peer.hear())
    try:
        # The child has run its handlers once it waits; before, it would keep the lock for a moment.
        if fork is os.fork:
            until(lambda: copies(path) == 1, "only the parent has it open")
        peer.kill()
        return not is_free(path, kind)
    finally:
        signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


def copies(path: Path) -> int:
    """How many descriptors the other processes of this user have of a file."""
    found = 0
    for pid in (name for name in os.listdir("/proc") if name.isdecimal()):
        for number in listed(f"/proc/{pid}/fd"):
            try:
                found += os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), path.stat())
            except OSError:
                continue
    return found


def listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


@each_kind
def test_a_forked_child_does_not_keep_what_its_parent_had(path, kind, peers):
    assert not kept_by_a_child(path, kind, os.fork, peers)


def test_a_child_that_nobody_told_does(path, peers, monkeypatch):
    """The negative control: the lock of an open file description lives as long as any copy of the descriptor."""
    monkeypatch.setattr(Hold, "after_fork_in_child", lambda self: None)
    monkeypatch.setattr("tests.unit.test_file_lock_forks.copies", lambda path: 1)
    assert kept_by_a_child(path, "ofd", os.fork, peers)


@pytest.mark.parametrize(("kind", "kept"), [("ofd", True), ("flock", True), ("posix", False)])
def test_what_C_forks_by_itself_keeps_the_copy(path, kind, kept, peers):
    """So it is said in the guide: no handler of Python's runs there."""
    fork = ctypes.PyDLL(None).fork
    assert kept_by_a_child(path, kind, fork, peers) == kept


@each_kind
def test_a_child_has_nothing_and_may_have_its_own(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)

    def child(voice: Any) -> None:
        assert open_here(path) == 0
        assert not lock.held
        for act in (lock.release, lock.fileno):
            with pytest.raises(kin.ForkedCopy, match="before the fork"):
                act()
        with pytest.raises(kin.Timeout):
            lock.acquire(timeout=0)
        voice.say()
        with lock:  # once the parent is out
            assert lock.held
        with pytest.raises(kin.NotOwner):
            lock.release()

    with lock:
        peer = peers.fork(child)
        peer.hear()
        assert lock.held
        assert not peers.fork(lambda _: is_free(path, kind)).result()
    peer.result()


@each_kind
def test_a_child_that_is_forked_while_threads_wait(path, kind, peers):
    """Neither a copy of what waits is left there, nor does it wait for threads that do not exist."""
    lock = kin.FileLock(path, kind=kind)
    with lock, thread_of(inside, lock) as call:
        until(lambda: len(lock_table.everything()) == 2, "the thread came")

        def child(voice: Any) -> None:
            assert open_here(path) == 0
            voice.say()
            with lock.hold(timeout=HANG):
                assert open_here(path) == 1

        peer = peers.fork(child)
        peer.hear()
        lock.release()
        peer.result()
        assert call.result()
        lock.acquire()
    assert open_here(path) == 0


def fork_in_the_middle(path: Path, kind: LockKind, careless: bool, voice: Any) -> None:
    """Lock it, and fork in the instant between its opening and anybody's knowing of that."""
    opening, before = LockPath.open, lock_table.forks
    children = []

    def open_and_fork(self: LockPath, **how: Any) -> Any:
        opened = opening(self, **how)
        if not children:
            children.append(os.fork())
            if children == [0]:
                threading.Event().wait()
            if careless:
                lock_table.forks = before
        return opened

    LockPath.open = open_and_fork  # type: ignore[method-assign]
    lock = kin.FileLock(path, kind=kind)
    lock.acquire()
    voice.say(children[0])
    signal.pause()


@each_kind
@pytest.mark.parametrize("careless", [False, True])
def test_a_fork_between_opening_and_knowing(path, kind, careless, peers):
    """The child has a copy that it knows nothing of. So what is locked is another one; without looking at the forks, it would not be."""
    peer = peers.fork(lambda voice: fork_in_the_middle(path, kind, careless, voice))
    child = os.pidfd_open(peer.hear())
    peer.kill()
    free = is_free(path, kind)
    signal.pidfd_send_signal(child, signal.SIGKILL)
    os.close(child)
    assert free == (not careless or kind == "posix")


# ── executing ────────────────────────────────────────────────────────────────────────────────


@each_kind
def test_a_program_that_is_executed_has_nothing(path, kind, peers):
    lock = kin.FileLock(path, kind=kind)

    def execute(voice: Any) -> None:
        lock.acquire()
        voice.say()
        os.execv("/bin/sleep", ["sleep", "1000"])

    peer = peers.fork(execute)
    peer.hear()
    with lock.hold(timeout=HANG):
        pass


@each_kind
def test_a_program_that_is_started_has_nothing(path, kind):
    lock = kin.FileLock(path, kind=kind)
    lock.acquire()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as program:
        lock.release()
        assert is_free(path, kind)
        assert program.stdin is not None
        program.stdin.close()


@each_kind
def test_an_interpreter_that_ends_releases(path, kind):
    """Also what nobody released, without a word."""
    code = (
        f"import kinfolk as kin; lock = kin.FileLock({str(path)!r}, kind={kind!r}); lock.acquire()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        env=environment,
        capture_output=True,
        check=True,
        timeout=HANG,
    )
    assert ended.stderr == b""
    assert is_free(path, kind)


# ── interrupted, anywhere ────────────────────────────────────────────────────────────────────


class Struck(Exception):
    """What a signal handler raises."""


def once(number: int) -> Callable[..., Any]:
    """For sys.settrace: a signal at the n-th instruction of kinfolk's, and no more.

    But in __del__, where Python itself swallows what is raised, and before the return of a function: it looks for signals
    after calls, not there.
    """
    strike = striking_at(number, signal.SIGUSR1)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        if code.co_name == "__del__":
            return None
        at = dis.opname[code.co_code[frame.f_lasti]] if event == "opcode" else ""
        if not at.startswith("RETURN_"):
            strike(frame, event, argument)
        return trace

    return trace


def strikes() -> None:
    """Have signals raise. (In a peer: an exception at an instruction that never raises may confuse what Python handles just now, for good.)"""

    def strike(_: int, __: FrameType | None) -> None:
        sys.settrace(None)
        raise Struck

    signal.signal(signal.SIGUSR1, strike)


def warm_up(lock: kin.FileLock) -> None:
    """From 3.12 on a function is traced by the instruction only where it ran traced just before."""
    if sys.version_info >= (3, 12):
        sys.settrace(once(sys.maxsize))
        with lock:
            pass


def acquire_interrupted(path: Path, kind: LockKind) -> int:
    """The number of instructions; after each the acquisition was interrupted, and had nothing."""
    strikes()
    lock = kin.FileLock(path, kind=kind)
    for number in itertools.count():
        warm_up(lock)
        sys.settrace(once(number))
        with contextlib.suppress(Struck):
            lock.__enter__()
            break
        assert not lock.held, number
        assert open_here(path) == 0, number
    sys.settrace(None)
    lock.release()
    return number


def release_interrupted(path: Path, kind: LockKind) -> int:
    """The same of releasing: it is released then, or still held."""
    strikes()
    warnings.simplefilter("ignore", ResourceWarning)
    lock = kin.FileLock(path, kind=kind)
    for number in itertools.count():
        warm_up(lock)
        lock.acquire()
        sys.settrace(once(number))
        with contextlib.suppress(Struck):
            lock.release()
            break
        if lock.held:
            lock.release()
        assert open_here(path) == 0, number
    sys.settrace(None)
    return number


@each_kind
@pytest.mark.parametrize(
    ("interrupted", "least"), [(acquire_interrupted, 100), (release_interrupted, 50)]
)
def test_an_interrupt_at_any_instruction(path, kind, interrupted, least, peers):
    path.touch()

    def run(_: Any) -> bool:
        assert interrupted(path, kind) > least
        return all(is_free(path, each) for each in KINDS)

    assert peers.fork(run).result()
