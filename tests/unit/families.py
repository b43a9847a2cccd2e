"""Families of real processes with a zombie in them, one for each reason why it is not collected.

    test ── forks ──> adopter, a subreaper ── forks ──> parent, which runs a scenario ── forks ──> the zombie to be

The parent dies with the adopter, and what it leaves goes to the adopter, which collects everything: nothing is left behind, and
nothing depends on what process 1 does here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from kinfolk.identity import Identity
from tests.conformance.peers import Peer, Peers, Voice, state, until

libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_PTRACER = 0x59616D61
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
ANYBODY = ctypes.c_ulong(-1)

# Raw calls without a wrapper that would do: the end of one thread, and a fork with another signal than SIGCHLD.
SYS_EXIT, SYS_CLONE = {"x86_64": (60, 56), "aarch64": (93, 220)}.get(platform.machine(), (0, 0))

Report = Callable[[int], None]
Scenario = Callable[[Report], None]


class Family:
    """The three of them."""

    def __init__(self, peer: Peer, parent: int, child: int) -> None:
        self.adopter, self.parent, self.child = peer, parent, child
        self._parent = os.pidfd_open(parent)

    def until_zombie(self) -> None:
        """Wait until the child has ended, and the parent has done what it does then."""
        until(lambda: state(self.child) == "Z", f"{self.child} a zombie")

    def until_collected(self) -> None:
        """Wait until the child is no more."""
        until(lambda: state(self.child) == "X", f"{self.child} collected")

    def end(self) -> dict[int, int]:
        """End the parent; what the adopter collected, by pid: exit codes, or minus the signal."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._parent, signal.SIGKILL)
        os.close(self._parent)
        collected: dict[int, int] = self.adopter.result()
        return collected


@contextlib.contextmanager
def family(peers: Peers, scenario: Scenario, *, zombie: bool = True) -> Iterator[Family]:
    """A family whose parent runs the scenario, which reports the child's pid and never returns."""
    peer = peers.fork(_adopt, scenario)
    parent, child = peer.hear()
    members = Family(peer, parent, child)
    try:
        if zombie:
            members.until_zombie()
            until(lambda: state(parent) in "STtZ" or scenario is busy_handler, "the parent asleep")
        yield members
    finally:
        members.end()


def _adopt(voice: Voice, scenario: Scenario) -> dict[int, int]:
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    reader, writer = os.pipe()
    adopter = os.getpid()  # and, after a fork, the number of its one thread
    parent = os.fork()
    if parent == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == adopter:
            scenario(lambda pid: void(os.write(writer, pid.to_bytes(4, "little"))))
        os._exit(0)
    os.close(writer)
    voice.say((parent, int.from_bytes(os.read(reader, 4), "little")))
    collected: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.wait()
            collected[pid] = os.waitstatus_to_exitcode(status)
            if pid == parent:
                for left in Path(f"/proc/self/task/{adopter}/children").read_text().split():
                    os.kill(int(left), signal.SIGKILL)
    return collected


def void(_: Any) -> None:
    """Nothing."""


def fork(function: Callable[[], Any] = lambda: None) -> int:
    """A child that runs a function and ends with 7; it dies with its parent."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            function()
        finally:
            os._exit(7)
    return pid


def until_ended(pid: int) -> None:
    """Wait for a child's end without collecting it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def pause() -> NoReturn:
    """Sleep for ever; signals are handled."""
    while True:
        signal.pause()


def collect(number: int, frame: object) -> None:
    """A handler for SIGCHLD with the usual mistake: one signal, one child."""
    os.wait()


def collect_all(number: int, frame: object) -> None:
    """A handler for SIGCHLD without it."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# ------------------------------------------------------------------------------------- scenarios


def never_waits(report: Report) -> None:
    report(fork())
    pause()


def blocked(report: Report) -> None:
    signal.signal(signal.SIGCHLD, collect_all)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    report(fork())
    pause()


def blocked_in_one_thread(report: Report) -> None:
    """The other thread takes the signal."""
    signal.signal(signal.SIGCHLD, collect_all)
    child = fork(signal.pause)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    report(child)
    pause()


def ignored_late(report: Report) -> None:
    child = fork()
    until_ended(child)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    later = fork()
    until(lambda: state(later) == "X", "one that ended after SIGCHLD was ignored")
    report(child)
    pause()


def would_wait(report: Report) -> None:
    """Waits as it should; the test stops it, and then ends the child."""
    child = fork(signal.pause)
    report(child)
    os.waitpid(child, 0)
    pause()


def one_signal_for_two(report: Report) -> None:
    signal.signal(signal.SIGCHLD, collect)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    children = [fork(), fork()]
    for child in children:
        until_ended(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    report(next(child for child in children if state(child) == "Z"))
    pause()


def busy_handler(report: Report) -> None:
    def compute(number: int, frame: object) -> None:
        report(child)
        while True:
            pass

    signal.signal(signal.SIGCHLD, compute)
    started = os.pipe()
    child = fork(lambda: os.read(started[0], 1))
    os.write(started[1], b"x")
    pause()


def waits_for_another(report: Report) -> None:
    report(fork())
    os.waitpid(fork(signal.pause), 0)


def uninterruptible(report: Report) -> None:
    """Sleeps until the child of a vfork has run its program, which waits for a FIFO that nobody opens."""
    path = f"/tmp/kf{os.getpid()}"
    os.mkfifo(path)
    report(fork())
    stdin = (os.POSIX_SPAWN_OPEN, 0, path, os.O_RDONLY, 0)
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[stdin])


def clone_child(report: Report) -> None:
    child = libc.syscall(SYS_CLONE, int(signal.SIGURG), 0, 0, 0, 0)
    if child == 0:
        os._exit(7)
    report(child)
    pause()


def dead_leader(report: Report) -> None:
    """Its main thread ends, and another lives."""

    def live_on() -> None:
        threading.Thread(target=pause_in_thread, daemon=True).start()
        libc.syscall(SYS_EXIT, 0)

    report(fork(live_on))
    pause()


def pause_in_thread() -> None:
    """Sleep for ever, in any thread."""
    threading.Event().wait()


def waits_to_be_traced(report: Report) -> None:
    """Its child lets anybody trace it, and ends when killed."""

    def sit() -> None:
        libc.prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
        signal.pause()

    libc.prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
    signal.signal(signal.SIGCHLD, collect_all)
    report(fork(sit))
    pause()


def pid_namespace_init(report: Report) -> None:
    libc.unshare(0x20000000)  # CLONE_NEWPID: for the children
    report(fork())
    pause()


# ------------------------------------------------------------------------------------- orphans


def orphan_of(
    *, own_session: bool, adopter_leads: bool = False, middle_stays: bool = False
) -> Callable[[Voice], None]:
    """A peer that becomes a subreaper, and adopts a daemon that its child made by forking twice."""

    def adopter(voice: Voice) -> None:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if adopter_leads:
            os.setsid()
        ticks = os.sysconf("SC_CLK_TCK")
        born = Identity.own().start_time
        until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * ticks > born + 2, "a later tick")
        reader, writer = os.pipe()
        own = os.getpid()

        def last() -> None:
            os.write(writer, os.getpid().to_bytes(4, "little"))
            until(lambda: os.getppid() == own, "adopted")
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            pause()

        def middle() -> None:
            if own_session:
                os.setsid()
            if middle_stays:
                fork_and_end(lambda: forever(last))
                pause()
            forever(last)

        first = fork(middle)
        daemon = int.from_bytes(os.read(reader, 4), "little")
        if not middle_stays:
            os.waitpid(first, 0)
        until(lambda: parent_of(daemon) == os.getpid(), "adopted")
        voice.say(daemon)
        voice.hear()
        for pid in {daemon, first} if middle_stays else {daemon}:
            os.kill(pid, signal.SIGKILL)
        while anybody_collected():
            pass

    return adopter


def forever(function: Callable[[], None]) -> None:
    """A child without the alarm and the death signal of the others: it outlives who forked it."""
    if os.fork() == 0:
        try:
            function()
        finally:
            os._exit(0)


def fork_and_end(function: Callable[[], None]) -> None:
    """Run in a child that ends at once, and is collected."""
    os.waitpid(fork(function), 0)


def anybody_collected() -> bool:
    """Collect a child; whether there was one."""
    try:
        os.wait()
    except ChildProcessError:
        return False
    return True


def parent_of(pid: int) -> int:
    """Who its parent is now."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
