"""A listener that is not ours, and strangers at our door: nobody is kept out, nothing hangs, nothing is left."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

import kinfolk as kin
from kinfolk.channels.address import parse
from tests.conformance.fixtures import only
from tests.conformance.garbage import FRAMING, MAKERS, bare_socket, connected, where
from tests.conformance.link import Link
from tests.conformance.peers import HANG, open_descriptors, thread_of, until_blocked
from tests.conformance.test_hostile import (
    CONNECTED,
    bounded_memory,
    ends_of,
    judge,
    received,
)

sockets_by_name = only(
    lambda variant: (
        variant.main and variant.way == "named" and variant.scheme in (*CONNECTED, "unix-dgram")
    )
)


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


def send_on(connection, timeout: float) -> None:
    for _ in range(100_000):
        connection.send_bytes(bytes(10_000), timeout=timeout)


connecting = only(lambda variant: variant.way == "caller" and variant.scheme in CONNECTED)


@connecting
@pytest.mark.parametrize("does", ["garbage", "leaves", "leaves at once", "says nothing", "half"])
def test_a_hostile_listener(link: Link, does):
    before = open_descriptors()
    how = FRAMING[link.variant.scheme]
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
                        send_on(connection, HANG)
                case "says nothing":
                    judge(connection, kin.Timeout)
                    with pytest.raises(kin.Timeout):  # it does not read either
                        send_on(connection, 0.05)
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
    strangers = [connected(link.variant.scheme, parse(link.address).name) for _ in range(9)]
    try:
        for number, sock in enumerate(strangers):
            if number % 3:
                sock.send(b"k" * (1 if number % 3 == 1 else 100))
        sender.send("second")
        wrong = received(receiver, until="second")[1] + received(receiver)[1]
        assert wrong >= 3
    finally:
        for sock in strangers:
            sock.close()
    sender.send("third")
    received(receiver, until="third")
    received(receiver)
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
