"""Descriptors over Unix stream sockets, and what hostile peers send instead."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.ancillary import MOST_DESCRIPTORS
from kinfolk.channels.framing import FIRST, HEADER, LAST, MAX_CHUNK
from tests.conformance.peers import (
    HANG,
    Peers,
    open_descriptors,
    resident,
    thread_of,
    until,
)
from tests.unit.streams import LARGE, against, header, no_more_descriptors

# ------------------------------------------------------------------------------- descriptors


@pytest.mark.parametrize("size", [0, 1, 40_000, LARGE])
@pytest.mark.parametrize("count", [1, MOST_DESCRIPTORS])
def test_descriptors_arrive_with_their_message(size, count):
    before = open_descriptors()
    a, b = kin.pair("unix:")
    with a, b:
        reading, writing = os.pipe()
        with thread_of(a.send_fds, bytes(size), [writing] * count, timeout=HANG) as call:
            body, fds = b.recv_fds(timeout=HANG)
            call.result()
        assert (len(body), len(fds)) == (size, count)
        assert not any(map(os.get_inheritable, fds))
        os.write(fds[-1], b"through")
        assert os.read(reading, 10) == b"through"
        for fd in (reading, writing, *fds):
            os.close(fd)
    assert open_descriptors() == before


def test_each_message_has_its_own_descriptors(short_directory):
    """Many in a row, some read ahead together, some without."""
    before = open_descriptors()
    a, b = kin.pair("unix:")
    with a, b:
        inodes = []
        for number in range(60):
            if number % 3:
                path = short_directory / str(number)
                with open(path, "wb") as file:
                    a.send_fds(b"%d" % number, [file.fileno()] * (number % 5 + 1))
                inodes.append((path.stat().st_ino, number % 5 + 1))
            else:
                a.send_bytes(b"%d" % number)
                inodes.append((0, 0))
        for number, (inode, count) in enumerate(inodes):
            body, fds = b.recv_fds(timeout=HANG)
            assert int(body) == number
            assert [os.fstat(fd).st_ino for fd in fds] == [inode] * count
            for fd in fds:
                os.close(fd)
    assert open_descriptors() == before


@pytest.mark.parametrize("size", [0, LARGE])
def test_more_descriptors_than_the_kernel_takes_are_refused(size: int):
    a, b = kin.pair("unix:")
    with a, b:
        with pytest.raises(kin.MessageTooBig, match=r"254 descriptors.*253.*several messages"):
            a.send_fds(bytes(size), [0] * (MOST_DESCRIPTORS + 1))
        a.send(1)
        assert b.recv(timeout=HANG) == 1


@pytest.mark.parametrize("how", ["unread", "unwanted", "given up", "killed"])
def test_descriptors_of_messages_that_nobody_gets_are_closed(how, peers: Peers):
    before = open_descriptors()
    a, b = kin.pair("unix:")
    reading, writing = os.pipe()
    if how == "unread":
        a.send_fds(b"", [writing])
        a.send_fds(b"", [writing])
        os.close(
            b.recv_fds(timeout=HANG)[1][0]
        )  # the other was not read from the socket, or is ahead
    elif how == "unwanted":
        a.send_fds(b"", [writing])
        with pytest.raises(kin.UsageError, match="recv_fds"):
            b.recv(timeout=HANG)
    elif how == "given up":
        with pytest.raises(kin.Timeout):
            a.send_fds(bytes(LARGE), [writing], timeout=0.01)
        with thread_of(a.send, "next", timeout=HANG):
            assert b.recv(timeout=HANG) == "next"
    else:

        def send(voice):
            b.close()
            a.send_fds(bytes(LARGE), [writing])

        sender = peers.fork(send)
        a.close()
        until(lambda: b.statistics().depth, "some of it sent")
        sender.until_asleep()
        sender.kill()
        with pytest.raises(kin.EndOfChannel):
            b.recv(timeout=HANG)
    os.close(writing)
    a.close()
    b.close()
    assert os.read(reading, 1) == b"", "a copy of the descriptor is still open"
    os.close(reading)
    peers.end()
    assert open_descriptors() == before


def test_descriptors_that_do_not_fit_are_said_to_be_lost():
    a, b = kin.pair("unix:")
    with a, b:
        a.send_fds(b"with", [0, 0, 0])
        a.send("after")
        with no_more_descriptors():
            with pytest.raises(
                kin.LimitReached, match=r"descriptors of a message were lost.*ulimit"
            ):
                b.recv_fds(timeout=HANG)
        assert b.recv(timeout=HANG) == "after"
        before = open_descriptors()
    assert open_descriptors() == before - 2


def test_raw_bytes_may_carry_descriptors():
    with against(framing="raw") as (near, bare):
        reading, writing = os.pipe()
        socket.send_fds(bare, [b"bytes"], [writing])
        body, fds = near.recv_fds(timeout=HANG)
        assert (body, len(fds)) == (b"bytes", 1)
        near.send_fds(b"back", fds)
        body, more, _, _ = socket.recv_fds(bare, 10, 10)
        assert (body, len(more)) == (b"back", 1)
        for fd in (reading, writing, *fds, *more):
            os.close(fd)


# ---------------------------------------------------------------------------- hostile peers


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(bytes(100), id="zeros"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="http"),
        pytest.param(header(length=5, total=2**63), id="2**63"),
        pytest.param(header(length=2**32 - 1, total=2**40), id="long chunk"),
        pytest.param(header(length=MAX_CHUNK + 1, total=MAX_CHUNK + 1), id="chunk above the limit"),
        pytest.param(header(length=9, total=5), id="more than promised"),
        pytest.param(header(length=1, total=9) + b"x", id="less than promised"),
        pytest.param(header(FIRST, total=2**30) + header(LAST, total=5), id="changing its mind"),
        pytest.param(header(flags=0xF0, length=0), id="unknown flags"),
        pytest.param(header(flags=FIRST | LAST | 8), id="descriptors that never came"),
    ],
)
def test_garbage_is_a_clear_error_and_stays_one(garbage):
    before = resident()
    with against() as (near, bare):
        bare.sendall(garbage)
        for _ in range(3):
            with pytest.raises(kin.CorruptChannel):
                near.recv(timeout=HANG)
    assert resident() - before < 64 << 20


@pytest.mark.parametrize("cut", [1, HEADER.size - 1, HEADER.size, HEADER.size + 1])
def test_a_frame_that_breaks_off_is_no_message(cut):
    with against() as (near, bare):
        bare.sendall((header(length=10) + b"x" * 10)[:cut])
        bare.close()
        with pytest.raises(kin.EndOfChannel):
            near.recv(timeout=HANG)


def test_promises_take_no_memory():
    """Many beginnings of messages of 1 GiB: memory grows with what came."""
    before = resident()
    with against() as (near, bare):
        for number in range(200):
            bare.sendall(header(FIRST, length=1, total=1 << 30, sender=number) + b"x")
            with pytest.raises(kin.Timeout):
                near.recv(timeout=0)
        assert resident() - before < 64 << 20
        bare.sendall(header(length=2) + b"ok")
        assert near.recv_bytes(timeout=HANG) == b"ok"
        assert near.statistics().dropped == 200


def test_unasked_descriptors_are_not_hoarded():
    before = open_descriptors()
    with against() as (near, bare):
        opened = open_descriptors()
        bare.sendall(header(length=1000))
        for _ in range(999):  # with each byte of a body
            socket.send_fds(bare, [b"x"], [0])
            with pytest.raises(kin.Timeout):
                near.recv(timeout=0)
        assert open_descriptors() <= opened + 1
        bare.sendall(b"x")
        assert near.recv_bytes(timeout=HANG) == b"x" * 1000
        for _ in range(20):  # and with each byte of a header
            socket.send_fds(bare, [b"k"], [0] * 50)
        with pytest.raises(kin.CorruptChannel):
            near.recv(timeout=HANG)
        assert open_descriptors() <= opened + 1
    assert open_descriptors() == before


def test_other_control_messages_mean_nothing():
    with against() as (near, bare):
        credentials = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
        bare.sendmsg(
            [header(length=2) + b"ok"],
            [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)],
        )
        assert near.recv_bytes(timeout=HANG) == b"ok"


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("size", [0, 200_000])
def test_a_wrong_descriptor_leaves_the_connection_whole(size):
    """Nothing of the message went out, so nothing stands against the next one."""
    a, b = kin.pair("unix:")
    with a, b:
        wrong = os.dup(0)
        os.close(wrong)
        for _ in range(2):
            with pytest.raises(kin.KernelError, match="Bad file descriptor"):
                a.send_fds(bytes(size), [wrong], timeout=HANG)
        a.send("next")
        assert b.recv(timeout=HANG) == "next"
        assert b.statistics().dropped == 0
        with a.clone() as second:  # who takes over finds the stream whole, too
            a.close()
            second.send("more")
            assert b.recv(timeout=HANG) == "more"


class RefusesOnce:
    """A socket whose kernel has no memory for the second write: no test can bring the real one there."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._writes = sock, 0

    def sendmsg(self, *arguments):
        self._writes += 1
        if self._writes == 2:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return self._sock.sendmsg(*arguments)

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_a_message_refused_in_the_middle_is_taken_back():
    a, b = kin.pair("unix:")
    with a, b:
        sending: Any = a._sending
        sending._sock = RefusesOnce(sending._sock)
        with thread_of(b.recv, timeout=HANG) as call:
            with pytest.raises(kin.LimitReached):
                a.send_bytes(bytes(LARGE), timeout=HANG)
            a.send("next", timeout=HANG)
            assert call.result() == "next"
        assert b.statistics().dropped == 1
        with a.clone() as second:  # who takes over finds the stream whole, too
            a.close()
            second.send("more")
            assert b.recv(timeout=HANG) == "more"


@pytest.mark.parametrize("mechanism", ["unix:", "tcp:"])
def test_a_gone_peer_is_the_reason_every_time(mechanism):
    a, b = kin.pair(mechanism)
    with a:
        b.send("before")
        b.close()
        for size in (LARGE, LARGE, 1, 0):
            with pytest.raises(kin.BrokenChannel, match=r"Broken pipe|reset") as caught:
                a.send_many([bytes(size)] * 1000, timeout=HANG)  # TCP learns by sending
            assert "interrupted" not in str(caught.value)
        assert a.recv(timeout=HANG) == "before"
