"""Namespaces of a process's own: where a /dev/shm is tiny, a limit of the kernel low, or nobody else makes anything."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kinfolk._native import unshare

if TYPE_CHECKING:
    from tests.conformance.peers import Peers

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x08000000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


class NotHere(NamedTuple):
    """What a function returns that can't do its work here."""

    why: str


def in_namespaces(peers: Peers, flags: int, body: Callable[[], Any]) -> Any:
    """What a function returns in a peer that has left ours; skips the test where that is not allowed."""

    def live(_: Any) -> Any:
        try:
            enter(flags)
        except OSError as error:
            return NotHere(f"needs a namespace of its own: {error}")
        return body()

    outcome = peers.fork(live).result()
    if isinstance(outcome, NotHere):
        pytest.skip(outcome.why)
    return outcome


def enter(flags: int) -> None:
    """Leave some namespaces for new ones; as a plain user by way of a user namespace. For a peer. Raises OSError."""
    if os.geteuid() == 0:
        unshare(flags)
        return
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def mount_shared_memory(options: str) -> None:
    """Mount a /dev/shm in this mount namespace alone. Raises OSError."""
    mount_memory("/dev/shm", options)


def mount_memory(path: str, options: str) -> None:
    """Mount a tmpfs in this mount namespace alone. Raises OSError."""
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE, None)
    _mount("tmpfs", path, "tmpfs", 0, options)


def be_alone() -> bool:
    """Have System V objects, POSIX queues and a /dev/shm that no process has but this one and its descendants.

    Whether it is so: root may, if its container lets it. A plain user could by a user namespace only, which changes what else he may.
    """
    if os.geteuid() != 0:
        return False
    try:
        enter(CLONE_NEWNS | CLONE_NEWIPC)
    except PermissionError:
        return False
    queues = os.path.ismount("/dev/mqueue")
    mount_shared_memory("mode=1777")
    if queues:
        _mount("mqueue", "/dev/mqueue", "mqueue", 0, None)
    return True


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    if libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
