"""`Process`: a process that this one has started, as its owner sees it.

    starts ──> lives ──> ended: the status is known, or known to be unknown
                 │         │
                 └─────────┴─ stop(): SIGTERM to it and everything below, SIGKILL after grace seconds

Rules:
1. Waiting is idempotent, for any number of threads and tasks at a time; one of them gets no less than another.
2. Nothing here reaches a process other than this one and its descendants: signals go by pidfd.
3. Leaving the ``with`` block stops it. Dropping it does not: it runs on and is reaped when it ends, and a
   ResourceWarning says that its status was lost.
4. A forked copy can tell its pid, and nothing else: whoever forked it is the parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Generator
from types import TracebackType
from typing import IO, Any, Self

from kinfolk.deadlines import NEVER, Deadline
from kinfolk.errors import AccessDenied
from kinfolk.identity import Identity, open_pidfd
from kinfolk.interest import Interest, Steps
from kinfolk.processes.custody import Containment, Custody, awaiting, blocking
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.streams import Streams
from kinfolk.signal_table import Like, number_of

#: Seconds between SIGTERM and SIGKILL.
GRACE = 5.0

#: Seconds until another look for a stop, of which the kernel tells by SIGCHLD alone; doubled up to the second number.
_LOOK, _LOOK_MOST = 0.001, 0.05

#: What is below a process: pids, and a pidfd of each while it is open.
_Held = dict[int, int]


class Process:
    """A process that this one has started. Thread-safe."""

    #: what it reads from, writes to, as a file object, where PIPE was asked for
    stdin: IO[Any] | None
    stdout: IO[Any] | None
    stderr: IO[Any] | None

    def __init__(self, custody: Custody, name: str, streams: Streams | None = None) -> None:
        """Made by `kinfolk.spawn`."""
        self._custody = custody
        self._name = name
        self.stdin = streams.stdin if streams else None
        self.stdout = streams.stdout if streams else None
        self.stderr = streams.stderr if streams else None

    # ── who it is ────────────────────────────────────────────────────────────────────────────

    @property
    def pid(self) -> int:
        """Its process id. Once it has ended, the kernel may give the number to somebody else: see `identity`."""
        return self._custody.pid

    @property
    def identity(self) -> Identity:
        """Its pid and start time, which no other process has. The time is 0 if it had ended before anybody asked."""
        return self._custody.identity

    @property
    def name(self) -> str:
        """What was started, for messages."""
        return self._name

    @property
    def containment(self) -> Containment:
        """Who ends it when this process ends: ``"keeper"``, ``"direct"``, ``"kernel"``; ``"none"`` after ``detach=True``."""
        return self._custody.containment

    @property
    def pidfd(self) -> int:
        """Its pidfd (pidfd_open(2)), open as long as this object. Raises Closed once the status is known."""
        return self._custody.lend_pidfd()

    def fileno(self) -> int:
        """A descriptor that is readable once `poll` gives the status, for select and event loops."""
        return self._custody.lend_announcer()

    # ── what becomes of it ───────────────────────────────────────────────────────────────────

    @property
    def status(self) -> ExitStatus | None:
        """How it ended, None while it lives. Never blocks (WNOHANG of wait(2)). Raises ForkedCopy."""
        return self._custody.collect()

    def poll(self) -> ExitStatus | None:
        """`status`, by the name that subprocess gives it."""
        return self._custody.collect()

    def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait until it has ended; how it did.

        ``timeout`` in seconds (None: for ever; 0: only if it has ended). Raises Timeout, ForkedCopy. Each call, from
        any thread, gets the same status. It is unknown, never 0, when somebody else has collected it.
        """
        return blocking(self._custody.ended(), timeout, "has not ended", self)

    async def await_exit(self, timeout: float | None = None) -> ExitStatus:
        """`wait`, on asyncio; ``await process`` does it without a timeout. Cancelling it leaves the process alone."""
        return await awaiting(self._custody.ended(), timeout, "has not ended", self)

    def __await__(self) -> Generator[Any, None, ExitStatus]:
        return self.await_exit().__await__()

    def wait_change(self, timeout: float | None = None) -> ExitStatus:
        """Wait until it stopped, continued (WUNTRACED, WCONTINUED of wait(2)) or ended.

        Each change is told once, to one caller; of several that come fast the last alone may be told. The kernel
        announces a stop by SIGCHLD only, so it is looked at up to 20 times a second meanwhile. Raises Timeout, ForkedCopy.
        """
        return blocking(self._changed(), timeout, "has not changed", self)

    async def await_change(self, timeout: float | None = None) -> ExitStatus:
        """`wait_change`, on asyncio."""
        return await awaiting(self._changed(), timeout, "has not changed", self)

    def _changed(self) -> Steps[ExitStatus]:
        pause = _LOOK
        with self._custody.watched() as interest:
            while (change := self._custody.change()) is None:
                yield interest._replace(again_in=pause)
                pause = min(2 * pause, _LOOK_MOST)
        return change

    # ── ending it ────────────────────────────────────────────────────────────────────────────

    def signal(self, signal: Like) -> bool:
        """Send it a signal: ``"TERM"``, ``"SIGTERM"``, 15, ``signal.SIGTERM``; False when it has ended.

        0 sends nothing, and only looks. By pidfd_send_signal(2): no other process can get it. Raises AccessDenied for a
        process of another user (a set-user-ID program), InvalidValue for no signal, ForkedCopy.
        """
        return self._custody.send(0 if signal == 0 else number_of(signal))

    def kill(self) -> None:
        """SIGKILL for it and everything below it, as `stop` finds it, at once. Wait for its end with `wait`."""
        self._fell()

    def stop(self, grace: float = GRACE) -> ExitStatus:
        """End it and everything below it: SIGTERM, then SIGKILL after ``grace`` seconds (0: at once); how it ended.

        Below it is whatever descends from it, orphans and daemons too, also when it has ended itself. Not found is an
        orphan that a program has given limits of its own (`kinfolk.processes.mark`), and, with direct containment, every
        orphan but those in the process group that it leads. Returns when all of them have ended.
        Raises AccessDenied at once when it has become another user's (a set-user-ID program, such as su), and, when something below it
        has, after all others have ended; InvalidValue, LimitReached, ForkedCopy.
        """
        return blocking(self._stopped(Deadline(grace, "grace")), None, "does not stop", self)

    async def astop(self, grace: float = GRACE) -> ExitStatus:
        """`stop`, on asyncio. A cancelled one leaves the rest undone."""
        return await awaiting(self._stopped(Deadline(grace, "grace")), None, "does not stop", self)

    def _stopped(self, until: Deadline) -> Steps[ExitStatus]:
        custody = self._custody
        if (status := custody.collect()) is not None and not custody.members():
            return status
        if not until.passed():
            custody.send(0)  # raises if it may not be signalled; the tree passes over such ones
            custody.signal_tree(signal.SIGTERM)
            yield from self._until_gone(until)
        # Again after each end: who forks and goes for ever may have been missed.
        yield from self._until_gone(NEVER, each_time=self._fell_all)
        return (yield from custody.ended())

    def _fell(self) -> None:
        try:  # what is below it is found by way of it, so it goes last
            self._custody.signal_tree(signal.SIGKILL)
        finally:
            self._custody.send(signal.SIGKILL)

    def _fell_all(self, members: list[int], held: _Held) -> None:
        """Kill them. Raises AccessDenied when nobody is left but those who may not be killed."""
        self._fell()
        if len(held) == len(members) and all(map(_is_denied, held.values())):
            names = ", ".join(f"{pid} ({_program(pid)})" for pid in held)
            raise AccessDenied(
                "can't end everything below it",
                subject=str(self),
                why=f"another user's by now, and left running: {names}",
                remedy="end it as that user, or as root",
            )

    def _until_gone(
        self, until: Deadline, each_time: Callable[[list[int], _Held], None] = lambda *_: None
    ) -> Steps[None]:
        """Wait until nobody of the tree lives, or until then; what to do before each wait for the end of one."""
        while not until.passed() and (members := self._custody.members()):
            with contextlib.ExitStack() as open_ones:
                held: _Held = {}
                ended = False
                for pid in members:
                    with contextlib.suppress(OSError):  # no descriptor left: the others will do
                        pidfd = open_pidfd(pid)
                        if pidfd is None:
                            ended = True
                            continue
                        open_ones.callback(os.close, pidfd)
                        held[pid] = pidfd
                each_time(members, held)
                # The first that ends is worth another look: who is left is for the kernel to say.
                again_in = until.remaining() if held else _LOOK_MOST
                yield Interest(readable=tuple(held.values()), again_in=0 if ended else again_in)

    # ── leaving it ───────────────────────────────────────────────────────────────────────────

    def _close_streams(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):  # what it had buffered reaches nobody any more
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_streams()
        try:
            if not self._custody.is_a_copy:
                self.stop()
        finally:
            self._custody.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_streams()
        try:
            if not self._custody.is_a_copy:
                await self.astop()
        finally:
            self._custody.close()

    def __del__(self) -> None:
        custody: Custody | None = getattr(self, "_custody", None)
        if custody is None or custody.unheard:  # it was never finished, or is ended already
            return
        if custody.known or custody.is_a_copy:
            custody.close()
            return
        custody.abandon()  # before the warning, which may be an error (python -W error)
        warnings.warn(
            f"nobody waited for {self}; it is reaped when it ends",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )

    def __str__(self) -> str:
        return f"process {self.pid} ({self._name})"

    def __repr__(self) -> str:
        custody = self._custody
        status = None if custody.is_a_copy else custody.collect()
        state = "running" if status is None else status
        state = "of another process" if custody.is_a_copy else state
        return f"<kinfolk.Process {self.pid} {self._name}: {state}, {custody.containment}>"


def _is_denied(pidfd: int) -> bool:
    """Whether it lives and may not be signalled."""
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return False


def _program(pid: int) -> str:
    """What a process calls itself, for messages."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"
