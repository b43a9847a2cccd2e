"""A `Launch` put into force in this very process: for a child that was forked to run a function.

The native spawn does the same, in the same order, in a program's child between vfork and execve. What differs: the
actions of signals and the descriptors that are not listed are the caller's business, for a copy of a Python process goes
on using some of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable, Sequence

from kinfolk import _native
from kinfolk.processes.launch import Launch


class NotPossible(Exception):
    """A field of a launch could not be put into force: what `launch.raise_failed` takes."""

    def __init__(self, step: str, code: int, item: int = 0) -> None:
        super().__init__(step, code, item)
        self.step, self.code, self.item = step, code, item


def become(launch: Launch, parent: int) -> None:
    """Put all of a launch into force but what it executes. ``parent`` started this process. Raises NotPossible.

    For a process with one thread, which ends if this raises.
    """
    if launch.new_session:
        _try("new_session", os.setsid)
    if launch.process_group is not None:
        _try("process_group", lambda: os.setpgid(0, launch.process_group or 0))
    if launch.cgroup is not None:
        _try("cgroup", lambda: _enter_cgroup(launch.cgroup or b""))
    _arrange(launch.descriptors)
    for item, (number, soft, hard) in enumerate(launch.rlimits):
        _try("rlimits", lambda n=number, s=soft, h=hard: _limit(n, s, h), item)  # type: ignore[misc]
    if launch.nice:
        _try("nice", lambda: os.nice(launch.nice))
    if launch.groups is not None:
        _try("groups", lambda: os.setgroups(launch.groups or ()))
    if (gid := launch.gid) is not None:
        _try("gid", lambda: os.setresgid(gid, gid, gid))
    if (uid := launch.uid) is not None:
        _try("uid", lambda: os.setresuid(uid, uid, uid))
    if launch.umask is not None:
        os.umask(launch.umask)
    if launch.cwd is not None:
        _try("cwd", lambda: os.chdir(launch.cwd or b""))
    if launch.death_signal is not None:
        _try("death_signal", lambda: _native.set_death_signal(launch.death_signal or 0))
        if os.getppid() != parent:  # it died before, and nobody sends the signal any more
            os._exit(127)
    signal.pthread_sigmask(signal.SIG_SETMASK, launch.blocked)
    if launch.env is not None:
        _set_environment(launch.env)


def _try(step: str, call: Callable[[], object], item: int = 0) -> None:
    try:
        call()
    except OSError as error:
        raise NotPossible(step, error.errno or errno.EINVAL, item) from error


def _enter_cgroup(directory: bytes) -> None:
    with open(directory + b"/cgroup.procs", "wb", buffering=0) as file:
        file.write(b"0")  # whoever writes it


def _limit(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # for EINVAL and EPERM (Modules/resource.c)
        code = errno.EINVAL if 0 <= hard < soft else errno.EPERM
        raise OSError(code, os.strerror(code)) from error


def step_aside(launch: Launch, descriptors: Sequence[int]) -> list[int]:
    """The same descriptors, each that lies where the launch puts another one at another number. Raises NotPossible."""
    targets = {there for _, there in launch.descriptors}
    used = {here for here, _ in launch.descriptors}
    above = 1 + max(targets, default=2)
    return [_moved(fd, above) if fd in targets and fd not in used else fd for fd in descriptors]


def _moved(fd: int, above: int) -> int:
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above)
    except OSError as error:
        raise NotPossible("descriptors", error.errno or errno.EBADF, fd) from error
    os.close(fd)
    return moved


def _arrange(pairs: list[tuple[int, int]]) -> None:
    """Put each descriptor at its number; what it had before is closed."""
    above = 1 + max((there for _, there in pairs), default=2)
    aside: list[tuple[int, int]] = []
    for here, there in pairs:
        try:
            aside.append((fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, above), there))
        except OSError as error:
            raise NotPossible("descriptors", error.errno or errno.EBADF, there) from error
    for here in {here for here, _ in pairs}:
        os.close(here)
    for here, there in aside:
        os.dup2(here, there)
        os.close(here)


def _set_environment(env: list[bytes]) -> None:
    present: dict[bytes, bytes] = os.environb._data.copy()  # type: ignore[attr-defined]
    if env == [name + b"=" + value for name, value in present.items()]:
        return
    wanted = dict(line.split(b"=", 1) for line in env)
    for name in present.keys() - wanted.keys():
        del os.environb[name]
    for name, value in wanted.items():
        if present.get(name) != value:
            os.environb[name] = value
