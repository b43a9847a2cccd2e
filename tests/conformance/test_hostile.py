"""Peers that are not ours: each piece of garbage is one typed error, takes no memory, leaks nothing, and hurts nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy  # noqa: F401 - what decodes an array would else load it
import pytest

import kinfolk as kin
from kinfolk import memfd
from kinfolk.channels.framing import MOST_PARTIALS, pid_namespace
from tests.conformance.fixtures import main_ways, only
from tests.conformance.garbage import (
    FRAMING,
    MAKERS,
    NOTHING,
    Garbage,
    Stranger,
    chunk,
    packet,
    tables,
)
from tests.conformance.link import Link
from tests.conformance.mechanisms import Variant
from tests.conformance.peers import HANG, open_descriptors, resident, thread_of

#: Sockets that are connected: each stranger has one of his own to spoil.
CONNECTED = ("unix", "unix-seqpacket", "tcp")

#: More than the library takes for what it was sent here, however large the promises in it.
MEMORY = 4 << 20


def survives(variant: Variant) -> bool:
    """Whether the receiver finds the next message behind garbage, or has other senders."""
    return variant.scheme not in ("unix", "tcp") or variant.way == "named"


def framing_of(variant: Variant) -> str:
    return FRAMING[variant.scheme]


shared = only(lambda variant: variant.main and survives(variant))


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails when what is allocated meanwhile, at any moment, is more than garbage is worth."""
    before = resident()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY, f"{peak} bytes at once"
    assert resident() - before < 8 * MEMORY


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Names the garbage of a failure."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"garbage: {what}")
        raise


def ends_of(link: Link):
    """Receiver and sender without pickles: what strangers send is not loaded, whoever they are."""
    if link.variant.scheme != "tcp":
        link.options["codec"] = "msgpack"
    return link.both()


def judge(receiver, result: type[kin.KinfolkError]) -> None:
    """The receiver gets exactly this."""
    with pytest.raises(kin.KinfolkError) as caught:
        receiver.recv(timeout=0.01 if result is NOTHING else HANG)
    assert type(caught.value) is result, caught.value
    assert caught.value.subject or result is NOTHING


@main_ways
def test_garbage_is_one_error_and_the_honest_go_on(link: Link):
    receiver, sender = ends_of(link)
    descriptors = open_descriptors()
    with bounded_memory():
        for garbage in tables(framing_of(link.variant)):
            with about(garbage.what):
                if "long body" in garbage.what and "one" in link.variant.id:
                    continue  # here it is a promise that may be kept
                give(link, receiver, sender, garbage)
                if not survives(link.variant):
                    link.renew()
                    receiver, sender = ends_of(link)
    assert open_descriptors() <= descriptors + 1  # the connection of the honest


def give(link: Link, receiver, sender, garbage: Garbage) -> None:
    with Stranger(link, sender) as stranger:
        for data in garbage.writes:
            stranger.write(data)
        judge(receiver, garbage.result)
    if survives(link.variant):
        sender.send(["after", garbage.what], timeout=HANG)
        assert receiver.recv(timeout=HANG) == ["after", garbage.what]
    elif garbage.result is kin.CorruptChannel and not garbage.framed:
        judge(receiver, kin.CorruptChannel)  # and it stays so


@main_ways
def test_garbage_for_tasks(link: Link):
    receiver, sender = ends_of(link)

    async def body():
        for garbage in tables(framing_of(link.variant))[:4]:
            task = asyncio.create_task(receiver.arecv(timeout=HANG))
            while not receiver.statistics().waits:
                await asyncio.sleep(0)
            with Stranger(link, sender) as stranger:
                for data in garbage.writes:
                    stranger.write(data)
                if garbage.result is not NOTHING:
                    with pytest.raises(garbage.result):
                        await task
            if garbage.result is NOTHING or not survives(link.variant):
                task.cancel()
                break
            await sender.asend("after")
            assert await receiver.arecv(timeout=HANG) == "after"

    asyncio.run(body())


# ── floods ───────────────────────────────────────────────────────────────────────────────────


def mutations(how: str, count: int) -> Iterator[bytes]:
    """Messages with some bytes changed, cut off or doubled, and noise; the same in every run."""
    dice = random.Random(how)
    make = MAKERS[how]
    for _ in range(count):
        data = bytearray(make(dice.randbytes(dice.randrange(60)), kind=dice.choice([0, 2, 3, 130])))
        for _ in range(dice.randrange(1, 4)):
            place = dice.randrange(len(data))
            match dice.randrange(4):
                case 0:
                    data[place] ^= 1 << dice.randrange(8)
                case 1:
                    data[place : place + 8] = b"\xff" * len(data[place : place + 8])
                case 2:
                    del data[place + 1 :]
                case 3:
                    data += dice.randbytes(dice.randrange(200))
        yield bytes(data)


def received(receiver, until: object = None) -> tuple[list[Any], int]:
    """What comes, up to one message or until there is nothing, and how often it was garbage."""
    things: list[Any] = []
    wrong = 0
    while True:
        try:
            things.append(receiver.recv(timeout=HANG if until else 0.02))
        except (kin.CorruptChannel, kin.DecodeError):
            wrong += 1
        except kin.Timeout:
            assert not until, f"{until!r} does not come"
            return things, wrong
        if until and things and things[-1] == until:
            return things, wrong


def is_honest(thing: object) -> bool:
    return isinstance(thing, list) and thing[:1] == ["honest"]


@shared
def test_a_flood_from_a_process_among_honest_ones(link: Link):
    """A thousand mutations beside numbered messages: every error is typed, and all numbers arrive in order."""
    how, count = framing_of(link.variant), 1000
    receiver, sender = ends_of(link)
    connects = link.variant.way == "named" and link.variant.scheme in CONNECTED

    def hostile(voice):
        receiver.close()
        stranger = Stranger(link, sender)
        sender.close()
        for data in mutations(how, count):
            if connects:  # one connection for each: it is closed at the first wrong byte
                stranger.close()
                stranger = Stranger(link, sender)
            stranger.write_patiently(data)
        stranger.close()

    def honest():
        for number in range(300):
            sender.send(["honest", number], timeout=HANG)
        peer.result()
        sender.send("the last", timeout=HANG)

    sender.send("before")  # so that its connection is in
    assert receiver.recv(timeout=HANG) == "before"
    peer = link.peers.fork(hostile)
    descriptors = open_descriptors()
    with bounded_memory(), thread_of(honest) as call:
        things, wrong = received(receiver, until="the last")
        call.result()
        wrong += received(receiver)[1]
    assert [thing[1] for thing in things if is_honest(thing)] == list(range(300))
    assert wrong > count // 10
    assert open_descriptors() <= descriptors


@only(lambda variant: variant.main and framing_of(variant) == "packed chunks")
def test_beginnings_without_end_are_bounded(link: Link):
    """A live process that begins one message after the other: not a descriptor and not a page for each."""
    receiver, sender = ends_of(link)
    descriptors, wrong = open_descriptors(), 0
    before = resident()
    with Stranger(link, sender) as stranger:
        for number in range(MOST_PARTIALS + 100):
            stranger.write(chunk(b"x", 1, total=1 << 30, nonce=pid_namespace() << 16 | number))
            try:
                receiver.recv(timeout=0)
            except kin.Timeout:
                pass
            except kin.CorruptChannel:
                wrong += 1
        assert open_descriptors() <= descriptors + 2
        assert wrong
        assert resident() - before < MEMORY
        sender.send("after")
        assert receiver.recv(timeout=HANG) == "after"


# ── descriptors that ride on garbage ─────────────────────────────────────────────────────────


@only(lambda variant: variant.main and variant.scheme.startswith("unix"))
def test_descriptors_on_garbage_are_closed(link: Link):
    receiver, sender = ends_of(link)
    unsealed = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(unsealed, 100)
    sealed = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(sealed, 100)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, memfd.SEALS)
    reading, writing = os.pipe()
    packets = framing_of(link.variant) == "packets"
    wrong = [
        (b"garbage" * 9, [0, 1, 2]),
        (packet(flags=1, size=100), [unsealed]),
        (packet(flags=1, size=101), [sealed]),
        (packet(flags=1, size=1 << 20), [sealed]),
        (packet(flags=1, size=0), [sealed]),
        (packet(flags=1, size=100), [reading]),
        (packet(flags=1, size=100), []),
        (packet(flags=1, size=100), [sealed, writing]),
        (packet(b"x", riding=2), [writing]),
        (packet(b"x"), [writing] * 253),
    ]
    sender.send("before")  # so that its connection is in
    assert receiver.recv(timeout=HANG) == "before"
    before = open_descriptors()
    try:
        for data, riding in wrong:
            with Stranger(link, sender) as stranger:
                stranger.write(data if packets else data.ljust(40), riding)
                judge(receiver, kin.CorruptChannel)
            # That the stranger has left with its connection is seen by the next look.
            with contextlib.suppress(kin.Timeout, kin.CorruptChannel):
                receiver.recv(timeout=0)
            assert open_descriptors() <= before
            if not survives(link.variant):
                break
            sender.send("after")
            assert receiver.recv(timeout=HANG) == "after"
    finally:
        for fd in (unsealed, sealed, reading, writing):
            os.close(fd)
