"""What the tests of FileLock share: the kinds, and what the kernel says of who waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.sync.file_lock import LockKind
from tests.conformance.peers import HANG, Peer, until

KINDS: tuple[LockKind, ...] = ("ofd", "flock", "posix")

each_kind = pytest.mark.parametrize("kind", KINDS)


def waiting(path: Path) -> int:
    """How many are blocked in the kernel for a lock on a file (proc_locks(5))."""
    place = f":{path.stat().st_ino}"
    with open("/proc/locks") as file:
        lines = [line.split() for line in file]
    return sum("->" in words and any(word.endswith(place) for word in words) for words in lines)


def until_waiting(path: Path, count: int = 1) -> None:
    """Wait until so many are blocked in the kernel for a lock on a file."""
    until(lambda: waiting(path) >= count, f"{count} waiting for {path}")


def is_free(path: Path, kind: LockKind = "ofd", *, shared: bool = False, **part: Any) -> bool:
    """Whether the calling thread could lock it now."""
    lock = kin.FileLock(path, kind=kind, **part)
    try:
        lock.acquire(timeout=0, shared=shared)
    except kin.Timeout:
        return False
    lock.release()
    return True


def holds(lock: kin.FileLock, voice: Any, *, shared: bool = False) -> None:
    """A peer that has it until it is told to go on."""
    with lock.hold(timeout=HANG, shared=shared):
        voice.say("held")
        voice.hear()


def holding(lock: kin.FileLock, *, shared: bool = False) -> Callable[[Any], None]:
    """`holds`, for `Peers.fork`."""
    return lambda voice: holds(lock, voice, shared=shared)


def let_go(peer: Peer) -> None:
    """End a peer that `holds`."""
    peer.say()
    peer.result()


def open_here(path: Path) -> int:
    """How many descriptors of this process are of a file."""
    wanted = path.stat()
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(number))
        except OSError:
            continue
        found += (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino)
    return found
