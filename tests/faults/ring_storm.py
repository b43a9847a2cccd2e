"""Senders and receivers of a ring, killed at random moments: a program of its own, which says in one line what came of it.

    python -m tests.faults.ring_storm small|large|acknowledged MISTAKE SENDERS RECEIVERS KILLS SEED LIMIT

Theory of operation: whoever sends notes each message when its call has returned, and whoever receives looks whether it is whole
and notes that it came, both in memory that survives them. A killed one is replaced, and somebody has to get on before
the next is killed: a hang can't hide behind the death that wakes all. At the end everybody stops by himself, what is
left is received, and the arena has to be free.

Rules:
1. A message is lost if its call has returned, and nobody got it. A killed receiver may take one with him, unless he has
   to acknowledge it. It comes twice if it was noted before, and doesn't say that it comes again.
2. Receivers of large messages keep the last few, and look at them again before they let go.
3. A `MISTAKE`, if it is not empty, is made by the storm itself: the negative controls of what it notes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import random
import signal
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

import kinfolk as kin

#: Messages that one process sends before another takes his place.
EACH = 2000
KEPT = 6

_HEAD = np.dtype([("sender", "u4"), ("number", "u4"), ("length", "u4"), ("sum", "u4")])
SIZES = {
    "small": (0, 1, 40, 200, 900),
    "large": (0, 40, 900, 2000, 5000, 12_000, 30_000),
    "acknowledged": (0, 40, 900, 5000, 30_000),
}
ADDRESS = {
    "small": "ring:?capacity=4096&arena=64K",
    "large": "ring:?capacity=4096&arena=256K",
    "acknowledged": "ring:?capacity=4096&arena=256K&acknowledge=yes",
}


def shared(shape: Any, dtype: str) -> Any:
    """An array that forked processes share."""
    size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(mmap.mmap(-1, size), dtype, int(np.prod(shape))).reshape(shape)


class Storm:
    """One of them."""

    def __init__(
        self, senders: int, receivers: int, size: str, kills: int, seed: int, limit: int
    ) -> None:
        """So many processes a side; ``seed`` for all that is drawn; seconds after which somebody hangs."""
        self.limit = limit
        self.dice, self.sizes, self.kills = random.Random(seed), SIZES[size], kills
        self.receiver, self.sender = kin.channel(ADDRESS[size])
        lives = 4 * (kills + senders + receivers) + 1000
        self.sent = shared(lives, "u4")  # messages of each life whose call has returned
        self.came = shared((lives, EACH), "u1")
        self.torn, self.twice, self.disorder = (shared(64, "u4") for _ in range(3))
        self.got_on = shared(64, "u8")  # calls that returned, of each place
        self.stop = shared(1, "u1")
        self.lives = lives
        self.places = [self.send] * senders + [self.receive] * receivers
        self.pids = [0] * len(self.places)
        self.next_life = 0
        self.killed_receivers = 0

    # ── who is killed ────────────────────────────────────────────────────────────────────────

    def send(self, place: int, life: int, dice: random.Random) -> None:
        """Send until it is time."""
        self.receiver.close()
        for number in range(EACH):
            if self.stop[0]:
                return
            self.send_one(life, number, dice)
            self.sent[life] = number + 1
            self.got_on[place] += 1

    def send_one(self, life: int, number: int, dice: random.Random) -> None:
        """By one of the ways that there are."""
        length = dice.choice(self.sizes)
        message = np.empty(_HEAD.itemsize + length, "u1")
        message[_HEAD.itemsize :] = number & 255
        total = zlib.crc32(message[_HEAD.itemsize :].data)
        message[: _HEAD.itemsize].view(_HEAD)[0] = life, number, length, total
        how = dice.randrange(4)
        if how == 0:
            self.sender.send_bytes(message.tobytes())
        elif how == 1:
            self.sender.send(message)
        elif how == 2:
            self.sender.send_many([message])
        else:
            with self.sender.reserve(len(message)) as view:
                view[:] = message.data

    def receive(self, place: int, life: int, dice: random.Random) -> None:
        """Receive until an empty message comes."""
        self.sender.close()
        kept: deque[tuple[Any, int]] = deque()
        last: dict[int, int] = {}
        while True:
            got = self.receiver.recv(copy=dice.randrange(5) == 0)
            body = np.frombuffer(got, "u1")
            del got
            if not len(body):
                break
            where = self.note(body, place, last)
            kept.append((body, where))
            del body
            if len(kept) > dice.randrange(KEPT):
                self.check(*kept.popleft(), place)
            self.got_on[place] += 1
        while kept:
            self.check(*kept.popleft(), place)

    def note(self, body: Any, place: int, last: dict[int, int], again: bool = False) -> int:
        """It came, and says whether ``again``; its sum."""
        sender, number, _, total = (int(each) for each in body[: _HEAD.itemsize].view(_HEAD)[0])
        if sender >= self.lives or number >= EACH:
            self.torn[place] += 1
            return total
        if not again:
            self.twice[place] += self.came[sender, number]
            self.disorder[place] += last.get(sender, -1) >= number
            last[sender] = number
        self.came[sender, number] = 1
        self.check(body, total, place)
        return total

    def check(self, body: Any, total: int, place: int) -> None:
        """It is whole, and what it was."""
        _, _, length, now = (int(each) for each in body[: _HEAD.itemsize].view(_HEAD)[0])
        rest = body[_HEAD.itemsize :]
        self.torn[place] += len(rest) != length or not total == now == zlib.crc32(rest)

    # ── who kills ────────────────────────────────────────────────────────────────────────────

    def start(self, place: int) -> None:
        """A process for a place."""
        life, self.next_life = self.next_life, self.next_life + 1
        if life >= self.lives:
            raise SystemExit("there were more lives than there is room for")
        seed = self.dice.randrange(1 << 30)
        pid = os.fork()
        if pid == 0:
            live(self.places[place], place, life, random.Random(seed))
        self.pids[place] = pid

    def replace_who_ended(self) -> None:
        """A sender that has sent all, by the next."""
        for place, pid in enumerate(self.pids):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self.start(place)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Look until it is so."""
        end = time.monotonic() + self.limit
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"hangs: {what}")
            os.sched_yield()

    def kill(self) -> None:
        """One of them, at any moment; then somebody has to receive."""
        place = self.dice.randrange(len(self.pids))
        for _ in range(self.dice.randrange(1 << self.dice.randrange(15))):
            pass
        os.kill(self.pids[place], signal.SIGKILL)
        os.waitpid(self.pids[place], 0)
        self.killed_receivers += self.places[place] == self.receive
        before = int(self.came_in())
        self.start(place)

        def is_on() -> bool:
            self.replace_who_ended()
            return self.came_in() > before

        self.until(is_on, f"after kill of place {place}")

    def came_in(self) -> Any:
        """Messages that were received."""
        return sum(
            self.got_on[place] for place, what in enumerate(self.places) if what == self.receive
        )

    def run(self) -> dict[str, int]:
        """All of it."""
        for place in range(len(self.places)):
            self.start(place)
        for _ in range(self.kills):
            self.kill()
        self.stop[0] = 1
        self.reap(self.send)
        for what in self.places:
            if what == self.receive:
                self.sender.send_bytes(b"", timeout=self.limit)
        self.reap(self.receive)
        with contextlib.suppress(kin.Timeout):
            while True:
                self.receive_what_is_left()
        returned = np.arange(EACH)[None, :] < self.sent[: self.next_life, None]
        lost = int((returned & (self.came[: self.next_life] == 0)).sum())
        return {
            "kills": self.kills,
            "killed_receivers": self.killed_receivers,
            "returned": int(self.sent.sum()),
            "received": int((self.came != 0).sum()),
            "lost": lost,
            "torn": int(self.torn.sum()),
            "twice": int(self.twice.sum()),
            "disorder": int(self.disorder.sum()),
            "leaked": not self.is_all_free(),
        }

    def receive_what_is_left(self) -> None:
        """One of them."""
        last = np.frombuffer(self.receiver.recv_bytes(timeout=0), "u1")
        if len(last):
            self.note(last, 0, {})

    def reap(self, what: Callable[..., None]) -> None:
        """Those of one side end by themselves."""
        for place, pid in enumerate(self.pids):
            if self.places[place] == what:
                ended: list[int] = []

                def has_ended(pid: int = pid, ended: list[int] = ended) -> bool:
                    found, status = os.waitpid(pid, os.WNOHANG)
                    ended.extend([status] if found else [])
                    return bool(found)

                self.until(has_ended, f"place {place} does not end")
                if ended != [0]:
                    raise SystemExit(f"place {place} ended with {ended}")

    def is_all_free(self) -> bool:
        """Whether half of the arena can be had twice, once the dead were looked for."""
        gc.collect()
        half = self.sender.limits.max_message
        for _ in range(2):
            try:
                with (
                    self.sender.reserve(half, timeout=0),
                    self.sender.reserve(half, timeout=0),
                ):
                    raise InterruptedError
            except kin.Timeout:
                pass
            except InterruptedError:
                return True
        return False


class Acknowledged(Storm):
    """One whose receivers acknowledge, in any order, and give some back.

    Who keeps some does not wait for more: all of the arena may be what they keep.
    """

    def receive(self, place: int, life: int, dice: random.Random) -> None:
        """Receive until an empty message comes."""
        self.sender.close()
        kept: list[Any] = []
        last: dict[int, int] = {}
        while True:
            try:
                message = self.receiver.recv_message(timeout=0 if kept else None)
            except kin.Timeout:
                self.part_with(kept.pop(), dice)
                continue
            if not len(message.object):
                message.acknowledge()
                break
            self.take(message, place, last)
            kept.append(message)
            if len(kept) > dice.randrange(KEPT):
                self.part_with(kept.pop(dice.randrange(len(kept))), dice)
            self.got_on[place] += 1
        for message in kept:
            self.part_with(message, dice)

    def take(self, message: Any, place: int, last: dict[int, int]) -> None:
        """It has just come."""
        self.note(np.frombuffer(message.object, "u1"), place, last, message.redelivered)

    def part_with(self, message: Any, dice: random.Random) -> None:
        """It was kept for a while."""
        if dice.randrange(8) == 0:
            message.give_back()
        else:
            message.acknowledge()

    def receive_what_is_left(self) -> None:
        """One of them."""
        with self.receiver.recv_message(timeout=0) as message:
            if len(message.object):
                self.take(message, 0, {})


def live(what: Callable[..., None], *arguments: Any) -> NoReturn:
    """The life of a child."""
    code = 1
    try:
        what(*arguments)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


# ── the negative controls ────────────────────────────────────────────────────────────────────


class WritesAfterwards(Storm):
    """Goes on writing into what it has sent."""

    def send_one(self, life: int, number: int, dice: random.Random) -> None:
        length = max(self.sizes)
        with self.sender.reserve(_HEAD.itemsize + length) as view:
            mine = np.frombuffer(view, "u1")
            mine[:] = number & 255
            total = zlib.crc32(mine[_HEAD.itemsize :].data)
            mine[: _HEAD.itemsize].view(_HEAD)[0] = life, number, length, total
        mine[-1] ^= 1


class TakesTwice(Storm):
    """Notes a message once more."""

    def note(self, body: Any, place: int, last: dict[int, int], again: bool = False) -> int:
        super().note(body, place, last, again)
        return super().note(body, place, last, again)


class ForgetsOne(Storm):
    """Receives, and notes now and then only."""

    def note(self, body: Any, place: int, last: dict[int, int], again: bool = False) -> int:
        if self.dice.random() < 0.5:
            return super().note(body, place, last, again)
        return int(body[: _HEAD.itemsize].view(_HEAD)[0]["sum"])


class KeepsABlock(Storm):
    """Never lets go of what it has reserved."""

    def is_all_free(self) -> bool:
        with self.sender.reserve(5000, timeout=self.limit):
            return super().is_all_free()


class AcknowledgesFirst(Acknowledged):
    """And notes it a while later."""

    def take(self, message: Any, place: int, last: dict[int, int]) -> None:
        message.acknowledge()
        for _ in range(1000):
            os.sched_yield()
        super().take(message, place, last)

    def part_with(self, message: Any, dice: random.Random) -> None:
        pass


class OverlooksTheFlag(Acknowledged):
    """Takes each for the first time."""

    def note(self, body: Any, place: int, last: dict[int, int], again: bool = False) -> int:
        return super().note(body, place, last)


KINDS = {"small": Storm, "large": Storm, "acknowledged": Acknowledged}
MISTAKES = {
    "torn": WritesAfterwards,
    "twice": TakesTwice,
    "lost": ForgetsOne,
    "leaked": KeepsABlock,
    "lost, acknowledged": AcknowledgesFirst,
    "twice, acknowledged": OverlooksTheFlag,
}


def main(size: str, mistake: str, *numbers: int) -> None:
    """One line of JSON, unless somebody hangs."""
    senders, receivers, kills, seed, limit = numbers
    kind = MISTAKES[mistake] if mistake else KINDS[size]
    storm = kind(senders, receivers, size, kills, seed, limit)
    try:
        print(json.dumps(storm.run()))
    finally:
        for pid in storm.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _, chosen, wrong, *figures = sys.argv
    main(chosen, wrong, *map(int, figures))
