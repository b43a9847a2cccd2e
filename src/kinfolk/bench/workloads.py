"""Which cases a run has: the suites, and what is asked of each.

    data       round trips and streams, over sizes and shapes; arrays
    start-up   what the first message costs, from the import on
    scale      what a message, an end, a channel, a segment costs as there are more
    one-core   round trips with both ends on one CPU
    batches    streams with one call for each message, and with one for a hundred, on both sides
    in-place   arrays beside one copy of them; large messages that are built where they are read
    idle       the CPU that an end takes which waits
    locks      our locks beside others, also when their holder is killed; events and conditions
    processes  kin.spawn beside other ways, from small and large parents

A new suite is one line in `SUITES`, and its cases in a file of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kinfolk.bench import (
    bare_slots,
    growth_cases,
    lock_cases,
    memory_copies,
    start_cases,
    waking_cases,
)
from kinfolk.bench.cases import Case
from kinfolk.bench.results import About
from kinfolk.bench.sizes import Shape, parse_size
from kinfolk.bench.subject import Subject

#: What the project's table shows.
DEFAULT_SIZES = (48, 4 << 10, 1 << 20)

#: Everything from one byte to 64 MiB.
ALL_SIZES = (
    1,
    48,
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    8 << 20,
    64 << 20,
)

DEFAULT_SHAPES = (Shape(1, 1),)
ALL_SHAPES = (Shape(1, 1), Shape(4, 1), Shape(1, 4), Shape(4, 4))

#: Bytes of a message, from which arrays are worth a case of their own.
_ARRAYS_FROM = 64 << 10

#: Bytes of arrays that are held against one copy of them, and of messages that are not copied.
_COPIED_SIZES = (1 << 20, 8 << 20)
_HANDED_SIZES = (8 << 20, 64 << 20)

#: Bytes up to which shapes are compared: with large messages they are all bound by memory.
_SHAPES_UP_TO = 64 << 10


class Wish(NamedTuple):
    """What is to be measured."""

    sizes: Sequence[int] = DEFAULT_SIZES
    shapes: Sequence[Shape] = DEFAULT_SHAPES


def data(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """Round trips, streams, arrays."""
    for size in wish.sizes:
        for subject in subjects:
            yield Case("round trip", subject.name, size)
    for shape in wish.shapes:
        for size in wish.sizes:
            if shape == (1, 1) or size <= _SHAPES_UP_TO:
                for subject in subjects:
                    yield Case("stream", subject.name, size, *shape)
    for size in wish.sizes:
        if size >= _ARRAYS_FROM:
            for subject in subjects:
                if subject.objects:
                    yield Case("arrays", subject.name, size)


def one_core(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """Round trips, where nobody can spin while the other one works."""
    for subject in subjects:
        yield Case("one core", subject.name, min(wish.sizes))


def batches(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """What a call costs, and what is saved by moving several with one."""
    for workload in ("one by one", "batches"):
        for subject in subjects:
            yield Case(workload, subject.name, min(wish.sizes))


def in_place(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """Copied once, or not at all."""
    for size in _COPIED_SIZES:
        yield memory_copies.case(size)
        yield Case("arrays", bare_slots.NAME, size)
        for subject in subjects:
            if subject.objects:
                yield Case("arrays", subject.name, size)
    for size in _HANDED_SIZES:
        for subject in subjects:
            if subject.in_place:
                yield Case("hand-over", subject.name, size)


def idle(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """An end that waits."""
    for subject in subjects:
        yield Case("idle", subject.name, min(wish.sizes))


def start_up(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """The first message."""
    for subject in subjects:
        yield Case("start-up", subject.name, min(wish.sizes))


def parse_sizes(text: str | None) -> Sequence[int]:
    """Sizes with commas between; ``all`` of them. Raises InvalidValue."""
    if text is None:
        return DEFAULT_SIZES
    return ALL_SIZES if text == "all" else [parse_size(word) for word in text.split(",")]


def parse_shapes(text: str | None) -> Sequence[Shape]:
    """Shapes with commas between; ``all`` of them. Raises InvalidValue."""
    if text is None:
        return DEFAULT_SHAPES
    return ALL_SHAPES if text == "all" else [Shape.parse(word) for word in text.split(",")]


def scale(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """Messages, ends, channels, segments."""
    many = [subject for subject in subjects if subject.many_senders and subject.family == "kinfolk"]
    yield from growth_cases.cases([subject.name for subject in many])


def locks(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """Our locks, and what else locks between processes; what wakes them."""
    yield from lock_cases.cases()
    yield from waking_cases.cases()


def processes(subjects: Sequence[Subject], wish: Wish) -> Iterator[Case]:
    """kin.spawn, and what else starts processes."""
    return start_cases.cases()


class Suite(NamedTuple):
    """What can be asked for by --suite."""

    cases: Callable[[Sequence[Subject], Wish], Iterator[Case]]
    #: subjects of its own
    about: tuple[About, ...] = ()


SUITES = {
    "data": Suite(data),
    "start-up": Suite(start_up),
    "scale": Suite(scale, growth_cases.ABOUT),
    "one-core": Suite(one_core),
    "batches": Suite(batches),
    "in-place": Suite(in_place, memory_copies.ABOUT + bare_slots.ABOUT),
    "idle": Suite(idle),
    "locks": Suite(locks, lock_cases.ABOUT + waking_cases.ABOUT),
    "processes": Suite(processes, start_cases.ABOUT),
}
