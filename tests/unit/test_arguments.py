"""Arguments that make no sense, and errors that say their address once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG
from tests.unit.packets import fill

MECHANISMS = ["pipe:", "unix:", "unix-seqpacket:", "unix-dgram:", "mq:", "sysv-mq:", "tcp:"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda a: a.send_fds(b"x", ["a"]), r"\['a'\] is no list of descriptors"),
        (lambda a: a.send_fds(b"x", 1), "1 is no list of descriptors"),
        (lambda a: a.send_fds(b"x", [-1]), r"\[-1\] is no list of descriptors"),
        (lambda a: a.send_fds(b"x", [2**40]), "is no list of descriptors"),
        (lambda a: a.send_fds(b"x", [1.5]), "is no list of descriptors"),
        (lambda a: a.send(1, priority="high"), "priority='high' makes no sense"),
        (lambda a: a.send_many(5), "an int is one|a int is one"),
        (lambda a: a.recv_many("a"), r"recv_many\('a'\)"),
        (lambda a: a.recv_many(1.5), r"recv_many\(1.5\)"),
    ],
)
def test_an_argument_of_another_type_is_said_to_be_one(
    call: Callable[[kin.Connection], object], says: str
) -> None:
    a, b = kin.pair("unix:")
    with a, b:
        with pytest.raises(kin.InvalidValue, match=says) as caught:
            call(a)
        assert caught.value.remedy
        a.send("whole")
        assert b.recv(timeout=HANG) == "whole"


def test_what_the_senders_own_iterator_raises_is_his() -> None:
    def objects() -> Any:
        yield 1
        raise TypeError("mine")

    a, b = kin.pair("unix:")
    with a, b:
        with pytest.raises(TypeError, match="mine"):
            a.send_many(objects())
        assert b.recv(timeout=HANG) == 1


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_timeout_says_its_address_once(mechanism: str) -> None:
    receiver, sender = kin.channel(mechanism)
    with receiver, sender:
        with pytest.raises(kin.Timeout) as receiving:
            receiver.recv(timeout=0)
        fill(sender, bytes(4000))
        with pytest.raises(kin.Timeout) as sending:
            sender.send_bytes(bytes(4000), timeout=0)
        name = sender.address.removesuffix(":")
        assert str(receiving.value).count(name) == str(sending.value).count(name) == 1


@pytest.mark.parametrize("mechanism", ["unix-seqpacket:", "unix-dgram:", "unix:", "tcp:"])
def test_sending_that_was_ended_is_closed(mechanism: str) -> None:
    a, b = kin.pair(mechanism)
    with a, b:
        a.send("last")
        a.send_eof()
        for obj in (1, bytes(1 << 20)):
            with pytest.raises(kin.Closed, match="send_eof"):
                a.send(obj, timeout=HANG)
        assert b.recv(timeout=HANG) == "last"
        with pytest.raises(kin.EndOfChannel):
            b.recv(timeout=HANG)
        b.send("back")
        assert a.recv(timeout=HANG) == "back"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_closed_end_can_t_end_sending(mechanism: str) -> None:
    a, b = kin.pair(mechanism)
    a.close()
    b.close()
    with pytest.raises(kin.Closed):
        a.send_eof()
