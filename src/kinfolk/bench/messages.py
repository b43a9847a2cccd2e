"""The messages of the data workloads, and how it is seen that they arrived.

    bytes       [ tag | filling ........................... | tag ]
    tag         4 x (number of the sender) + (number of the message mod 4)

Rules:
1. Every byte that arrives is compared with what was sent, by memcmp(3): the cheapest way to have
   read all of it.
2. Four messages take turns, so that what was left in a buffer by the one before is no message.
3. How many of each tag arrived is compared in the end with how many were sent: none is lost, none
   comes twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

#: Messages that take turns.
TURNS = 4

#: Senders with tags of their own; others share them.
_SENDERS = 63


class WrongMessage(Exception):
    """What arrived is not what was sent."""


def tag_of(sender: int, turn: int) -> int:
    """The first and the last byte."""
    return TURNS * (sender % _SENDERS) + turn


def payload(tag: int, size: int) -> bytes:
    """A message of ``size`` bytes."""
    filling = bytes(range(251))  # a prime number of them: no two pages look alike
    body = bytearray((filling * (size // len(filling) + 1))[:size])
    body[0] = body[-1] = tag
    return bytes(body)


def payloads(sender: int, size: int) -> list[bytes]:
    """The messages of one sender."""
    return [payload(tag_of(sender, turn), size) for turn in range(TURNS)]


def expected(senders: int, size: int) -> dict[int, bytes]:
    """What may arrive, by tag."""
    tags = {tag_of(sender, turn) for sender in range(senders) for turn in range(TURNS)}
    return {tag: payload(tag, size) for tag in tags}


def sent_tags(senders: int, count: int) -> Counter[int]:
    """How many of each tag are sent when each sender sends ``count``."""
    sent: Counter[int] = Counter()
    for sender in range(senders):
        for turn in range(TURNS):
            sent[tag_of(sender, turn)] += (count - turn + TURNS - 1) // TURNS
    return sent


def check_all(arrived: Iterable[Counter[int]], senders: int, count: int) -> None:
    """Raise WrongMessage unless what arrived is what was sent."""
    total = sum(arrived, Counter())
    wanted = +sent_tags(senders, count)
    if total != wanted:
        lost, extra = sum((wanted - total).values()), sum((total - wanted).values())
        raise WrongMessage(f"of {wanted.total()} messages {lost} are missing, {extra} are too many")


def wrong(data: Sequence[Any], size: int) -> WrongMessage:
    """The error for one that is not as it was sent."""
    return WrongMessage(f"a message of {size} bytes arrived with {len(data)}, or with others")
