"""The processes of a stop: forked children that run a function and talk with the one who walks.

    with crew() as hands:
        child = hands.start("receiver", receive, path)      runs receive(line, path)
        child.hear()                                        what it said with line.tell(…)
        child.result()                                      what the function returned

Rules:
1. Every child is reaped when the crew is dismissed, however the stop ended; who still runs then is
   killed first.
2. No child outlives HANG_LIMIT, even if the tour is killed: an alarm of its own ends it.
3. A child that fails says why: its error becomes a `ChildFailed` here, with its traceback as a
   note. A child that dies or says nothing in time is a `ChildFailed` too, which names it.
4. A forked child holds copies of all that was open, so every end that is not the child's is named
   in ``closes``; otherwise it counts as a peer until the child ends.

The line is multiprocessing's Connection over a socket pair of its own, not one of kinfolk's
channels: what is being tried out must not also carry the report about it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Protocol

import kinfolk as kin

#: Seconds after which a process that has not come forward is taken for hung. No measure of speed.
HANG_LIMIT = 30

#: Seconds that a call of kinfolk's may take in a stop: less, so that it can still say what it met.
PATIENCE = 20

#: Seconds to wait for the report of a child that seems to have failed.
_LAST_WORDS = 1.0

#: What a user ends the tour with; its handlers unwind the process that walks.
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Closable(Protocol):
    """An end that a child does not want."""

    def close(self) -> None:
        """Give it back."""


class ChildFailed(Exception):
    """A child raised, died or hung; the text says which one, and why."""


class Line:
    """A child's line to the process that walks the tour."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        """Talk over ``connection``."""
        self._connection = connection

    def tell(self, something: object) -> None:
        """Say something; `Child.hear` returns it."""
        self._connection.send(("told", something))

    def hear(self) -> Any:
        """Wait for what `Child.tell` says."""
        return self._connection.recv()

    def alive(self) -> None:
        """Work is going on: the hang limit begins anew."""
        signal.alarm(HANG_LIMIT)


class Child:
    """A forked child, seen from its parent. Made by `Crew.start`."""

    def __init__(self, name: str, pid: int, connection: Connection[Any, Any]) -> None:
        """``name`` is the role that it plays."""
        self.name, self.pid = name, pid
        self._connection = connection
        self._reaped = False
        #: as waitpid(2) gives it; None while it runs, or when somebody else took it
        self.status: int | None = None

    def tell(self, something: object) -> None:
        """Say something that `Line.hear` returns in the child."""
        self._connection.send(something)

    def hear(self) -> Any:
        """Wait for what the child tells next. Raises ChildFailed."""
        kind, content = self._next()
        if kind != "told":
            raise ChildFailed(f"{self} ended too early")
        return content

    def result(self) -> Any:
        """What the child's function returned, once it has ended and is reaped. Raises ChildFailed."""
        kind, content = self._next()
        if kind != "returned":
            raise ChildFailed(f"{self} told {content!r} unasked")
        self.reap()
        return content

    def complaint(self, moment: float) -> ChildFailed | None:
        """Why the child failed, if it did and says so until a monotonic ``moment``."""
        try:
            while self._connection.poll(max(0.0, moment - time.monotonic())):
                self.hear()
        except (ChildFailed, OSError) as failure:  # OSError: it was reaped, and its line closed
            return failure if isinstance(failure, ChildFailed) else None
        return None

    def kill(self) -> float:
        """SIGKILL, and wait until it is reaped; the monotonic time of the signal."""
        moment = time.monotonic()
        self.signal(signal.SIGKILL)
        self.reap()
        return moment

    def signal(self, number: int) -> None:
        """Send it a signal; one that was reaped gets none."""
        if not self._reaped:
            with contextlib.suppress(ProcessLookupError):  # SIGCHLD is ignored: the kernel reaps
                os.kill(self.pid, number)

    def reap(self) -> None:
        """Wait for its end and take its status; afterwards there is no trace of it."""
        if not self._reaped:
            with contextlib.suppress(ChildProcessError):  # as above
                self.status = os.waitpid(self.pid, 0)[1]
            self._reaped = True
        self._connection.close()

    def __str__(self) -> str:
        return f"the {self.name}, process {self.pid},"

    def _next(self) -> tuple[str, Any]:
        try:
            if not self._connection.poll(HANG_LIMIT):
                raise ChildFailed(f"{self} said nothing for {HANG_LIMIT} s")
            kind, content = self._connection.recv()
        except (EOFError, ConnectionError):
            self.reap()
            raise ChildFailed(f"{self} {how_it_ended(self.status)}") from None
        if kind == "failed":
            summary, trace, error = content
            failure = ChildFailed(f"{self} failed: {summary}")
            failure.add_note(trace)
            raise failure from error
        return kind, content


class Crew:
    """The children of one stop. Made by `crew`."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(
        self,
        name: str,
        function: Callable[..., object],
        *arguments: object,
        closes: Iterable[Closable] = (),
    ) -> Child:
        """Fork a child that plays ``name``: it runs ``function(line, *arguments)``."""
        here, there = multiprocessing.Pipe()
        sys.stdout.flush()
        # Until the child has left the parent's handlers behind, and the parent has written the
        # child down, no signal may unwind either of them.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
        try:
            pid = os.fork()
            if pid == 0:
                here.close()
                _live(there, mask, function, arguments, closes)
            child = Child(name, pid, here)
            self._children.append(child)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        there.close()
        return child

    def complaint(self) -> ChildFailed | None:
        """The failure of a child, if there is one: a better reason than what its peer met by it."""
        moment = time.monotonic() + _LAST_WORDS
        complaints = (child.complaint(moment) for child in self._children)
        return next((complaint for complaint in complaints if complaint), None)

    def dismiss(self) -> None:
        """Kill who still runs, and reap everybody."""
        for child in self._children:
            child.signal(signal.SIGKILL)
        for child in self._children:
            child.reap()


@contextlib.contextmanager
def crew() -> Iterator[Crew]:
    """A crew that is dismissed at the end of the block.

    When an error of kinfolk leaves it because a child failed, the child's failure leaves instead.
    """
    hands = Crew()
    try:
        yield hands
    except kin.KinfolkError:
        complaint = hands.complaint()
        if complaint is None:
            raise
        raise complaint from complaint.__cause__
    finally:
        hands.dismiss()


def how_it_ended(status: int | None) -> str:
    """A wait status in words."""
    if status is None:
        return "ended, and nobody knows how"
    if os.WIFSIGNALED(status):
        return f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with exit code {os.WEXITSTATUS(status)} and without a report"


def _live(
    connection: Connection[Any, Any],
    mask: Iterable[int],
    function: Callable[..., object],
    arguments: tuple[object, ...],
    closes: Iterable[Closable],
) -> NoReturn:
    """What a child does from fork to its end, which is _exit: the parent's buffers, handlers and
    `finally` blocks are the parent's.
    """
    try:
        # Whatever handlers the parent has are its own; Ctrl-C ends a child without a word. With SIGCHLD ignored by whoever
        # started the tour, a child would learn nothing of children of its own.
        for number in (signal.SIGALRM, signal.SIGCHLD, *_ENDINGS):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.alarm(HANG_LIMIT)
        for end in closes:
            end.close()
        connection.send(("returned", function(Line(connection), *arguments)))
    except BaseException as error:
        summary = traceback.format_exception_only(error)[-1].strip()
        # Other kinds of errors may be unfit for pickling; their text has to do.
        cause = error if isinstance(error, kin.KinfolkError | OSError) else None
        with contextlib.suppress(OSError):  # nobody listens any more
            connection.send(("failed", (summary, traceback.format_exc(), cause)))
        os._exit(1)
    os._exit(0)
