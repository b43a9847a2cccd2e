"""What is special about seqpacket and datagram sockets; the common contract is tests/conformance."""

from __future__ import annotations

import itertools
import json
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import select
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.ancillary import MOST_DESCRIPTORS
from kinfolk.channels import packet_limits
from tests.unit.packets import (
    PATIENCE,
    SCHEMES,
    Start,
    ended_well,
    fill,
    open_descriptors,
    sock_of,
)
from tests.unit.streams import no_more_descriptors

# ── descriptors ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", SCHEMES)
def test_as_many_descriptors_as_can_ride_arrive_and_none_leaks(scheme: str) -> None:
    before = open_descriptors()
    receiver, sender = kin.channel(f"{scheme}:")
    with receiver, sender:
        sender.send_fds(b"many", [0] * MOST_DESCRIPTORS)
        # Asked for wrongly, they wait.
        for ask in (
            receiver.recv,
            receiver.recv_bytes,
            lambda: receiver.recv_bytes_into(bytearray(1)),
        ):
            with pytest.raises(kin.UsageError, match="carries 253 descriptors"):
                ask()
        data, fds = receiver.recv_fds(timeout=PATIENCE)
        assert data == b"many"
        assert len(set(fds)) == MOST_DESCRIPTORS
        assert all(os.path.sameopenfile(fd, 0) and not os.get_inheritable(fd) for fd in fds)
        for fd in fds:
            os.close(fd)
        with pytest.raises(kin.MessageTooBig, match="254 descriptors can't ride"):
            sender.send_fds(b"more", [0] * (MOST_DESCRIPTORS + 1))
    assert open_descriptors() == before


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_memory_of_a_large_message_is_not_counted_among_them(scheme: str) -> None:
    receiver, sender = kin.channel(f"{scheme}:")
    body = os.urandom(1 << 20)
    with receiver, sender:
        sender.send_fds(body, [0, 1])
        data, fds = receiver.recv_fds(timeout=PATIENCE)
        assert data == body
        assert [os.path.sameopenfile(fd, old) for fd, old in zip(fds, (0, 1), strict=True)]
        for fd in fds:
            os.close(fd)
        with pytest.raises(kin.MessageTooBig, match="takes one of them"):
            sender.send_fds(body, [0] * MOST_DESCRIPTORS)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_descriptors_of_messages_that_nobody_took_are_closed(scheme: str) -> None:
    before = open_descriptors()
    receiver, sender = kin.channel(f"{scheme}:")
    reading, writing = os.pipe()
    sender.send_fds(b"held", [writing])
    sender.send_fds(b"in the socket", [writing])
    os.close(writing)
    with pytest.raises(kin.UsageError):
        receiver.recv()
    sender.close()
    receiver.close()
    assert os.read(reading, 1) == b""  # nobody has the write end any more
    os.close(reading)
    assert open_descriptors() == before


# ── large messages ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", SCHEMES)
def test_memory_in_flight_is_bounded(scheme: str) -> None:
    receiver, sender = kin.channel(f"{scheme}:")
    with receiver, sender:
        assert 1 <= fill(sender, bytes(1 << 20)) <= packet_limits.LARGE_SHARE
        assert receiver.recv_bytes() == bytes(1 << 20)


def test_copies_that_race_are_bounded_by_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may all have found the buffer drained at once; then the kernel stops them."""
    receiver, sender = kin.channel("unix-seqpacket:")
    monkeypatch.setattr(type(sender._sending), "_is_drained", lambda _: True)
    with receiver, sender:
        assert fill(sender, bytes(1 << 20)) <= packet_limits.LARGE_SHARE


def test_without_padding_it_would_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a hundred times a gigabyte could wait in one socket."""
    monkeypatch.setattr("kinfolk.channels.packet_transport.LARGE_SHARE", 1 << 30)
    monkeypatch.setattr(packet_limits, "LARGE_SHARE", 1 << 30)
    receiver, sender = kin.channel("unix-seqpacket:")
    monkeypatch.setattr(type(sender._sending), "_is_drained", lambda _: True)
    with receiver, sender:
        assert fill(sender, bytes(1 << 20)) > 4 * 8


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_large_message_that_times_out_is_not_delivered(scheme: str) -> None:
    receiver, sender = kin.channel(f"{scheme}:")
    with receiver, sender:
        count = fill(sender, b"x" * 100_000)
        before = open_descriptors()
        with pytest.raises(kin.Timeout):
            sender.send_bytes(b"y" * (1 << 20), timeout=0.05)
        assert open_descriptors() == before
        assert [receiver.recv_bytes()[:1] for _ in range(count)] == [b"x"] * count
        sender.send_bytes(b"z" * (1 << 20))
        assert receiver.recv_bytes()[:1] == b"z"


def test_fragmented_memory_sends_a_long_packet_the_other_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receiver, sender = kin.channel("unix-seqpacket:")

    class Fragmented:
        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def sendmsg(self, pieces: list[bytes], *rest: Any) -> int:
            if sum(map(len, pieces)) > 1 << 16:
                raise OSError(105, "No buffer space available")
            return self.real.sendmsg(pieces, *rest)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    with receiver, sender:
        monkeypatch.setattr(sender._sending, "_socket", Fragmented(sock_of(sender)))
        sender.send_bytes(bytes(150_000))
        assert receiver.recv_bytes(timeout=PATIENCE) == bytes(150_000)


# ── several receivers ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_message_goes_to_exactly_one_of_several_receivers(
    scheme: str, name: bool, fork: Start, socket_path: Path, tmp_path: Path
) -> None:
    if name and scheme == "unix-seqpacket":
        pytest.skip("a receiver over many connections is in one process at a time")
    receiver, sender = kin.channel(f"{scheme}:{socket_path if name else ''}")
    assert receiver.limits.receivers == "many"

    def take(number: int) -> Callable[[], object]:
        def run() -> None:
            sender.close()
            with receiver:
                (tmp_path / str(number)).write_text(json.dumps(list(receiver)))

        return run

    children = [fork(take(number)) for number in range(4)]
    receiver.close()
    sender.send_many(range(2000))
    sender.close()
    assert ended_well(*children)
    shares = [json.loads((tmp_path / str(number)).read_text()) for number in range(4)]
    assert sorted(itertools.chain(*shares)) == list(range(2000))
    assert all(share == sorted(share) for share in shares)


# ── names ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_stale_name_is_replaced_and_a_live_one_is_not(
    scheme: str, fork: Start, short_directory: Path
) -> None:
    address = f"{scheme}:{short_directory}/s"

    def die() -> None:
        kin.open_receiver(address)
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(fork(die), 0)
    assert stat.S_ISSOCK((short_directory / "s").stat().st_mode)
    with kin.open_receiver(address, mode=0o640) as receiver:
        assert stat.S_IMODE((short_directory / "s").stat().st_mode) == 0o640
        with pytest.raises(kin.Busy):
            kin.open_receiver(address)
        with pytest.raises(kin.Busy):
            kin.listen(address)
        with kin.open_sender(address, timeout=PATIENCE) as sender:
            sender.send("there")
            assert receiver.recv(timeout=PATIENCE) == "there"
    assert not list(short_directory.iterdir())


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("abstract", [False, True])
def test_a_sender_waits_for_its_receiver(
    scheme: str, abstract: bool, fork: Start, socket_path: Path, unique_name: str
) -> None:
    address = f"{scheme}:@{unique_name}" if abstract else f"{scheme}:{socket_path}"
    with pytest.raises(kin.Timeout):
        kin.open_sender(address, timeout=0.05)

    def send() -> None:
        with kin.open_sender(address, timeout=PATIENCE) as sender:
            sender.send("came late")

    pid = fork(send)
    time.sleep(0.05)  # so that it waits; right without it, too
    with kin.open_receiver(address) as receiver:
        assert list(receiver) == ["came late"]
    assert ended_well(pid)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_sender_that_says_nothing_has_come_and_gone(scheme: str, socket_path: Path) -> None:
    with kin.open_receiver(f"{scheme}:{socket_path}") as receiver:
        kin.open_sender(f"{scheme}:{socket_path}").close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=PATIENCE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_processes_send_to_a_name(scheme: str, fork: Start, socket_path: Path) -> None:
    address = f"{scheme}:{socket_path}"
    receiver = kin.open_receiver(address)

    def send(number: int) -> Callable[[], object]:
        def run() -> None:
            receiver.close()
            with kin.open_sender(address, timeout=PATIENCE) as sender:
                sender.send_many((number, count) for count in range(300))
                sender.send((number, "x" * 300_000))

        return run

    children = [fork(send(number)) for number in range(8)]
    got = list(receiver)
    receiver.close()
    assert ended_well(*children)
    for number in range(8):
        mine = [what for sender, what in got if sender == number]
        assert mine == [*range(300), "x" * 300_000]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_options_that_make_no_sense(scheme: str, socket_path: Path) -> None:
    with pytest.raises(kin.Unsupported):
        kin.open_receiver(f"{scheme}:{socket_path}?lifetime=name")
    with pytest.raises(kin.AddressError):
        kin.open_receiver(f"{scheme}:@{socket_path.name}?mode=0600")
    with pytest.raises((kin.AddressError, kin.Unsupported)):
        kin.pair(f"{scheme}:{socket_path}")
    with pytest.raises(kin.LimitReached, match="wmem_max"):
        kin.channel(f"{scheme}:", capacity="1G")
    with pytest.raises(kin.LimitReached, match="wmem_max"):
        kin.open_receiver(f"{scheme}:{socket_path}", capacity="1G")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_capacity_is_what_was_asked_for(scheme: str) -> None:
    receiver, sender = kin.channel(f"{scheme}:", capacity="8K")
    with receiver, sender:
        assert sender.limits.capacity == 2 * 8192
        assert fill(sender, bytes(2000)) < 10
        assert receiver.recv_bytes() == bytes(2000)
        sender.close()
        list(receiver)


# ── copies ───────────────────────────────────────────────────────────────────────────────────


def _send_three(sender: kin.Sender) -> None:
    with sender:
        sender.send_many([1, 2, bytes(300_000)])


@pytest.mark.parametrize("name", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_end_can_be_passed_to_a_child(scheme: str, name: bool, socket_path: Path) -> None:
    receiver, sender = kin.channel(f"{scheme}:{socket_path if name else ''}")
    with receiver:
        process = multiprocessing.get_context("forkserver").Process(
            target=_send_three, args=(sender,)
        )
        process.start()
        sender.close()
        assert list(receiver) == [1, 2, bytes(300_000)]
        process.join()
    # What multiprocessing keeps for later is no leak.
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    assert process.exitcode == 0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_clone_counts_until_it_is_closed(scheme: str, socket_path: Path) -> None:
    receiver = kin.open_receiver(f"{scheme}:{socket_path}")
    sender = kin.open_sender(f"{scheme}:{socket_path}")
    second = sender.clone()
    sender.close()
    second.send(1)
    assert receiver.recv(timeout=PATIENCE) == 1
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0.05)
    second.close()
    with pytest.raises(kin.EndOfChannel):
        receiver.recv(timeout=PATIENCE)
    receiver.close()


def test_a_clone_that_closes_leaves_the_presence_to_the_others(socket_path: Path) -> None:
    receiver = kin.open_receiver(f"unix-dgram:{socket_path}")
    receiver.clone().close()
    with kin.open_sender(f"unix-dgram:{socket_path}", timeout=PATIENCE) as sender:
        sender.send(1)
    assert list(receiver) == [1]
    receiver.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_unlink_takes_the_name_and_nothing_else(scheme: str, short_directory: Path) -> None:
    address = f"{scheme}:{short_directory}/s"
    receiver = kin.open_receiver(address)
    with receiver, kin.open_sender(address) as sender:
        receiver.unlink()
        assert not (short_directory / "s").exists()
        sender.send("still")
        assert receiver.recv(timeout=PATIENCE) == "still"


@pytest.mark.parametrize("left", [0, 1])
def test_a_connection_without_descriptors_for_both_ways_waits(left: int, socket_path: Path) -> None:
    """What its client has committed is not lost to a moment's shortage."""
    address = f"unix-seqpacket:{socket_path}"
    with kin.listen(address) as listener, kin.connect(address, timeout=PATIENCE) as client:
        client.send("committed")
        spare = [os.dup(0) for _ in range(left)]
        with no_more_descriptors():
            for fd in spare:
                os.close(fd)
            for _ in range(3):
                with pytest.raises(kin.LimitReached, match="ulimit"):
                    listener.accept(timeout=PATIENCE)
        with select.epoll() as epoll:
            epoll.register(listener.fileno(), select.EPOLLIN)
            assert epoll.poll(0), "nobody is told that a connection waits"
        before = open_descriptors()
        with listener.accept(timeout=PATIENCE) as connection:
            assert connection.recv(timeout=PATIENCE) == "committed"
            connection.send("back")
            assert client.recv(timeout=PATIENCE) == "back"
            assert connection.peer is not None
            assert not any(
                map(os.get_inheritable, (connection.fileno(), sock_of(connection).fileno()))
            )
        assert open_descriptors() == before
