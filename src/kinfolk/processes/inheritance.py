"""What a child would have taken from its parent, had its parent been the owner and not the keeper.

    told with each start (`completed`)           environment, directory, umask, process group, limits that have changed
    the keeper's own, so it must be like the     user and groups, capabilities, no_new_privs, seccomp filters, session, root
      owner's, or another keeper is started        directory (`Standing`)
    as they were when the keeper was started     niceness, scheduling, CPUs, control group, namespaces

Security first: an owner that gives up its privileges must not get children from a keeper that still has them.
"""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

import msgspec

from kinfolk.processes.launch import Launch

Limits = tuple[tuple[int, int], ...]

_RESOURCES = range(resource.RLIMIT_RTTIME + 1)  # the last one of getrlimit(2)


class Standing(NamedTuple):
    """What a process may do, and where it stands."""

    credentials: bytes
    session: int
    root: tuple[int, int]


def look() -> tuple[Standing, int]:
    """The standing of the calling thread, and its umask, which no system call tells without changing it."""
    file = os.open("/proc/thread-self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        lines = os.read(file, 1 << 16)
    finally:
        os.close(file)
    # In the order of proc_pid_status(5). By find, for this is read before every start, and is short like this.
    users = lines[lines.find(b"\nUid:") : lines.find(b"\nFDSize:")]
    groups = lines[lines.find(b"\nGroups:") : lines.find(b"\nNStgid:")]
    powers = lines[lines.find(b"\nCapInh:") : lines.find(b"\nCpus_allowed:")]
    umask = lines[lines.find(b"\nUmask:") + 7 : lines.find(b"\nState:")]
    root = os.stat("/")
    standing = Standing(users + groups + powers, os.getsid(0), (root.st_dev, root.st_ino))
    return standing, int(umask, 8)


def limits() -> Limits:
    """Every limit, soft and hard. getrlimit(2)."""
    return tuple(map(resource.getrlimit, _RESOURCES))


def completed(launch: Launch, umask: int, before: Limits, *, own_group: bool) -> Launch:
    """The launch with what it leaves open as it is in this process.

    ``before`` are the limits of the keeper; ``own_group``: whether the keeper is in another process group.
    """
    group, cwd = launch.process_group, launch.cwd
    if group is None and not launch.new_session and own_group:
        group = os.getpgrp()
    if cwd is None or not cwd.startswith(b"/"):
        cwd = os.path.join(_directory(), cwd) if cwd else _directory()
    changed = [
        (number, *now)
        for number, (now, then) in enumerate(zip(limits(), before, strict=True))
        if now != then
    ]
    return msgspec.structs.replace(
        launch,
        env=_environment() if launch.env is None else launch.env,
        process_group=group,
        cwd=cwd,
        umask=umask if launch.umask is None else launch.umask,
        rlimits=changed + launch.rlimits,
    )


def _environment() -> list[bytes]:
    # What os.environb shows; going through its mapping takes a tenth of the time of a whole start.
    data: dict[bytes, bytes] = os.environb._data  # type: ignore[attr-defined]
    return [name + b"=" + value for name, value in data.copy().items()]


def _directory() -> bytes:
    try:
        return os.getcwdb()
    except FileNotFoundError:  # it was removed, and this process still stands there
        return b"/proc/%d/cwd" % os.getpid()
