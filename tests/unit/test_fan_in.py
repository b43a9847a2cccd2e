"""A receiver over many connections."""

from __future__ import annotations

import asyncio
import socket

import pytest

import kinfolk as kin
from tests.conformance.peers import (
    HANG,
    thread_of,
)
from tests.unit.streams import no_more_descriptors

# -------------------------------------------------------------------------------- many senders


def test_a_hostile_sender_breaks_its_own_connection_only(socket_path):
    address = f"unix:{socket_path}"
    with kin.open_receiver(address) as receiver, kin.open_sender(address, timeout=HANG) as good:
        good.send("before")
        assert receiver.recv(timeout=HANG) == "before"
        with socket.socket(socket.AF_UNIX) as bad:
            bad.connect(str(socket_path))
            bad.sendall(b"x" * 100)
            with pytest.raises(kin.CorruptChannel):
                receiver.recv(timeout=HANG)
            bad.settimeout(HANG)
            assert bad.recv(1) == b"", "the connection is still open"
        good.send("after")
        assert receiver.recv(timeout=HANG) == "after"


def test_who_says_nothing_is_no_sender(socket_path):
    """A probe that connects and goes must not end the channel."""
    address = f"unix:{socket_path}"
    with kin.open_receiver(address) as receiver:
        for said in (b"", b"k", b"rubbish" * 10):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(socket_path))
                stranger.sendall(said)
            with pytest.raises((kin.Timeout, kin.CorruptChannel)):
                receiver.recv(timeout=0.01)
        kin.open_sender(address, timeout=HANG).close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_the_end_opens_the_way_for_the_next_receiver(socket_path):
    address = f"unix:{socket_path}"
    with kin.open_receiver(address) as first:
        with kin.open_sender(address, timeout=HANG) as sender:
            sender.send(1)
            assert first.recv(timeout=HANG) == 1
        with pytest.raises(kin.EndOfChannel):
            first.recv(timeout=HANG)
        assert not socket_path.exists()
        with pytest.raises(kin.Timeout):
            kin.open_sender(address, timeout=0.01)
        with kin.open_receiver(address) as second:
            with kin.open_sender(address, timeout=HANG) as sender:
                sender.send(2)
            assert list(second) == [2]
        with pytest.raises(kin.EndOfChannel):
            first.recv(timeout=HANG)


def test_who_slips_in_before_the_end_is_received(socket_path):
    """No sender whose send returned is forgotten, however close to the end it came."""
    address = f"unix:{socket_path}"
    for _ in range(30):
        with kin.open_receiver(address) as receiver:
            kin.open_sender(address, timeout=HANG).close()

            def slip_in() -> bool:
                try:
                    with kin.open_sender(address, timeout=0.05) as late:
                        late.send("late")
                        return True
                except (kin.Timeout, kin.BrokenChannel):
                    return False

            with thread_of(slip_in) as call:
                received = list(receiver)
                assert received == (["late"] if call.result() else [])


def test_senders_are_served_in_turn(socket_path):
    address = f"unix:{socket_path}"
    with kin.open_receiver(address) as receiver:
        senders = [kin.open_sender(address, timeout=HANG) for _ in range(4)]
        for number, sender in enumerate(senders):
            sender.send_many([number] * 50)
        for number in range(4):
            senders[number].close()
        order = list(receiver)
        assert sorted(order) == [number for number in range(4) for _ in range(50)]
        assert len(set(order[:40])) == 4, "one sender was heard to its end before the others"


def test_no_descriptor_left_for_a_connection(socket_path):
    address = f"unix:{socket_path}"
    with kin.open_receiver(address) as receiver, kin.open_sender(address, timeout=HANG) as first:
        first.send(1)
        assert receiver.recv(timeout=HANG) == 1
        with kin.open_sender(address, timeout=HANG) as second:
            second.send(2)
            with no_more_descriptors():
                for _ in range(3):
                    with pytest.raises(kin.LimitReached, match="ulimit"):
                        receiver.recv(timeout=HANG)
                first.send(3)  # who is in is heard all the same
                assert receiver.recv(timeout=HANG) == 3
            assert receiver.recv(timeout=HANG) == 2


def test_what_was_read_ahead_of_an_error_is_not_forgotten(socket_path):
    address = f"unix:{socket_path}"
    with kin.open_receiver(address) as receiver, kin.open_sender(address, timeout=HANG) as sender:
        sender.send("in")
        assert receiver.recv(timeout=HANG) == "in"
        sender.send("before")
        sender.send_fds(b"with", [0, 0])
        with no_more_descriptors():
            assert receiver.recv(timeout=HANG) == "before"
            with pytest.raises(kin.LimitReached):
                receiver.recv_fds(timeout=HANG)
        sender.send("after")
        assert receiver.recv(timeout=HANG) == "after"


def test_no_descriptor_left_for_the_listener(socket_path):
    address = f"unix:{socket_path}"
    with kin.listen(address) as listener, kin.connect(address, timeout=HANG) as caller:
        with no_more_descriptors():
            for _ in range(3):
                with pytest.raises(kin.LimitReached):
                    listener.accept(timeout=HANG)
        with listener.accept(timeout=HANG) as connection:
            caller.send(1)
            assert connection.recv(timeout=HANG) == 1


def test_many_senders_on_asyncio(socket_path):
    address = f"unix:{socket_path}"

    async def send(number: int) -> None:
        async with await kin.aopen_sender(address, timeout=HANG) as sender:
            for step in range(20):
                await sender.asend((number, step, bytes(step * 1000)))

    async def main() -> list[tuple[int, int]]:
        with kin.open_receiver(address) as receiver:
            async with asyncio.TaskGroup() as group:
                for number in range(8):
                    group.create_task(send(number))
                return [(number, step) async for number, step, _ in receiver]

    received = asyncio.run(main())
    assert sorted(received) == [(number, step) for number in range(8) for step in range(20)]
    for number in range(8):
        assert [step for who, step in received if who == number] == list(range(20))


# ------------------------------------------------------------------------------ one bad message


def test_what_was_committed_behind_a_bad_packet_is_delivered(socket_path):
    """Each packet stands on its own: one that is too large costs nobody anything else."""
    address = f"unix-seqpacket:{socket_path}"
    with kin.open_receiver(address, max_message=1000) as receiver:
        with kin.open_sender(address, timeout=HANG) as sender:
            sender.send_bytes(bytes(5000))
            sender.send("good")
        with pytest.raises(kin.CorruptChannel, match=r"5000 bytes.*limit is 1000"):
            receiver.recv(timeout=HANG)
        assert receiver.recv(timeout=HANG) == "good"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


@pytest.mark.parametrize("scheme", ["unix", "unix-seqpacket"])
def test_a_sender_of_nothing_but_a_bad_message_has_come_and_gone(scheme, socket_path):
    """A connection, which does not announce itself as `open_sender` does."""
    address = f"{scheme}:{socket_path}"
    with kin.open_receiver(address, max_message=1000) as receiver:
        with kin.connect(address, timeout=HANG) as sender:
            sender.send_bytes(bytes(5000))
        with pytest.raises(kin.CorruptChannel):
            receiver.recv(timeout=HANG)
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
