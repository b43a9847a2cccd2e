"""What a child would have taken from its parent, had its parent been the owner and not the keeper.

    told with each start (`completed`)           environment, directory, umask, process group, limits that have changed, what
                                                   is ignored of signals
    told when they change (`followed`)           how many descriptors the keeper may have, how many processes its user
    the keeper's own, so it must be like the     user and groups, capabilities, no_new_privs, seccomp filters, session, root
      owner's, or another keeper is started        directory (the standing)
    as they were when the keeper was started     niceness, scheduling, CPUs, control group, namespaces

Security first: an owner that gives up its privileges must not get children from a keeper that still has them.
"""

from __future__ import annotations

import os
import resource
import struct
from typing import NamedTuple

import msgspec

from kinfolk import _native
from kinfolk.errors import NotFound, from_os_error
from kinfolk.processes.ignored_signals import passed_on
from kinfolk.processes.launch import Launch


class Surroundings(NamedTuple):
    """What the calling thread would leave to a child."""

    #: user and groups, capabilities, no_new_privs, seccomp, session, root directory
    standing: bytes
    #: pairs of `_LIMIT`, by number
    limits: bytes
    umask: int
    #: bit n-1: signal n
    ignored: int
    process_group: int
    #: None: it has no name; mostly it was removed, and this process still stands there
    directory: bytes | None


_LIMIT = struct.Struct("=qq")


def look() -> Surroundings:
    """All of it, as it is now. In C, for this is read before every start. Raises LimitReached, …"""
    try:
        return Surroundings._make(_native.surroundings())
    except OSError as error:
        raise from_os_error(error, "can't see what a child takes from this process") from error


def completed(launch: Launch, around: Surroundings, before: bytes, *, own_group: bool) -> Launch:
    """The launch with what it leaves open as it is in this process, but for the environment.

    ``before`` are the limits of the keeper; ``own_group``: whether the keeper is in another process group.
    """
    group, cwd = launch.process_group, launch.cwd
    if group is None and not launch.new_session and own_group:
        group = around.process_group
    if cwd is None or not cwd.startswith(b"/"):
        here = around.directory or _removed(seen_by_keeper=own_group)
        cwd = os.path.join(here, cwd) if cwd else here
    return msgspec.structs.replace(
        launch,
        process_group=group,
        cwd=cwd,
        umask=around.umask if launch.umask is None else launch.umask,
        rlimits=launch.rlimits
        if around.limits == before
        else _changed(around.limits, before) + launch.rlimits,
        ignored=launch.ignored + (passed_on(around.ignored) if launch.ignored_as_here else []),
        ignored_as_here=False,
    )


def _changed(now: bytes, before: bytes) -> list[tuple[int, int, int]]:
    pairs = zip(_LIMIT.iter_unpack(now), _LIMIT.iter_unpack(before), strict=True)
    return [(number, *limit) for number, (limit, then) in enumerate(pairs) if limit != then]


def followed(now: bytes, before: bytes) -> list[tuple[int, int, int]]:
    """What limits a keeper is to have by itself, which has those of ``before``: as many descriptors as its owner, but never
    fewer than it has, and as many processes of its user, which the kernel compares where it makes one.
    """
    limits, had = list(_LIMIT.iter_unpack(now)), list(_LIMIT.iter_unpack(before))
    changed = []
    soft, hard = limits[resource.RLIMIT_NOFILE][0], had[resource.RLIMIT_NOFILE][1]
    if soft > had[resource.RLIMIT_NOFILE][0]:
        changed.append((resource.RLIMIT_NOFILE, soft, max(soft, hard)))
    if limits[resource.RLIMIT_NPROC] != had[resource.RLIMIT_NPROC]:
        changed.append((resource.RLIMIT_NPROC, *limits[resource.RLIMIT_NPROC]))
    return changed


def with_limit(limits: bytes, number: int, soft: int, hard: int) -> bytes:
    """Limits, of which one has changed."""
    at = number * _LIMIT.size
    return limits[:at] + _LIMIT.pack(soft, hard) + limits[at + _LIMIT.size :]


def _removed(*, seen_by_keeper: bool) -> bytes:
    """Another name of the directory of this process, which has lost its own."""
    if seen_by_keeper:
        return b"/proc/%d/cwd" % os.getpid()
    raise NotFound(
        "nothing can be started where this process stands",
        why="its directory has been removed, and a pid namespace shows no process outside of it",
        remedy="give cwd=, or change to a directory that is there",
    )
