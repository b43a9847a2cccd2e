"""From the process that asks for a daemon to the daemon: two forks, and a guard between them until the daemon is ready.

    original ── fork ──> guard: setsid ── fork ──> daemon: setpgid, then what it is to be
        ^                  │  ^                      │
        └───── above ──────┘  └─────── below ────────┘     two lines (daemon_line.py)
          Begun (the daemon's), then Ready or Failed         Ready or Failed

Rules:
1. The guard is the daemon's parent until the outcome, and ends before the original goes on: by then the
   daemon has its new parent, init or the nearest subreaper.
2. The guard leads the session. The daemon does not, so it never acquires a controlling terminal (open(2), O_NOCTTY); it
   leads a process group of its own, so it can't make itself the leader of a session either (setsid(2)).
3. Neither the guard nor a daemon that is not ready yet returns into the code of the caller by an exception.
4. Whoever is killed before the outcome calls the start off, and nothing is left of it:

       killed               seen by                                 who then
       original             the guard, by the hang-up of `above`    ends the daemon, and itself
       guard                the original, by the end of `above`     kills the daemon, and says so
       daemon               the guard, which reaps it               tells the original how it ended
       original and guard   a forked daemon, when it says that   ends. A program (daemon_program.py) has nobody in it who
                            it is ready                          looks: it stays, under its pid file

Rejected: an original that makes itself a subreaper needs no guard, but killed it leaves a daemon that nobody watches.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from dataclasses import dataclass
from typing import NoReturn

from kinfolk.deadlines import Deadline
from kinfolk.descriptors import Descriptor
from kinfolk.errors import KinfolkError, SystemProblem, UsageError, from_os_error
from kinfolk.identity import Identity, open_pidfd
from kinfolk.processes import daemon_line, standard_streams
from kinfolk.processes.bare_fork import fork
from kinfolk.processes.daemon_guard import CalledOff, Guard, Sign, reap
from kinfolk.processes.daemon_line import Begun, Failed, Ready
from kinfolk.processes.pid_file import PidFile

_NO_FORK = "no daemon can be forked"


@dataclass(slots=True)
class Outcome:
    """In the original: what came of it; ``failure`` is None for a daemon that is ready."""

    daemon: Identity | None
    failure: Failed | None

    def remove_left(self, pid_file: PidFile) -> None:
        """Remove the pid file of a daemon that failed, if that was killed before it could."""
        if self.failure is not None and self.daemon is not None:
            with contextlib.suppress(OSError, KinfolkError):  # another one has just started there
                if pid_file.read() == self.daemon.pid:
                    pid_file.remove_stale()


@dataclass(slots=True)
class Newborn:
    """In the daemon: its line to the guard."""

    line: Descriptor

    @property
    def told(self) -> bool:
        """Whether the guard knows the outcome."""
        return self.line.closed

    def tell(self, outcome: Ready | Failed) -> bool:
        """Tell the guard the outcome, once; whether there was a guard."""
        with contextlib.closing(self.line):
            return daemon_line.say(self.line, outcome)

    def die(self, error: BaseException) -> NoReturn:
        """End by an error, before the code of the caller goes on here."""
        try:
            self.tell(Failed.by(_as_ours(error)))
        finally:
            os._exit(1)


def start(sign: Sign, deadline: Deadline) -> Outcome | Newborn:
    """Fork twice. In the original, the outcome, once the daemon is ready or has ended; in the daemon, its line.

    In the daemon every signal is blocked. Raises LimitReached when nothing can be forked. An exception
    that a signal handler raises in the original calls the start off.
    """
    with contextlib.suppress(OSError, ValueError):
        standard_streams.flush()  # so that what is in the buffers is written once
    above, guards = daemon_line.make()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        guard = fork(_NO_FORK)
    except KinfolkError:
        above.close()
        guards.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise
    if guard == 0:
        above.close()
        return _live_as_guard(guards, sign, deadline)
    try:
        guards.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        daemon, last = _listen(above)
    finally:
        above.close()  # before the outcome, this calls the start off
        ended = reap(guard)
    if isinstance(last, Ready):
        return Outcome(daemon, None)
    if daemon is not None:
        _make_sure_that_dead(daemon)
    why = f"the process that started it was lost: {ended}"
    lost = Failed("SystemProblem", "the daemon did not start", why=why, remedy="start it again")
    return Outcome(daemon, last or lost)


def _listen(above: Descriptor) -> tuple[Identity | None, Ready | Failed | None]:
    """What the newborn and the guard say to the original, until both have let go of the line."""
    daemon, last = None, None
    while (message := daemon_line.hear(above)) is not None:
        if isinstance(message, Begun):
            daemon = Identity(message.pid, message.start_time)
        else:
            last = last or message
    return daemon, last


def _live_as_guard(above: Descriptor, sign: Sign, deadline: Deadline) -> Newborn:
    """Returns in the daemon alone."""
    try:
        os.setsid()
        below, line = daemon_line.make()
        daemon = fork(_NO_FORK)
        if daemon == 0:
            below.close()
            os.setpgid(0, 0)
            daemon_line.say(above, Begun(*Identity.own()))
            above.close()
            return Newborn(line)
        line.close()
        reset_signals(ignored=(signal.SIGPIPE,))  # an original that has gone must not kill it
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        daemon_line.say(above, Guard(daemon, above, below, sign, deadline).outcome())
        os._exit(0)
    except CalledOff:
        os._exit(1)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            daemon_line.say(above, Failed.by(_as_ours(error)))
        os._exit(1)


def _make_sure_that_dead(daemon: Identity) -> None:
    """Kill a daemon that lost its guard before it was ready."""
    number = open_pidfd(daemon.pid)
    if number is None:
        return
    with contextlib.closing(Descriptor(number, "the pidfd of a daemon")):
        if Identity.of(daemon.pid) == daemon:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(number, signal.SIGKILL)
            poll = select.poll()
            poll.register(number, select.POLLIN)
            poll.poll()


def _as_ours(error: BaseException) -> KinfolkError:
    what = "the daemon did not start"
    if isinstance(error, OSError):
        return from_os_error(error, what)
    if isinstance(error, KinfolkError):
        return error
    return SystemProblem(what, why=f"{type(error).__name__}: {error}")


def reset_signals(ignored: tuple[signal.Signals, ...] = ()) -> None:
    """Give every signal its default action, but for those that are to be ignored."""
    for number in signal.valid_signals():
        action = signal.SIG_IGN if number in ignored else signal.SIG_DFL
        with contextlib.suppress(OSError):  # SIGKILL, SIGSTOP
            signal.signal(number, action)


def refuse_threads(remedy: str) -> None:
    """Raise UsageError when another thread runs: it would not exist in the daemon, but the locks that it holds would.

    Threads of kinfolk's own don't count: its handlers at fork end them or make them anew. Nor may an asyncio loop run
    here, which would share its epoll with the original.
    """
    python = {thread.native_id: thread.name for thread in threading.enumerate()}
    others = []
    for task in os.listdir("/proc/self/task"):
        number = int(task)
        if number != threading.get_native_id():
            with contextlib.suppress(OSError):  # it has just ended
                others.append(python.get(number) or _native_name(number))
    others = sorted(name for name in others if not name.startswith("kinfolk"))
    if others:
        raise UsageError(
            "a process with several threads can't become a daemon",
            why=f"fork copies one of them, and the locks that all others hold: {', '.join(others[:5])}",
            remedy=remedy,
        )
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        raise UsageError(
            "a process can't become a daemon while an asyncio loop runs",
            why="both would use the same epoll",
            remedy=f"do it before asyncio.run; or {remedy}",
        )


def _native_name(task: int) -> str:
    with open(f"/proc/self/task/{task}/comm", "rb") as file:
        return file.read().decode(errors="replace").strip()
