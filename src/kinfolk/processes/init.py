"""One command as the only purpose of a process: what init(8) has to do, in a container or anywhere else.

    kill, a terminal ──> `Arrivals` ──> the command, or its process group
    SIGCHLD ───────────> reap strangers · the command stopped: stop, too · it ended: end what is left (`Remains`)
    its time is up, our parent died ──> end everything

Rules:
1. Everything that the command starts is below this process, however often it forks and whoever dies: as PID 1 by nature, else as
   a child subreaper (prctl(2)). So this process reaps all of it.
2. Every signal that can be caught is passed on, but for SIGCHLD. One that the terminal sent was meant for a whole
   job, and goes to the command's whole group.
3. The command leads a process group of its own, and gets the terminal when we have it (`foreground`). When it stops, so do
   we, for our shell to see; when we go on, so does it.
4. When it has ended, or its time is up, everything below is asked to end (SIGTERM), and after the grace killed, until there is
   nothing. Only then the call returns.
5. The command finds what it would find without us: descriptors that are not close-on-exec, the environment, signals that are
   ignored. But it has no signal blocked.

    killed by SIGKILL …     then
    as PID 1                the kernel kills everything in the namespace (pid_namespaces(7))
    as a subreaper          the kernel kills the command (PR_SET_PDEATHSIG). What it had started escapes, and so does the command itself if
                            it is a set-user-ID program or has taken the signal back: use a pid namespace against that
    before it was started   there is nothing yet

Models: tini, dumb-init, catatonit. What was decided otherwise, and why: docs/design/init.md.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from kinfolk import _native
from kinfolk.deadlines import NEVER, Deadline, deadline
from kinfolk.descriptors import Descriptor
from kinfolk.errors import KinfolkError, from_os_error
from kinfolk.processes import foreground, kernel_actions
from kinfolk.processes.arrivals import Arrivals, Sent, all_signals
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.init_setup import (
    adopt_orphans,
    check_alone,
    children_leave_a_status,
    launch_of,
    signal_to_pass_on,
    watch_parent,
)
from kinfolk.processes.launch import Launch, start
from kinfolk.processes.program import Word, candidates, encode_words
from kinfolk.processes.remains import Remains
from kinfolk.signal_table import Like

#: Seconds between SIGTERM and SIGKILL. Who obeys costs no waiting, so it is not 0: a helper may remove its socket; and not
#: long, for who does not obey delays the command's status.
GRACE = 1.0

#: Milliseconds until another look at what is below, where no SIGCHLD tells of it: grandchildren that lose their parent.
_ANOTHER_LOOK = 50

#: Codes of sigaction(2): sent by the kernel, queued.
_SI_KERNEL, _SI_QUEUE = 0x80, -1

#: What a terminal sends to the group in its foreground.
_BY_TERMINAL = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH)

#: What means "at once" while there is still time to end.
_HURRY = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class InitOutcome:
    """How `run_as_init` ended. Immutable."""

    #: what became of the command; `usage` includes the children that it has waited for
    status: ExitStatus
    #: whether ``timeout`` ended it
    timed_out: bool
    #: how many other processes were reaped
    reaped: int
    #: how many of those had to be killed
    killed: int
    #: pids of what is still there: another user's processes, which may not be signalled
    left: tuple[int, ...]


def run_as_init(
    argv: Sequence[Word],
    *,
    grace: float | None = GRACE,
    timeout: float | None = None,
    group: bool = False,
    parent_death_signal: Like | None = None,
) -> InitOutcome:
    """Run a command to its end, and end with it everything that it has started. init(8).

    Signals that come meanwhile go to the command, or with ``group`` to its process group; orphans are reaped. After ``timeout``
    seconds the command is ended, too. ``grace`` is the time in seconds between SIGTERM and SIGKILL; 0 kills at once, None never. A second
    SIGTERM, SIGINT, SIGQUIT or SIGHUP ends the grace.

    ``parent_death_signal`` (``"TERM"``, 15, …): a signal that is passed on as if it had come when the parent of this process dies; SIGKILL ends
    everything at once.

    For a program that does nothing else: it takes every signal of this process, and reaps and ends *all* of its children, whoever
    started them. Blocks; callable from the main thread, without other threads of Python. Standard streams are not
    touched. When the command can't be started nothing has changed.

    Raises NotFound, AccessDenied, KernelError (ENOEXEC, …), LimitReached: the command can't be started; InvalidValue, Unsupported.
    """
    words = encode_words(argv)
    files = candidates(words[0])
    Deadline(grace, "grace")  # refuses what makes no sense before anything is done
    patience = deadline(timeout)
    passed_on = None if parent_death_signal is None else signal_to_pass_on(parent_death_signal)
    check_alone()
    try:
        return _run(words, files, grace, patience, group, passed_on)
    except KinfolkError:
        raise
    except OSError as error:
        raise from_os_error(error, "can't be supervised", os.fsdecode(words[0])) from error


def _run(
    words: list[bytes],
    files: list[bytes],
    grace: float | None,
    patience: Deadline,
    group: bool,
    parent_death_signal: int | None,
) -> InitOutcome:
    with contextlib.ExitStack() as undo:
        arrivals = undo.enter_context(all_signals())
        undo.enter_context(children_leave_a_status())
        remains = adopt_orphans(undo)
        parent = watch_parent(undo) if parent_death_signal is not None else None
        supervision = _Supervision(arrivals, remains, group)
        undo.callback(supervision.close)
        try:
            supervision.start(launch_of(words, files))
            in_time = supervision.attend(patience, parent, parent_death_signal)
            return supervision.end(grace, timed_out=not in_time)
        except BaseException:
            supervision.kill()
            raise


class _Supervision:
    """One command, from its start until nothing is left of it."""

    def __init__(self, arrivals: Arrivals, remains: Remains, to_group: bool) -> None:
        self._arrivals, self._remains, self._to_group = arrivals, remains, to_group
        self._started: list[int] = []
        self._pidfd: Descriptor | None = None
        self._status: ExitStatus | None = None
        self._has_terminal = False
        self._hurry = False  # nobody wants to wait any longer
        self._killing = False
        self._reaped = self._killed = 0

    @property
    def _command(self) -> int:
        """Its pid, and the number of its group; nobody else's until it is reaped."""
        return self._started[0]

    def start(self, launch: Launch) -> None:
        """Start it. Raises what `kinfolk.processes.launch.start` does."""
        self._has_terminal = launch.terminal is not None
        start(launch, self._started)
        self._pidfd = Descriptor.opened("the command's pidfd", os.pidfd_open, self._command)

    def close(self) -> None:
        """Give everything back; the terminal too."""
        self._take_terminal_back()
        if self._pidfd is not None:
            self._pidfd.close()

    # ── while it runs ────────────────────────────────────────────────────────────────────────

    def attend(
        self, patience: Deadline, parent: Descriptor | None, parent_death_signal: int | None
    ) -> bool:
        """Pass signals on and reap until the command has ended, or is to be; False when its time is up."""
        while not self._has_ended():
            if patience.passed():
                return False
            others = () if parent is None else (parent.fileno(),)
            if self._arrivals.wait(patience.milliseconds(), *others):
                parent = None  # it died
                if parent_death_signal == signal.SIGKILL:
                    self._hurry = True
                    return True
                self._deliver(Sent(parent_death_signal or 0, 0, 0))
            self._arrivals.pass_on(self._deliver)
        return True

    def _has_ended(self) -> bool:
        """Reap strangers, stop with the command; whether it has ended. It is not reaped, which keeps its number."""
        while (child := _peek(os.P_ALL, 0, os.WEXITED)) not in (None, self._command):
            os.waitpid(child, os.WNOHANG)
            self._reaped += 1
        if _peek(os.P_PID, self._command, os.WEXITED) is not None:
            return True
        try:
            stopped = os.waitid(os.P_PID, self._command, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:  # it has ended just now, and so can't stop
            return True
        if stopped is not None:
            self._stop_along(stopped.si_status)
        return False

    def _deliver(self, sent: Sent) -> bool:
        """Pass a signal on; False when a real-time one finds no room."""
        with contextlib.suppress(PermissionError):  # a set-user-ID program
            if sent.number == signal.SIGCHLD:
                return True
            if sent.number == signal.SIGCONT:
                self._go_on()
            elif self._to_group or (sent.code == _SI_KERNEL and sent.number in _BY_TERMINAL):
                self._signal_group(sent.number)
            elif sent.number >= signal.SIGRTMIN or sent.code == _SI_QUEUE:
                return self._queue(sent)
            else:
                os.kill(self._command, sent.number)
        return True

    def _queue(self, sent: Sent) -> bool:
        assert self._pidfd is not None
        try:
            _native.queue_signal(self._pidfd.fileno(), sent.number, sent.value, 0)
        except BlockingIOError:
            if sent.number >= signal.SIGRTMIN:
                return False
            os.kill(self._command, sent.number)  # without its value
        return True

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._command, number)
        if os.getpgid(self._command) != self._command:  # it has left
            os.kill(self._command, number)

    # ── job control ──────────────────────────────────────────────────────────────────────────

    def _stop_along(self, number: int) -> None:
        """The command was stopped: stop as well, so that our shell takes over; go on with it afterwards."""
        if not self._take_terminal_back() and number == signal.SIGSTOP:
            return  # somebody's own doing, who will continue it; nobody waits for a terminal
        _stop(signal.SIGTSTP if number == signal.SIGSTOP else number)
        if signal.SIGCONT in signal.sigpending():
            return  # it comes to `_deliver`
        # We were not stopped: no shell is there to continue us (an orphaned process group, or PID 1).
        if number == signal.SIGSTOP:
            self._has_terminal = foreground.lend(self._command)
        elif foreground.is_ours() or number == signal.SIGTSTP:
            self._go_on()
        else:
            # It wants a terminal that it will never have. What the kernel does to those who stand still in an orphaned group.
            self._signal_group(signal.SIGHUP)
            self._signal_group(signal.SIGCONT)

    def _go_on(self) -> None:
        self._has_terminal = foreground.lend(self._command)
        self._signal_group(signal.SIGCONT)

    def _take_terminal_back(self) -> bool:
        """Whether the command had it until now."""
        had, self._has_terminal = self._has_terminal, False
        # A command that could not be started had it for a moment, and its group is gone.
        return had and foreground.take_back(self._started[0] if self._started else 0)

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def end(self, grace: float | None, *, timed_out: bool) -> InitOutcome:
        """End everything below, and reap it."""
        limit = NEVER if grace is None else Deadline(0 if self._hurry else grace)
        left = self.kill() if limit.passed() or self._ask(limit) else []
        status = self._status
        if status is None:
            status = ExitStatus.unknown("it may not be signalled, and is left running")
        return InitOutcome(status, timed_out, self._reaped, self._killed, tuple(left))

    def _ask(self, limit: Deadline) -> bool:
        """Ask everybody to end, and wait; whether somebody is still there."""
        while True:
            self._remains.ask(self._command, held=self._status is None)
            if not self._reap():
                return False
            if limit.passed() or self._hurry:
                return True
            left = limit.milliseconds()
            self._arrivals.wait(_ANOTHER_LOOK if left is None else min(left, _ANOTHER_LOOK))
            self._arrivals.pass_on(self._note_hurry)

    def _note_hurry(self, sent: Sent) -> bool:
        self._hurry = self._hurry or sent.number in _HURRY
        return True

    def kill(self) -> list[int]:
        """Kill and reap everything below; the pids of what may not be signalled."""
        self._killing = True
        while self._started:
            before = self._reaped
            self._remains.kill(self._command, held=self._status is None)
            if not self._reap():
                break
            self._arrivals.wait(_ANOTHER_LOOK)
            self._arrivals.pass_on(self._note_hurry)
            if not self._reap():
                break
            left = self._remains.out_of_reach() if self._reaped == before else None
            if left is not None:
                return left
        return []

    def _reap(self) -> bool:
        """Reap whatever has ended; whether there are children still."""
        while True:
            try:
                pid, word, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                if self._status is None:
                    self._status = ExitStatus.unknown("somebody else had collected it")
                return False
            if pid == 0:
                return True
            if pid == self._command:
                self._status = ExitStatus.from_wait(word, usage)
                continue
            self._reaped += 1
            if self._killing and os.WIFSIGNALED(word) and os.WTERMSIG(word) == signal.SIGKILL:
                self._killed += 1


def _peek(kind: int, number: int, options: int) -> int | None:
    """The pid of a child in such a state, which it stays in."""
    found = os.waitid(kind, number, options | os.WNOHANG | os.WNOWAIT)
    return None if found is None else found.si_pid


def _stop(number: int) -> None:
    """Take the default action of a signal that stops, which is none in an orphaned process group, and for PID 1."""
    before = kernel_actions.action(number)
    try:
        kernel_actions.to_default(number)
        signal.pthread_kill(threading.get_ident(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))  # until SIGCONT
        signal.pthread_sigmask(signal.SIG_BLOCK, (number,))
    finally:
        kernel_actions.put_back(number, before)
