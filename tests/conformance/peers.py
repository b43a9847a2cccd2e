"""Real processes at the other end: forked, spoken to over a control line, always reaped.

Rules:
1. A peer is a child of the test's process. It runs one function, whose result or exception comes
   back through the control line, and ends by `os._exit`.
2. Waiting is for an event: a message on the control line, a readable pidfd, a state in /proc.
   Times are limits against hanging (`HANG`), never a way to be in step.
3. Whatever a test does, `Peers.end` kills and reaps what is left.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Talk
from typing import Any, NoReturn

#: Seconds after which something hangs. Generous: the machine may be slow, the tests never wait it out.
HANG = 40.0


class Hangs(AssertionError):
    """What had to happen did not within `HANG`."""


class FailedInPeer(AssertionError):
    """The peer's function raised, and this is its traceback; `error` is the exception if it can travel."""

    error: BaseException | None = None


class Peer:
    """One child process."""

    def __init__(self, pid: int, talk: Talk) -> None:
        self.pid, self.talk = pid, talk
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None

    def say(self, thing: Any = None) -> None:
        """Something to the peer, who takes it with `hear`."""
        self.talk.send(thing)

    def hear(self) -> Any:
        """The next thing that the peer said. Raises FailedInPeer when its function raised."""
        kind, value = self._next()
        if kind != "said":
            raise Hangs(f"peer {self.pid} returned {value!r} and should have said something")
        return value

    def result(self) -> Any:
        """What the peer's function returned, after everything it said; reaps it."""
        while True:
            kind, value = self._next()
            if kind == "done":
                self.wait()
                return value

    def _next(self) -> tuple[str, Any]:
        if not self.talk.poll(HANG):
            raise Hangs(f"peer {self.pid} says nothing: it is {state(self.pid)!r}")
        try:
            kind, value, *error = self.talk.recv()
        except EOFError:
            raise FailedInPeer(f"peer {self.pid} died: {self.wait()}") from None
        if kind == "failed":
            self.wait()
            failed = FailedInPeer(value)
            failed.error = pickle.loads(error[0]) if error[0] else None
            raise failed
        return kind, value

    def signal(self, number: int) -> None:
        """Send a signal."""
        signal.pidfd_send_signal(self.pidfd, number)

    def kill(self, *, reap: bool = True) -> None:
        """SIGKILL; wait for the end, and reap unless a zombie is wanted."""
        if self.status is None:
            self.signal(signal.SIGKILL)
            self.ended()
            if reap:
                self.wait()

    def ended(self) -> None:
        """Wait until the process has ended, without reaping it."""
        if not readable(self.pidfd):
            raise Hangs(f"peer {self.pid} does not end: it is {state(self.pid)!r}")

    def wait(self) -> int:
        """Reap; the exit code, or minus the signal."""
        if self.status is None:
            self.ended()
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def until_asleep(self, tid: int | None = None) -> None:
        """Wait until its thread (the main one) sleeps in the kernel."""
        until(lambda: state(self.pid, tid) == "S", f"peer {self.pid} asleep")

    def close(self) -> None:
        """Kill if need be, reap, close."""
        with_kill = self.status is None
        if with_kill:
            self.signal(signal.SIGKILL)
            self.signal(signal.SIGCONT)
            self.wait()
        self.talk.close()
        os.close(self.pidfd)


class Voice:
    """The peer's side of the control line."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def say(self, thing: Any = None) -> None:
        """Tell the test something."""
        self._talk.send(("said", thing))

    def hear(self) -> Any:
        """Wait for what the test says."""
        return self._talk.recv()


class Peers:
    """The children of one test."""

    def __init__(self) -> None:
        self._peers: list[Peer] = []

    def fork(self, function: Callable[..., Any], *args: Any) -> Peer:
        """Run `function(voice, *args)` in a child."""
        here, there = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of forking with threads. The child runs the function and _exits.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            for other in self._peers:  # so that the end of this process is seen on its line only
                other.talk.close()
            here.close()
            _live(there, function, args)
        there.close()
        peer = Peer(pid, here)
        self._peers.append(peer)
        return peer

    def end(self) -> None:
        """Leave nothing behind."""
        while self._peers:
            self._peers.pop().close()


def _live(talk: Talk, function: Callable[..., Any], args: tuple[Any, ...]) -> NoReturn:
    code = 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)  # pytest-timeout's
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        # faulthandler's own timer would wait for a thread that does not exist in a forked child.
        signal.alarm(int(HANG * 2))
        try:
            answer: tuple[Any, ...] = ("done", function(Voice(talk), *args))
        except BaseException as error:
            answer = ("failed", traceback.format_exc(), _travelling(error))
        talk.send(answer)
        code = 0 if answer[0] == "done" else 1
    except BrokenPipeError:
        code = 1
    finally:
        os._exit(code)


def _travelling(error: BaseException) -> bytes | None:
    try:
        pickle.loads(data := pickle.dumps(error))
    except Exception:
        return None
    return data


# ------------------------------------------------------------------------ what /proc and poll say


def readable(fd: int, seconds: float = HANG) -> bool:
    """Whether a descriptor is readable, waiting for it up to the hang limit."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def state(pid: int, tid: int | None = None) -> str:
    """The letter of proc_pid_stat(5): R, S, D, T, Z …; X when it has gone."""
    try:
        with open(f"/proc/{pid}/task/{tid or pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def until(condition: Callable[[], Any], what: str) -> None:
    """Give the processor away until a condition holds for which there is no event (a state in /proc)."""
    end = time.monotonic() + HANG
    while not condition():
        if time.monotonic() > end:
            raise Hangs(f"never: {what}")
        os.sched_yield()


def until_blocked(end: Any, calls: int = 1) -> None:
    """Wait until an operation of another thread sleeps in this end."""
    until(lambda: end.statistics().waits >= calls, f"{calls} blocked calls in {end!r}")


def socket_of(end: Any) -> socket.socket:
    """A duplicate of the socket under an end that sends: the descriptor that `fileno` gives may be an epoll over it."""
    return socket.socket(fileno=os.dup(end._sending.fileno()))


def open_descriptors() -> int:
    """How many descriptors this process has; what waits for the garbage collector is collected."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")) - 1


def resident() -> int:
    """Bytes of memory that this process has in RAM."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


# --------------------------------------------------------------------------------------- threads


class Call:
    """A call in another thread: `result()` gives what it returned or raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **named: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None

        def body() -> None:
            try:
                self._value = function(*args, **named)
            except BaseException as error:
                self._error = error

        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()

    def result(self) -> Any:
        """Wait for its end."""
        self.thread.join(HANG)
        if self.thread.is_alive():
            raise Hangs("the call in another thread does not return")
        if self._error is not None:
            raise self._error
        return self._value

    def raised(self) -> BaseException | None:
        """The exception that ended it, None when it returned."""
        try:
            self.result()
        except Hangs:
            raise
        except BaseException as error:
            return error
        return None


@contextmanager
def thread_of(function: Callable[..., Any], *args: Any, **named: Any) -> Iterator[Call]:
    """A call in another thread, which is joined at the end."""
    call = Call(function, *args, **named)
    try:
        yield call
    finally:
        call.thread.join(HANG)
