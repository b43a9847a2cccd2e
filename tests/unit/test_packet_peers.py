"""Packet sockets: who is there, who has gone, and connections."""

from __future__ import annotations

import array
import asyncio
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.channels.packet_format import CONNECTION
from tests.unit.packets import (
    FRIENDLY,
    PATIENCE,
    SCHEMES,
    Start,
    ended_well,
    fill,
    open_descriptors,
    packet,
    send_packets,
    sock_of,
)

# ── presence and backpressure of datagrams ───────────────────────────────────────────────────


def test_the_last_sender_gone_however_it_went(fork: Start, socket_path: Path) -> None:
    address = f"unix-dgram:{socket_path}"
    receiver = kin.open_receiver(address)
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0.05)  # nobody has come yet: that is no end

    def killed() -> None:
        receiver.close()
        sender = kin.open_sender(address, timeout=PATIENCE)
        sender.send("last words")
        os.kill(os.getpid(), signal.SIGKILL)

    pid = fork(killed)
    assert receiver.recv(timeout=PATIENCE) == "last words"
    for _ in range(2):  # and it stays so
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=PATIENCE)
    os.waitpid(pid, 0)
    receiver.close()


def test_the_last_message_is_never_overtaken_by_the_end() -> None:
    """Sent and left between the look into the socket and the look who is there: the reader looks again."""
    receiver, sender = kin.channel("unix-dgram:")
    transport: Any = receiver._receiving
    real = transport._reader.next_message
    calls = 0

    def late() -> Any:
        nonlocal calls
        calls += 1
        message = real()
        if calls == 1:
            sender.send("late")
            sender.close()
        return message

    transport._reader.next_message = late
    with receiver:
        assert receiver.recv(timeout=PATIENCE) == "late"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=PATIENCE)


def test_the_last_receiver_gone(socket_path: Path) -> None:
    address = f"unix-dgram:{socket_path}"
    receiver = kin.open_receiver(address)
    with kin.open_sender(address) as sender:
        copy = receiver.clone()
        receiver.close()
        sender.send(1)
        assert copy.recv() == 1
        copy.close()
        with pytest.raises(kin.BrokenChannel):
            sender.send(2)


def test_a_sender_that_waits_learns_of_it(fork: Start) -> None:
    receiver, sender = kin.channel("unix-dgram:")

    def send() -> None:
        receiver.close()
        with pytest.raises(kin.BrokenChannel):
            sender.send_many(bytes(1000) for _ in itertools.count())

    pid = fork(send)
    sender.close()
    receiver.recv(timeout=PATIENCE)
    while not Path(f"/proc/{pid}/wchan").read_text().startswith(("do_poll", "poll_", "0")):
        time.sleep(0.001)
    receiver.close()
    assert ended_well(pid)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_waiting_for_room_costs_no_time(scheme: str, socket_path: Path) -> None:
    with kin.open_receiver(f"{scheme}:{socket_path}") as receiver:
        with kin.open_sender(f"{scheme}:{socket_path}") as sender:
            fill(sender, b"x")
            before = time.process_time()
            with pytest.raises(kin.Timeout):
                sender.send(b"x", timeout=0.5)
            assert time.process_time() - before < 0.1
            assert receiver.recv(timeout=PATIENCE) == b"x"
        assert not [message for message in receiver if message != b"x"]


def test_limits_say_how_many_datagrams_wait(socket_path: Path) -> None:
    with (
        kin.open_receiver(f"unix-dgram:{socket_path}") as receiver,
        kin.open_sender(f"unix-dgram:{socket_path}") as sender,
    ):
        assert fill(sender, b"x") == sender.limits.depth == receiver.limits.depth
        assert receiver.limits.presence


def test_raw_datagrams_have_no_presence(socket_path: Path) -> None:
    with kin.open_receiver(f"unix-dgram:{socket_path}?framing=raw") as receiver:
        assert not receiver.limits.presence
        assert not receiver.limits.empty_messages
        send_packets(str(socket_path), b"from", b"C")
        assert [receiver.recv_bytes(timeout=PATIENCE) for _ in range(2)] == [b"from", b"C"]
        with pytest.raises(kin.Timeout):
            receiver.recv_bytes(timeout=0.1)
        assert sorted(entry.name for entry in socket_path.parent.iterdir()) == ["s"]


def test_raw_sender_to_a_c_receiver(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(socket_path))
        with kin.open_sender(
            f"unix-dgram:{socket_path}", framing="raw", timeout=PATIENCE
        ) as sender:
            sender.send_bytes(b"bare")
            assert sock.recv(100) == b"bare"
            with pytest.raises(kin.MessageTooBig, match="framed"):
                sender.send_bytes(bytes(sender.limits.max_message + 1))
            sender.send_bytes(bytes(sender.limits.max_message))
            assert len(sock.recv(1 << 20)) == sender.limits.max_message
    socket_path.unlink()


def test_an_empty_packet_of_a_c_program_is_no_end() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    receiver, sender = kin.channel("unix-seqpacket:", framing="raw")
    one.close()
    other.close()
    with receiver:
        sock_of(sender).send(b"")
        sock_of(sender).send(b"more")
        sender.close()
        assert receiver.recv_bytes(timeout=PATIENCE) == b""
        assert receiver.recv_bytes(timeout=PATIENCE) == b"more"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv_bytes(timeout=PATIENCE)


# ── connections ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_clients_at_once(scheme: str, fork: Start, socket_path: Path) -> None:
    address = f"{scheme}:{socket_path}"

    def ask(number: int) -> Callable[[], object]:
        def run() -> None:
            with kin.connect(address, timeout=PATIENCE) as connection:
                for count in range(50):
                    connection.send((number, count))
                    assert connection.recv(timeout=PATIENCE) == (number, count)
                connection.send_eof()
                with pytest.raises(kin.EndOfChannel):
                    connection.recv(timeout=PATIENCE)

        return run

    async def echo(connection: kin.Connection) -> None:
        async with connection:
            async for message in connection:
                await connection.asend(message)

    async def serve(listener: kin.Listener) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(16):
                tasks.create_task(echo(await listener.aaccept(timeout=PATIENCE)))

    with kin.listen(address) as listener:
        children = [fork(ask(number)) for number in range(16)]
        asyncio.run(serve(listener))
        assert ended_well(*children)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("killed", ["client", "server"])
def test_a_killed_side_of_a_connection(
    scheme: str, killed: str, fork: Start, socket_path: Path
) -> None:
    address = f"{scheme}:{socket_path}"
    with kin.listen(address) as listener:

        def client() -> None:
            listener.close()
            with kin.connect(address, timeout=PATIENCE) as connection:
                connection.send("hello")
                os.kill(os.getpid(), signal.SIGKILL)

        def server() -> None:
            with listener.accept(timeout=PATIENCE) as connection:
                connection.send("hello")
                os.kill(os.getpid(), signal.SIGKILL)

        pid = fork(client if killed == "client" else server)
        if killed == "client":
            connection = listener.accept(timeout=PATIENCE)
        else:
            connection = kin.connect(address, timeout=PATIENCE)
        with connection:
            assert connection.recv(timeout=PATIENCE) == "hello"
            with pytest.raises(kin.EndOfChannel):
                connection.recv(timeout=PATIENCE)
            with pytest.raises(kin.BrokenChannel):
                connection.send("anybody?")
        os.waitpid(pid, 0)


def test_a_listener_of_datagrams_knows_its_clients(socket_path: Path) -> None:
    with (
        kin.listen(f"unix-dgram:{socket_path}") as listener,
        kin.connect(f"unix-dgram:{socket_path}") as client,
        listener.accept(timeout=PATIENCE) as connection,
    ):
        assert connection.peer == (os.getpid(), os.getuid(), os.getgid())
        assert client.peer is None  # the kernel says nothing of it


def test_what_is_no_connection_is_refused(socket_path: Path) -> None:
    before = open_descriptors()
    address = f"unix-dgram:{socket_path}"
    pipe = os.pipe()
    streams = socket.socketpair()
    datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    stream, datagram = streams[0].fileno(), datagrams[0].fileno()
    file = os.open("/dev/null", os.O_RDONLY)
    with kin.listen(address) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(str(socket_path))
        hello = packet(CONNECTION, b"", riding=3)
        for fds in (
            [stream, *pipe],  # no datagram socket
            [datagram, pipe[1], pipe[0]],  # the wrong ends
            [datagram, pipe[0], file],  # no pipe
        ):
            sock.sendmsg([hello], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        sock.send(packet(CONNECTION, b""))
        sock.send(FRIENDLY)
        sock.send(b"garbage")
        with kin.connect(address) as client, listener.accept(timeout=PATIENCE) as connection:
            client.send("after all that")
            assert connection.recv(timeout=PATIENCE) == "after all that"
        assert listener._transport.refused == 6
    for one in (*streams, *datagrams):
        one.close()
    for fd in (*pipe, file):
        os.close(fd)
    assert open_descriptors() == before


def test_a_receiver_takes_no_connection(socket_path: Path) -> None:
    address = f"unix-dgram:{socket_path}"
    with kin.open_receiver(address) as receiver, kin.connect(address) as connection:
        with pytest.raises(kin.EndOfChannel):  # somebody came, and left without a message
            receiver.recv(timeout=PATIENCE)
        assert receiver.statistics().dropped == 1
        with pytest.raises(kin.EndOfChannel):
            connection.recv(timeout=PATIENCE)


def test_bare_datagrams_make_no_connection(socket_path: Path) -> None:
    for opening in (kin.listen, kin.connect):
        with pytest.raises(kin.Unsupported, match="unix-seqpacket"):
            opening(f"unix-dgram:{socket_path}?framing=raw")
