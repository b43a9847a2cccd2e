"""The loops whose time is taken: as few steps as can be between two calls of what is measured.

Rules:
1. A loop knows nothing of processes: it gets calls, messages and a clock, and a test gives it such
   as it knows.
2. Every call that is made in each turn is a local name; whatever else is done in a turn, is done
   for all subjects alike.
3. What arrives is compared within the loop: who does not read what it gets, measures nothing.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from kinfolk.bench.messages import WrongMessage, wrong

Clock = Callable[[], int]
Send = Callable[[Any], object]
Take = Callable[[], Any]
TakeMany = Callable[[], Sequence[Any]]
SendMany = Callable[[Sequence[Any]], object]

#: Messages of a call, where batches are measured: a whole number of turns.
BATCH = 100

#: Nanoseconds, the same for all processes; `time.perf_counter_ns` is the same clock on Linux.
CLOCK: Clock = time.monotonic_ns


def ask(
    send: Send, take: Take, messages: Sequence[bytes], count: int, clock: Clock = CLOCK
) -> array[int]:
    """Send a message and wait for its answer, so often; the time of each in ns."""
    size = len(messages[0])
    times = array("Q", bytes(8 * count))
    for number, message in zip(range(count), cycle(messages), strict=False):
        before = clock()
        send(message)
        answer = take()
        times[number] = clock() - before
        if differs(answer, message):
            raise wrong(answer, size)
    return times


def answer(send: Send, take: Take, count: int) -> None:
    """Send back what comes, so often."""
    for _ in range(count):
        send(take())


def send_all(send: Send, messages: Sequence[Any], count: int) -> None:
    """Send so many, in turns."""
    for message in islice(cycle(messages), count):
        send(message)


def send_batches(
    send_many: SendMany, messages: Sequence[Any], count: int, batch: int = BATCH
) -> None:
    """Send so many, in turns, ``batch`` of them with each call."""
    full = list(islice(cycle(messages), batch))  # a batch is a whole number of turns
    for _ in range(count // batch):
        send_many(full)
    if rest := count % batch:
        send_many(full[:rest])


def take_in_turn(take: Take, messages: Sequence[bytes], total: int) -> None:
    """Take so many of one sender, one with each call. What the first one is, all are."""
    turns = islice(cycle(messages), total)
    size = len(messages[0])
    first = take()
    if differs(first, next(turns)):
        raise wrong(first, size)
    if type(first) is bytes:
        for message in turns:
            if (data := take()) != message:
                raise wrong(data, size)
    else:
        for message in turns:
            if differs(data := take(), message):
                raise wrong(data, size)


def differs(data: Any, message: bytes) -> bool:
    """Whether bytes, or a view of some (which `==` compares item by item), are not the message."""
    return len(data) != len(message) or not message.startswith(data)


def take_counted(
    take: Take, take_many: TakeMany | None, wanted: Mapping[int, bytes], total: int
) -> Counter[int]:
    """Take so many of several senders; how many of each tag."""
    tags = array("Q", bytes(8 * 256))
    size = len(next(iter(wanted.values())))
    got = 0
    if take_many is None:
        for _ in range(total):
            data = take()
            tag = data[0]
            if len(data) != size or not wanted[tag].startswith(data):
                raise wrong(data, size)
            tags[tag] += 1
        return _counted(tags)
    while got < total:
        batch = take_many()
        for data in batch:
            tag = data[0]
            if len(data) != size or not wanted[tag].startswith(data):
                raise wrong(data, size)
            tags[tag] += 1
        got += len(batch)
    if got > total:
        raise WrongMessage(f"{got - total} messages more than were sent")
    return _counted(tags)


def take_batches(take_many: TakeMany, messages: Sequence[bytes], total: int) -> None:
    """Take so many of one sender, as many with a call as it gives, and compare these with one call:
    looked at one by one, each would cost more than it does.
    """
    turns = len(messages)
    stretch: list[bytes] = list(islice(cycle(messages), turns))
    got = 0
    while got < total:
        batch = take_many()
        if len(batch) + turns > len(stretch):
            stretch = list(islice(cycle(messages), len(batch) + turns))
        first = got % turns
        if batch != stretch[first : first + len(batch)]:
            raise WrongMessage(f"a batch of {len(batch)} messages arrived otherwise than sent")
        got += len(batch)
    if got > total:
        raise WrongMessage(f"{got - total} messages more than were sent")


def take_shared(
    take: Take,
    wanted: Mapping[int, bytes],
    enough: Callable[[int], bool],
    clock: Clock = CLOCK,
) -> tuple[Counter[int], int]:
    """Take what comes, beside other receivers, until ``enough`` says so of how many were taken; and
    when the last one came.

    ``enough`` is asked when an empty-handed message (of tag 255) comes, which is not counted: see
    `kinfolk.bench.streams`.
    """
    tags = array("Q", bytes(8 * 256))
    size = len(next(iter(wanted.values())))
    got, last = 0, clock()
    while True:
        data = take()
        tag = data[0]
        if tag == STOP:
            if enough(got):
                return _counted(tags), last
            continue
        if len(data) != size or not wanted[tag].startswith(data):
            raise wrong(data, size)
        tags[tag] += 1
        got += 1
        last = clock()


#: The tag that no sender has.
STOP = 255


def _counted(tags: Sequence[int]) -> Counter[int]:
    return Counter({tag: number for tag, number in enumerate(tags) if number})


def take_arrays(
    take: Take, read: Callable[[Any], object], messages: Sequence[Any], total: int
) -> None:
    """Take arrays of one sender, and read all of each: to compare it would be to read another one
    of the same size with it.
    """
    wanted = [read(message) for message in messages]
    for number in islice(cycle(range(len(messages))), total):
        array = take()
        if read(array) != wanted[number]:
            raise wrong(array, len(messages[number]))
