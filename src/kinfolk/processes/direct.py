"""``containment="direct"``: children of this very process.

    start ── vfork, execve ── the child
      │                         │ ends
      └─ the watcher ───────────┴─> reaped at once, the status kept for whoever asks

Rules:
1. A child is reaped as soon as it has ended, whether its `Process` is waited for, kept or dropped: no zombie.
2. Each ends with this process, however that ends: at the exit of the interpreter it is killed with everything below
   it; should this process be killed, the kernel kills the child (PR_SET_PDEATHSIG, prctl(2)). What that child had started
   escapes then, and so does a set-user-ID program, for which the kernel forgets the signal: the keeper holds those too.
3. The signal of rule 2 is about a thread. It is armed by the main thread, which lives as long as the process, or by
   a native thread that is made for this child and lives as long as it does (and of which os.fork() warns meanwhile).
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
from collections import deque
from collections.abc import Callable

from kinfolk import exit_hooks, watcher
from kinfolk._native import Child, Watch
from kinfolk.deadlines import Deadline
from kinfolk.descriptors import Descriptor
from kinfolk.errors import KinfolkError, from_os_error, is_bare
from kinfolk.identity import Identity, open_pidfd
from kinfolk.processes.custody import Containment, Custody
from kinfolk.processes.descendants import Descendants, has_a_group
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.handover import Handover
from kinfolk.processes.launch import Launch, end_unheard, start
from kinfolk.processes.lost_status import remembered


class Direct(Custody):
    """A child of this process."""

    containment: Containment = "direct"

    def __init__(
        self,
        launch: Launch,
        start: Callable[[Launch, list[int]], int] = start,
        handover: Handover | None = None,
    ) -> None:
        """Start it. Raises what ``start`` raises, and LimitReached when no descriptor is left to watch it by.

        It is in the ``handover`` from the moment at which an interrupt would lose it.
        """
        _sweep()
        started: list[int] = []
        pidfd = Descriptor(-1, "the pidfd of a child")
        child: Child | None = None
        self._watch: Watch | None = None
        #: its pidfd, kept when it has ended, where others are left in the group that it led
        self._group: Descriptor | None = None
        try:
            pid = start(launch, started)
            self._child = child = Child(pid)
            pidfd.adopt(child.pidfd)
            super().__init__(Identity(pid, 0), pidfd)
            self._leads = launch.leads
            self._ends_with_us = launch.death_signal is not None
            if not self._ends_with_us:
                self.containment = "none"
            self._tree: Descendants | None = None
            if pidfd.closed:
                self._status = _lost(None)
            else:
                self._watch = watcher.reap(self._child, pidfd.fileno())
                _living.add(self)
            if handover is not None:
                handover.custody, self.unheard = self, True
        except BaseException as error:
            self._forget()
            for pid in started:
                if child is None or child.collect() is None:  # else it has gone, and its number too
                    end_unheard(launch, pid)
            if child is not None:  # which closes its pidfd, once it knows of the end
                if not pidfd.closed:
                    pidfd.detach()
                child.collect()
                child.abandon()
            if isinstance(error, OSError) and is_bare(error):
                raise from_os_error(error, "a process can't be watched, and was killed") from error
            raise

    def _collect(self) -> ExitStatus | None:
        answer = self._child.collect()
        if answer is None:
            return None
        self._forget()
        code, word, usage = answer
        if self._leads and has_a_group(self._pidfd.fileno()):
            with contextlib.suppress(
                OSError
            ):  # no descriptor is left: whoever is in its group escapes
                self._group = self._pidfd.duplicate()
        if code:
            return _lost(self._pidfd)
        return ExitStatus.from_wait(word, resource.struct_rusage(usage))

    def _forget(self) -> None:
        self._somebody_waits()  # before its descriptor is closed
        _living.discard(self)

    def _somebody_waits(self) -> None:
        """Whoever waits reaps it: to have the watcher do the same at the same moment is slower."""
        if self._watch is not None:
            self._watch.leave()
            self._watch = None

    def _nobody_waits(self) -> None:
        with contextlib.suppress(OSError):  # then the next start will see to it
            self._watch = watcher.reap(self._child, self._pidfd.fileno())

    def _is_unreaped(self) -> bool:
        return (
            self._child.collect() is None
        )  # also when it was abandoned, and its pidfd is the watcher's

    def _change(self) -> ExitStatus | None:
        try:
            options = os.WSTOPPED | os.WCONTINUED | os.WNOHANG
            change = os.waitid(os.P_PIDFD, self._pidfd.fileno(), options)
        except ChildProcessError:
            return None
        if change is None:
            return None
        stopped = change.si_code != os.CLD_CONTINUED
        return ExitStatus.from_wait((change.si_status << 8) | 0x7F if stopped else 0xFFFF)

    def signal_tree(self, number: int) -> None:
        """Send a signal to it and to everything below it."""
        self.check_owner()
        with self._lock:
            if number == signal.SIGKILL:
                self._below().kill()
            else:
                self._below().signal(number)

    def members(self) -> list[int]:
        """Who of them lives."""
        self.check_owner()
        with self._lock:
            return self._below().members()

    def _below(self) -> Descendants:
        if self._tree is None:
            self._tree = Descendants(self.identity, leader=self._leader)
        return self._tree

    def _leader(self) -> int | None:
        """A pidfd of the one that leads a group, while it may still have one."""
        if self._group is not None and not self._group.closed:
            return self._group.fileno()
        return self._pidfd.fileno() if self._leads and not self._pidfd.closed else None

    def close(self) -> None:
        """Give back what was lent or kept, once the status is known."""
        super().close()
        if self._group is not None and (self.known or self.is_a_copy):
            self._group.close()

    def abandon(self) -> None:
        """Leave it to the watcher, pidfd and all. Twice is no more than once."""
        if self._pidfd.closed:
            return
        self._pidfd.detach()
        self._child.abandon()
        _abandoned.append(self)

    def reaped(self) -> bool:
        """Whether it was; then it is forgotten here. Also for one that was abandoned."""
        if self._child.collect() is None:
            return False
        self._forget()
        return True

    def is_to_end(self) -> bool:
        """Whether it lives and may not outlive this process."""
        return not self.reaped() and self._ends_with_us


#: Every child whose status nobody has taken yet.
_living: set[Direct] = set()
#: Those whose Process was dropped; a deque, for a finalizer may append at any moment.
_abandoned: deque[Direct] = deque()

#: Seconds for which the exit of the interpreter waits for what it has killed.
_PATIENCE = 1.0


def _lost(pidfd: Descriptor | None) -> ExitStatus:
    """The status of a child that was reaped by somebody else: the kernel may remember it for who has a pidfd."""
    status = None if pidfd is None else remembered(pidfd.fileno())
    if status is not None and status.known:
        return status
    ignored = signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN
    return ExitStatus.unknown(
        "SIGCHLD is ignored here, so the kernel reaped it (sigaction(2))"
        if ignored
        else "somebody else in this process had collected it: os.wait(), or another library"
    )


def _sweep() -> None:
    """Forget the abandoned ones that were reaped meanwhile. Several threads may be here."""
    for _ in range(len(_abandoned)):
        try:
            direct = _abandoned.popleft()
        except IndexError:
            return
        if not direct.reaped():
            _abandoned.append(direct)


def _at_exit() -> None:
    running = [direct for direct in list(_living) if direct.is_to_end()]
    for direct in running:
        with contextlib.suppress(KinfolkError):  # the kernel kills the rest when this process ends
            direct.signal_tree(signal.SIGKILL)
    until = Deadline(_PATIENCE)
    for direct in running:
        while not direct.reaped() and not until.passed():
            _wait_for(direct.pid, until)


def _wait_for(pid: int, until: Deadline) -> None:
    pidfd = open_pidfd(pid)  # its own may be closed by the watcher at any moment
    if pidfd is not None:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(until.milliseconds())
        os.close(pidfd)


def _after_fork_in_child() -> None:
    _living.clear()
    _abandoned.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
exit_hooks.register(_at_exit)
