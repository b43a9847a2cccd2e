"""kill -9 in the middle of locking a file, waiting for it, changing what it guards, unlocking it: nobody is stuck, never two at once.

who is killed            what the others find
opening, waiting         nothing of it
while it has it          the file as it was left, and the lock free
unlocking, closing       free
"""

from __future__ import annotations

import mmap
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.sync.file_lock import LockKind
from tests.conformance.peers import HANG, FailedInPeer, Peers, until
from tests.unit.file_locks import each_kind, is_free, open_here

PAIR = struct.Struct("qq")  # two numbers, which are equal when nobody is at them


class Guarded:
    """A file, by its lock; and whether somebody was about to be killed at it."""

    def __init__(self, path: Path, kind: LockKind) -> None:
        self.path, self.lock = path, kin.FileLock(path, kind=kind)
        self.doomed = mmap.mmap(-1, 1)
        path.write_bytes(PAIR.pack(0, 0))

    def turn(self) -> None:
        """Change it."""
        with self.lock.hold(timeout=HANG) as held:
            first = self._look(held.fileno())
            os.pwrite(held.fileno(), struct.pack("q", first + 1), 0)
            os.pwrite(held.fileno(), struct.pack("q", first + 1), 8)

    def look(self) -> None:
        """Read it, as others may at the same time."""
        with self.lock.hold(timeout=HANG, shared=True) as held:
            self._look(held.fileno())

    def _look(self, number: int) -> int:
        first, second = PAIR.unpack(os.pread(number, PAIR.size, 0))
        assert first == second or self.doomed[0]
        return first


def kill_once(peers: Peers, path: Path, kind: LockKind, dice: random.Random) -> None:
    """Kill who takes turns with others, who have to come to their end."""
    guarded = Guarded(path, kind)

    def victim(_: Any) -> None:
        while True:
            guarded.turn()

    def other(_: Any) -> None:
        for _turn in range(40):
            guarded.turn()
            guarded.look()

    killed = peers.fork(victim)
    others = [peers.fork(other) for _ in range(2)]
    for _ in range(dice.randrange(100_000)):
        pass
    guarded.doomed[0] = 1
    killed.kill()
    for peer in others:
        peer.result()
    assert is_free(path, kind)
    assert open_here(path) == 0


def kill_at_random(path: Path, kind: LockKind, kills: int) -> None:
    dice = random.Random(kills)
    for _ in range(kills):
        peers = Peers()
        try:
            kill_once(peers, path, kind, dice)
        finally:
            peers.end()


@each_kind
def test_killed_at_random(tmp_path, kind):
    kill_at_random(tmp_path / "file", kind, 12)


@pytest.mark.soak
@pytest.mark.timeout(600)
@each_kind
def test_killed_hundreds_of_times(tmp_path, kind):
    kill_at_random(tmp_path / "file", kind, 400)


def test_two_who_lock_by_kinds_that_know_nothing_of_each_other(tmp_path):
    """The negative control: it is seen when two are at it."""
    path = tmp_path / "file"

    def turns(kind: LockKind) -> None:
        guarded = Guarded(path, kind)
        for _ in range(300):
            guarded.turn()

    def two_at_once() -> bool:
        peers = Peers()
        try:
            both = [peers.fork(lambda _, kind=kind: turns(kind)) for kind in ("ofd", "flock")]
            for peer in both:
                peer.result()
        except FailedInPeer as failed:
            return isinstance(failed.error, AssertionError)
        finally:
            peers.end()
        return False

    until(two_at_once, "two at once")
