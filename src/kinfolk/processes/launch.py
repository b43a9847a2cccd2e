"""A start, as plain data: everything that is to be so in the new process when its program begins.

    the owner ── Launch ──(msgpack)──> whoever starts it: the owner itself, or the keeper
                                          └─ start() ── vfork ── the child does it all ── execve

Rules:
1. A launch is complete: nothing is taken from the starter but what a field says (``env=None``, ``ignored_as_here``), its root
   directory, its scheduling and its limits. In the child every signal that is not ignored has its default action, SIGPIPE too, and every
   descriptor that is not listed is closed.
2. A program that can't be started raises at once, naming the step that failed, its errno and its object. No
   process is left.
3. It costs the same whatever the size of the starter: nothing is copied (vfork(2)).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import NoReturn

import msgspec

from kinfolk import _native
from kinfolk.errors import NotFound, from_os_error
from kinfolk.identity import Identity
from kinfolk.process_limit import refused
from kinfolk.processes import resource_limits
from kinfolk.processes.descendants import Descendants
from kinfolk.processes.not_executed import explain


class Launch(msgspec.Struct, frozen=True):
    """What to start, and how. The child does it in this order, execve last."""

    argv: list[bytes]
    #: paths to try in order, as execvp(3) would: PATH was searched by who wrote this
    executables: list[bytes]
    #: b"NAME=value"; None: the environment of the starter
    env: list[bytes] | None = None
    #: leads a new session, and so a new process group (setsid(2))
    new_session: bool = False
    #: joins this process group; 0 leads a new one; None stays in the starter's (setpgid(2))
    process_group: int | None = None
    #: the directory of a cgroup of version 2 to enter (cgroups(7))
    cgroup: bytes | None = None
    #: (number here, number in the child); all others are closed
    descriptors: list[tuple[int, int]] = []
    #: (resource, soft, hard) as setrlimit(2) takes them, -1 for no limit
    rlimits: list[tuple[int, int, int]] = []
    #: is added to the niceness (nice(2))
    nice: int = 0
    #: supplementary groups; None keeps the starter's, [] drops them (setgroups(2))
    groups: list[int] | None = None
    gid: int | None = None
    uid: int | None = None
    umask: int | None = None
    #: entered as the new user
    cwd: bytes | None = None
    #: is sent to it when the *thread* that starts it ends (PR_SET_PDEATHSIG); see `start`
    death_signal: int | None = None
    #: signals that are blocked in the child; all others are not
    blocked: list[int] = []
    #: signals that are ignored in the child; all others have their default action
    ignored: list[int] = []
    #: ignores also what the starter ignores, but for those of which kinfolk.processes.ignored_signals knows better
    ignored_as_here: bool = False
    #: a terminal (the number here) whose foreground becomes the child's process group (tcsetpgrp(3))
    terminal: int | None = None

    @property
    def leads(self) -> bool:
        """Whether the child leads a process group, and perhaps a session."""
        return self.new_session or self.process_group == 0


def environment() -> list[bytes]:
    """``NAME=value`` of each variable of this process, for who needs them as Python has them."""
    # What os.environb shows; going through its mapping takes a tenth of the time of a whole start.
    data: dict[bytes, bytes] = os.environb._data  # type: ignore[attr-defined]
    return [name + b"=" + value for name, value in data.copy().items()]


def start(launch: Launch, started: list[int] | None = None) -> int:
    """Start a program; its pid. The caller has to wait for it. Thread-safe.

    With a ``death_signal``, a call from another thread than the main one makes a native thread that lives as long as
    the child and is its parent, so that the end of the calling thread is not taken for the end of the process.

    ``started`` receives the pid before anything can interrupt the call; then whoever is interrupted ends the child
    himself. Without it, a child that nobody has heard of is killed.

    Raises NotFound, AccessDenied, LimitReached, KernelError, …: what execve(2) and its forerunners report.
    """
    pids = [] if started is None else started
    try:
        step, code, item = _native.spawn(launch, pids)
    except BaseException:
        if started is None:
            for pid in pids:
                end_unheard(launch, pid)
        raise
    if code:
        raise_failed(launch, step, code, item)
    return pids[-1]


def end_unheard(launch: Launch, pid: int) -> None:
    """Kill and reap a child whose start was interrupted, and all that it has started already. It must not have been reaped."""
    with contextlib.suppress(OSError):  # no descriptor is left to look around with
        pidfd = os.pidfd_open(pid)
        try:
            if (identity := Identity.of(pid)) is not None:
                Descendants(identity, leader=lambda: pidfd if launch.leads else None).kill()
        finally:
            os.close(pidfd)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def raise_failed(launch: Launch, step: str, code: int, item: int) -> NoReturn:
    """Raise what `_native.spawn` reported: the step, its errno, and which of its elements."""
    if step == "executables":
        directory = launch.cwd or b""
        raise explain(launch.executables, item, launch.argv, launch.env, code, directory)
    program = os.fsdecode(launch.argv[0])
    if step == "vfork":
        raise refused(code, "no process can be started", program)
    what, thing, remedy = _described(launch, step, item)
    what = f"can't start {program}: {what}"
    if step == "cgroup" and code == errno.ENOENT and os.path.isdir(thing):
        why = "this directory is no control group: there is no cgroup.procs in it"
        raise NotFound(what, subject=thing, why=why, remedy=remedy, code=code)
    raise from_os_error(OSError(code, os.strerror(code)), what, thing, remedy)


def _described(launch: Launch, step: str, item: int) -> tuple[str, str, str]:
    """What could not be done, to which object, and the remedy."""
    match step:
        case "cwd":
            where = os.fsdecode(launch.cwd or b"")
            return (
                "its directory can't be entered",
                where,
                "name a directory that its user may enter",
            )
        case "cgroup":
            where = os.fsdecode(launch.cgroup or b"")
            remedy = "name a directory of a cgroup of version 2 that you may write to (cgroups(7))"
            return "its cgroup can't be entered", where, remedy
        case "descriptors":
            here = next(here for here, there in launch.descriptors if there == item)
            remedy = "pass what is open, and numbers below the limit: ulimit -n"
            return f"descriptor {here} can't become its {item}", "", remedy
        case "rlimits":
            number, soft, hard = launch.rlimits[item]
            remedy = "ask for no more than the hard limit, and soft for no more than hard"
            wanted = f"({resource_limits.shown(soft)}, {resource_limits.shown(hard)})"
            return f"its limit {resource_limits.name_of(number)} can't be {wanted}", "", remedy
        case "nice":
            return f"its niceness can't grow by {launch.nice}", "", "only root may lower it"
        case "groups" | "gid" | "uid":
            value = getattr(launch, step)
            return (
                f"its {step} can't become {value}",
                "",
                "only root may change the user and groups",
            )
        case "process_group":
            group = launch.process_group
            remedy = "name a group of this session that still has members, or 0 for a new one"
            return f"it can't join process group {group}", "", remedy
        case "terminal":
            return (
                "it can't have the terminal",
                "",
                "see that it is still there, and of this session",
            )
    return f"{step} failed", "", ""
