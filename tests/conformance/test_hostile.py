"""Peers that are not ours: each piece of garbage is one typed error, takes no memory, leaks nothing, and hurts nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import tracemalloc
from collections.abc import Iterator

import numpy  # noqa: F401 - what decodes an array would else load it
import pytest

import kinfolk as kin
from kinfolk.channels import memfd
from kinfolk.channels.address import parse
from kinfolk.channels.framing import pid_namespace
from tests.conformance.fixtures import main_ways, only
from tests.conformance.garbage import (
    FRAMING,
    MAKERS,
    NOTHING,
    Garbage,
    Stranger,
    bare_socket,
    chunk,
    connected,
    packet,
    tables,
    where,
)
from tests.conformance.link import Link
from tests.conformance.mechanisms import Variant
from tests.conformance.peers import HANG, open_descriptors, resident, thread_of, until_blocked

#: More than the library takes for what it was sent here, however large the promises in it.
MEMORY = 4 << 20


def survives(variant: Variant) -> bool:
    """Whether the receiver finds the next message behind garbage, or has other senders."""
    return variant.scheme not in ("unix", "tcp") or variant.way == "named"


def framing_of(variant: Variant) -> str:
    return FRAMING[variant.scheme]


shared = only(lambda variant: variant.main and survives(variant))
sockets_by_name = only(
    lambda variant: (
        variant.main
        and variant.way == "named"
        and variant.scheme in ("unix", "unix-seqpacket", "unix-dgram", "tcp")
    )
)


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
                if survives(link.variant):
                    assert open_descriptors() <= descriptors + 1  # the connection of the honest
                else:
                    link.renew()
                    receiver, sender = ends_of(link)


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


@shared
def test_a_flood_from_a_process_among_honest_ones(link: Link):
    """A thousand mutations beside numbered messages: every error is typed, and all numbers arrive in order."""
    how, count = framing_of(link.variant), 1000
    receiver, sender = ends_of(link)
    streams = link.variant.scheme in ("unix", "tcp")

    def hostile(voice):
        receiver.close()
        stranger = Stranger(link, sender)
        sender.close()
        for data in mutations(how, count):
            if streams:  # one connection for each: it is closed at the first wrong byte
                stranger.close()
                stranger = Stranger(link, sender)
            stranger.write_patiently(data)
        stranger.close()

    def honest():
        for number in range(300):
            sender.send(["honest", number], timeout=HANG)
        peer.result()
        sender.send("the last", timeout=HANG)

    peer = link.peers.fork(hostile)
    descriptors = open_descriptors()
    numbers, wrong = [], 0
    with bounded_memory(), thread_of(honest) as call:
        while True:
            try:
                thing = receiver.recv(timeout=HANG)
            except (kin.CorruptChannel, kin.DecodeError):
                wrong += 1
                continue
            if thing == "the last":
                break
            if isinstance(thing, list) and thing[:1] == ["honest"]:
                numbers.append(thing[1])
        call.result()
    assert numbers == list(range(300))
    assert wrong > count // 4
    assert open_descriptors() <= descriptors


@only(lambda variant: variant.main and framing_of(variant) == "packed chunks")
def test_beginnings_without_end_are_bounded(link: Link):
    """A live process that begins one message after the other: not a descriptor and not a page for each."""
    receiver, sender = ends_of(link)
    descriptors, errors = open_descriptors(), 0
    with Stranger(link, sender) as stranger, bounded_memory():
        for number in range(6000):
            stranger.write(chunk(b"x", 1, total=1 << 30, nonce=pid_namespace() << 16 | number))
            try:
                receiver.recv(timeout=0)
            except kin.Timeout:
                pass
            except kin.CorruptChannel:
                errors += 1
        assert open_descriptors() <= descriptors + 2
        assert errors
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
    before = open_descriptors()
    try:
        for data, riding in wrong:
            with Stranger(link, sender) as stranger:
                stranger.write(data, riding)
                judge(receiver, kin.CorruptChannel)
            assert open_descriptors() <= before
            if not survives(link.variant):
                break
            sender.send("after")
            assert receiver.recv(timeout=HANG) == "after"
            before = max(before, open_descriptors())
    finally:
        for fd in (unsealed, sealed, reading, writing):
            os.close(fd)


# ── hostile listeners and clients ────────────────────────────────────────────────────────────


@contextlib.contextmanager
def hostile_listener(link: Link) -> Iterator[socket.socket]:
    """A bare socket at the address of a link."""
    scheme, name = link.variant.scheme, parse(link.address).name
    with bare_socket(scheme) as sock:
        sock.bind(where(scheme, name))
        if scheme != "unix-dgram":
            sock.listen(5)
        try:
            yield sock
        finally:
            if scheme != "tcp":
                os.unlink(name)


connecting = only(
    lambda variant: variant.way == "caller" and variant.scheme in ("unix", "unix-seqpacket", "tcp")
)


@connecting
@pytest.mark.parametrize("does", ["garbage", "leaves", "leaves at once", "says nothing", "half"])
def test_a_hostile_listener(link: Link, does):
    before = open_descriptors()
    how = framing_of(link.variant)
    with hostile_listener(link) as sock:
        connection = kin.connect(link.address, timeout=HANG)
        bare, _ = sock.accept()
        with connection, bare, bounded_memory():
            match does:
                case "garbage":
                    bare.send(bytes(100))
                    judge(connection, kin.CorruptChannel)
                case "half":
                    bare.send(MAKERS[how](b"12345")[:-2])
                    bare.close()
                    packets = how == "packets"
                    judge(connection, kin.CorruptChannel if packets else kin.EndOfChannel)
                case "leaves":
                    with thread_of(connection.recv) as call:
                        until_blocked(connection)
                        bare.close()
                        assert isinstance(call.raised(), kin.EndOfChannel)
                case "leaves at once":
                    bare.close()
                    judge(connection, kin.EndOfChannel)
                    with pytest.raises(kin.BrokenChannel):
                        for _ in range(1000):
                            connection.send(bytes(1000), timeout=HANG)
                case "says nothing":
                    judge(connection, kin.Timeout)
                    with pytest.raises(kin.Timeout):  # it does not read either
                        for _ in range(100_000):
                            connection.send_bytes(bytes(10_000), timeout=0.05)
    assert open_descriptors() <= before


@connecting
def test_a_listener_that_never_accepts(link: Link):
    """The kernel answers for it, or its backlog is full: a timeout holds in either case, and nothing leaks."""
    if link.variant.scheme == "tcp":
        return  # a full backlog there drops what comes: connecting goes on until its own timeout
    before = open_descriptors()
    with hostile_listener(link) as sock:
        sock.listen(0)
        connections, timeouts = [], 0
        for _ in range(4):
            try:
                connections.append(kin.connect(link.address, timeout=0.02))
            except kin.Timeout:
                timeouts += 1
        for connection in connections:
            judge(connection, kin.Timeout)
            connection.close()
        assert timeouts
    assert open_descriptors() <= before


@sockets_by_name
def test_strangers_at_the_door(link: Link):
    """Who connects and says nothing, half a word, or garbage, one after the other, keeps nobody out."""
    receiver, sender = ends_of(link)
    sender.send("first")
    assert receiver.recv(timeout=HANG) == "first"
    before = open_descriptors()
    silent = [connected(link.variant.scheme, parse(link.address).name) for _ in range(30)]
    errors = 0
    try:
        for number, sock in enumerate(silent):
            if number % 3:
                sock.send(b"k" * (1 if number % 3 == 1 else 100))
        sender.send("second")
        while True:
            try:
                assert receiver.recv(timeout=HANG) == "second"
                break
            except kin.CorruptChannel:
                errors += 1
    finally:
        for sock in silent:
            sock.close()
    sender.send("third")
    while True:
        try:
            assert receiver.recv(timeout=HANG) == "third"
            break
        except kin.CorruptChannel:
            errors += 1
    assert errors >= 10
    with contextlib.suppress(kin.Timeout, kin.CorruptChannel):
        receiver.recv(timeout=0)
    assert open_descriptors() <= before


@only(lambda variant: variant.way == "listener")
def test_strangers_at_a_listener(link: Link):
    """Each gets a connection of its own to spoil; for datagrams, where a stranger has none, it is refused."""
    scheme = link.variant.scheme
    with kin.listen(link.address, timeout=HANG) as listener:
        before = open_descriptors()
        for said in (b"", b"k", bytes(100)):
            with connected(scheme, parse(link.address).name) as stranger:
                if said or scheme != "unix-dgram":
                    stranger.send(said)
                if scheme == "unix-dgram":
                    with pytest.raises(kin.Timeout):
                        listener.accept(timeout=0)
                    continue
                with listener.accept(timeout=HANG) as spoilt:
                    stranger.close()
                    with pytest.raises((kin.CorruptChannel, kin.EndOfChannel)):
                        spoilt.recv(timeout=HANG)
        assert open_descriptors() <= before
        with thread_of(kin.connect, link.address, timeout=HANG) as call:
            with listener.accept(timeout=HANG) as good, call.result() as client:
                client.send("hello")
                assert good.recv(timeout=HANG) == "hello"
