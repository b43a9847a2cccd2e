"""Stream sockets that were forked: one process reads, one writes."""

from __future__ import annotations

import os
import signal

import pytest

import kinfolk as kin
from tests.conformance.peers import (
    HANG,
    Peers,
    until,
)
from tests.unit.streams import LARGE

# -------------------------------------------------------------------------------------- forks


def test_a_forked_copy_that_writes_raises(peers: Peers):
    a, b = kin.pair("unix:")
    with a, b:
        a.send(1)

        def write(voice):
            a.send(2)

        with pytest.raises(AssertionError, match=f"Busy.*process {os.getpid()}"):
            peers.fork(write).result()
        a.send(3)
        assert [b.recv(timeout=HANG), b.recv(timeout=HANG)] == [1, 3]


def test_a_forked_copy_that_reads_raises(peers: Peers):
    a, b = kin.pair("unix:")
    with a, b:
        a.send(1)
        assert b.recv(timeout=HANG) == 1

        def read(voice):
            b.recv(timeout=1)

        with pytest.raises(AssertionError, match=r"Busy.*another process receives"):
            peers.fork(read).result()


def test_a_forked_copy_goes_on_where_the_other_never_wrote(peers: Peers):
    a, b = kin.pair("unix:")
    with a, b:

        def write(voice):
            b.close()
            a.send_many([1, bytes(LARGE), 2])

        writer = peers.fork(write)
        assert b.recv(timeout=HANG) == 1
        assert len(b.recv(timeout=HANG)) == LARGE
        assert b.recv(timeout=HANG) == 2
        writer.result()
        a.send(3)
        assert b.recv(timeout=HANG) == 3


def test_a_copy_does_not_write_into_half_a_message(peers: Peers):
    """Its writer was killed in the middle of a message: a copy that went on would complete it with its own."""
    a, b = kin.pair("unix:")
    with a, b:

        def write(voice):
            a.send_bytes(b"w" * LARGE)

        writer = peers.fork(write)
        until(lambda: b.statistics().depth, "some of it sent")
        writer.until_asleep()
        writer.kill()
        with pytest.raises(kin.BrokenChannel, match="middle of a message"):
            a.send_bytes(b"x" * LARGE)
        a.close()
        with pytest.raises(kin.EndOfChannel):
            b.recv_bytes(timeout=HANG)


def test_a_copy_of_an_end_that_had_read_ahead_is_refused(peers: Peers):
    a, b = kin.pair("unix:")
    with a:
        a.send_many([1, 2])
        assert b.recv(timeout=HANG) == 1  # and the other was read ahead

        def read(voice):
            voice.hear()
            b.recv(timeout=1)

        copy = peers.fork(read)
        b.close()
        copy.say()
        with pytest.raises(AssertionError, match=r"ForkedCopy.*read ahead"):
            copy.result()


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_after_a_killed_receiver_no_copy_goes_on(scheme, peers: Peers):
    """Nobody knows what it had read ahead: messages would be missing, or begin in their middle."""
    receiver, sender = kin.channel(f"{scheme}:")
    with receiver, sender:

        def receive(voice):
            voice.say(receiver.recv(timeout=HANG))
            signal.pause()

        first = peers.fork(receive)
        sender.send_many(range(100))
        assert first.hear() == 0
        first.kill()
        for _ in range(2):
            with pytest.raises(kin.ForkedCopy, match="may have read ahead"):
                receiver.recv(timeout=HANG)


def test_a_copy_goes_on_after_a_receiver_that_closed(peers: Peers):
    receiver, sender = kin.channel("unix:")
    with receiver, sender:

        def receive(voice):
            with receiver:
                voice.say(receiver.recv(timeout=HANG))

        first = peers.fork(receive)
        sender.send(1)
        assert first.hear() == 1
        first.result()
        sender.send(2)
        assert receiver.recv(timeout=HANG) == 2


def test_two_ends_of_one_process_do_not_share_a_stream():
    receiver, sender = kin.channel("unix:")
    second = sender.clone()
    with receiver, second:
        with sender:
            sender.send(1)
            with pytest.raises(kin.Busy, match="another end sends here"):
                second.send(2)
        second.send(3)
        assert [receiver.recv(timeout=HANG), receiver.recv(timeout=HANG)] == [1, 3]


def test_a_forked_receiver_of_many_has_an_epoll_of_its_own(socket_path, peers: Peers):
    address = f"unix:{socket_path}"
    receiver = kin.open_receiver(address)

    def receive(voice):
        voice.say([receiver.recv(timeout=HANG) for _ in range(2)])
        receiver.close()

    child = peers.fork(receive)
    with kin.open_sender(address, timeout=HANG) as sender:
        sender.send_many([1, 2])
        assert child.hear() == [1, 2]
        child.result()
        with kin.open_sender(address, timeout=HANG) as other:
            other.send(3)
            assert receiver.recv(timeout=HANG) == 3
        assert socket_path.exists()
    receiver.close()
