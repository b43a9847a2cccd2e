"""What is particular to TCP: names, ports, no pickles, connections that were lost."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import threading

import pytest

import kinfolk as kin
from kinfolk.channels import tcp
from tests.conformance.peers import (
    HANG,
    Peers,
    open_descriptors,
    socket_of,
    thread_of,
    until,
    until_blocked,
)


@pytest.fixture
def port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        return int(asking.getsockname()[1])


def sent_before_full(end: kin.Connection, data: bytes) -> int:
    """How many messages went out before one was given up."""
    count = 0
    try:
        while True:
            end.send_bytes(data, timeout=0.001)
            count += 1
    except kin.Timeout:
        return count


def has_six() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as asking:
            asking.bind(("::1", 0))
    except OSError:
        return False
    return True


# ----------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1",
        "7000",
        "127.0.0.1:",
        ":7000",
        "[::1]",
        "::1:7000",
        "h:65536",
        "h:-1",
        "h:7x",
        "[]:1",
    ],
)
def test_what_is_no_host_and_port(name):
    with pytest.raises(kin.AddressError, match=r"no host and port.*tcp:\[::1\]:7000"):
        kin.listen(f"tcp:{name}")


def test_port_0_becomes_a_number():
    with kin.listen("tcp:127.0.0.1:0") as listener:
        host, _, number = listener.address.rpartition(":")
        assert host == "tcp:127.0.0.1"
        assert int(number) > 0
        with kin.connect(listener.address, timeout=HANG) as near, listener.accept() as far:
            near.send([1])
            assert far.recv(timeout=HANG) == [1]


@pytest.mark.skipif(not has_six(), reason="this machine has no IPv6 loopback")
def test_ipv6_stands_in_brackets():
    with kin.listen("tcp:[::1]:0") as listener:
        assert listener.address.startswith("tcp:[::1]:")
        with kin.connect(listener.address, timeout=HANG) as near, listener.accept():
            assert near.peer is None


def test_names_are_resolved():
    with kin.listen("tcp:localhost:0") as listener:
        kin.connect(f"tcp:localhost:{listener.address.rpartition(':')[2]}", timeout=HANG).close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70, "a..b"])
def test_a_name_that_is_none_is_a_clear_error(host):
    before = open_descriptors()
    for opening in (kin.connect, kin.listen):
        with pytest.raises(kin.AddressError, match=r"can't be found.*check the name"):
            opening(f"tcp:{host}:7000", timeout=HANG)
    assert open_descriptors() == before


def test_a_resolver_that_hangs_is_left_in_time(monkeypatch):
    before = open_descriptors()
    hanging = threading.Event()
    ended = threading.Event()

    def hang(host, port, flags):
        if flags:
            raise socket.gaierror
        hanging.wait(HANG)
        ended.set()
        raise OSError

    monkeypatch.setattr(tcp, "_look_up", hang)
    with pytest.raises(kin.Timeout):
        kin.connect("tcp:slow:7000", timeout=0.01)
    hanging.set()
    assert ended.wait(HANG)
    assert open_descriptors() == before


def test_a_port_in_use_is_busy():
    with kin.listen("tcp:127.0.0.1:0") as listener:
        with pytest.raises(kin.Busy, match=r"somebody listens.*ss -tlp"):
            kin.listen(listener.address)


def test_an_address_of_another_machine():
    with pytest.raises(kin.AddressError, match=r"no such network address.*0\.0\.0\.0"):
        kin.listen("tcp:192.0.2.1:0")


def test_a_receiver_needs_a_port():
    with pytest.raises(kin.AddressError, match=r"kin\.listen"):
        kin.open_receiver("tcp:127.0.0.1:0")


# --------------------------------------------------------------------------------- connecting


@pytest.mark.parametrize("opening", [kin.connect, kin.open_sender])
def test_a_listener_is_waited_for(port, opening):
    with pytest.raises(kin.Timeout):
        opening(f"tcp:127.0.0.1:{port}", timeout=0.01)
    with thread_of(opening, f"tcp:127.0.0.1:{port}", timeout=HANG) as call:
        with kin.listen(f"tcp:127.0.0.1:{port}") as listener, listener.accept(timeout=HANG):
            call.result().close()


@pytest.mark.parametrize("opening", [kin.connect, kin.open_sender])
def test_who_tries_once_may_succeed(port, opening):
    with kin.listen(f"tcp:127.0.0.1:{port}"):
        opened = []

        def attempt():
            with contextlib.suppress(kin.Timeout):  # a busy machine may answer later than at once
                opened.append(opening(f"tcp:127.0.0.1:{port}", timeout=0))
            return opened

        until(attempt, "connected without waiting")
        opened[0].close()
    with pytest.raises(kin.Timeout):
        opening(f"tcp:127.0.0.1:{port}", timeout=0)


def test_nobody_connects_to_himself(port, monkeypatch):
    """The kernel may pick the very port as the source of an attempt, which then meets itself."""
    made = []

    class Unlucky(socket.socket):
        def connect_ex(self, place):
            made.append(place)
            if len(made) == 1:
                self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.bind(("127.0.0.1", port))
            return super().connect_ex(place)

    monkeypatch.setattr(socket, "socket", Unlucky)
    with pytest.raises(kin.Timeout):
        kin.connect(f"tcp:127.0.0.1:{port}", timeout=0.05)
    assert len(made) > 1


def test_a_pair_is_of_this_process():
    a, b = kin.pair("tcp:")
    with a, b:
        a.send("there")
        assert b.recv(timeout=HANG) == "there"
        b.send("and back")
        assert a.recv(timeout=HANG) == "and back"


# ------------------------------------------------------------------------------------- trust


@pytest.mark.parametrize(
    "opening", [kin.listen, kin.connect, kin.open_sender, kin.open_receiver, kin.channel, kin.pair]
)
def test_pickle_is_refused(opening):
    with pytest.raises(kin.UntrustedPeer, match="codec=msgpack or codec=json"):
        opening("tcp:127.0.0.1:7000", codec="pickle")


def test_a_pickle_that_comes_all_the_same_is_not_loaded():
    from kinfolk.channels.framing import FIRST, HEADER, LAST, MAGIC

    with kin.listen("tcp:127.0.0.1:0") as listener:
        host, number = listener.address.removeprefix("tcp:").split(":")
        with socket.create_connection((host, int(number))) as hostile:
            hostile.sendall(HEADER.pack(MAGIC, FIRST | LAST, 1, 4, 1, 2, 3, 4) + b"cos\n")
            with listener.accept(timeout=HANG) as connection:
                with pytest.raises(kin.DecodeError, match="pickle"):
                    connection.recv(timeout=HANG)


def test_descriptors_do_not_travel():
    a, b = kin.pair("tcp:")
    with a, b, pytest.raises(kin.Unsupported, match="unix:"):
        a.send_fds(b"", [0])


def test_lifetime_name_is_unsupported():
    with pytest.raises(kin.Unsupported, match="no life of its own"):
        kin.listen("tcp:127.0.0.1:0?lifetime=name")


# --------------------------------------------------------------------------------------- ends


def test_small_messages_are_not_delayed():
    a, b = kin.pair("tcp:")
    with a, b:
        for end in (a, b):
            with socket_of(end) as sock:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_sender_learns_at_once_that_the_receiver_has_gone(port):
    """Without asking, the first message after that would vanish: TCP learns of it by sending."""
    with kin.open_receiver(f"tcp:127.0.0.1:{port}") as receiver:
        sender = kin.open_sender(f"tcp:127.0.0.1:{port}", timeout=HANG)
        sender.send(1)
        assert receiver.recv(timeout=HANG) == 1
    with sender, pytest.raises(kin.BrokenChannel):
        sender.send(2)


def test_a_connection_may_send_to_a_peer_who_has_ended_sending():
    a, b = kin.pair("tcp:")
    with a, b:
        b.send_eof()
        with pytest.raises(kin.EndOfChannel):
            a.recv(timeout=HANG)
        a.send("still")
        assert b.recv(timeout=HANG) == "still"


def test_a_reset_keeps_what_came_and_says_that_something_may_be_missing():
    with kin.listen("tcp:127.0.0.1:0", framing="raw") as listener:
        host, number = listener.address.removeprefix("tcp:").split(":")
        rude = socket.create_connection((host, int(number)))
        with listener.accept(timeout=HANG) as connection:
            rude.sendall(b"last words")
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.close()
            assert connection.recv_bytes(timeout=HANG) == b"last words"
            with pytest.raises(kin.EndOfChannel, match=r"reset.*may be missing"):
                connection.recv_bytes(timeout=HANG)
            with pytest.raises(kin.EndOfChannel):
                connection.recv_bytes(timeout=HANG)


def test_a_killed_sender_ends_the_channel(port, peers: Peers):
    address = f"tcp:127.0.0.1:{port}"

    def send(voice):
        with kin.open_sender(address, timeout=HANG) as sender:
            sender.send_many([1, 2])
            voice.say()
            signal.pause()

    with kin.open_receiver(address) as receiver:
        sender = peers.fork(send)
        sender.hear()
        assert receiver.recv(timeout=HANG) == 1
        with thread_of(lambda: list(receiver)) as call:
            sender.kill()
            assert call.result() == [2]


def test_many_senders_and_a_port_scan(port):
    address = f"tcp:127.0.0.1:{port}"
    with kin.open_receiver(address) as receiver:
        socket.create_connection(("127.0.0.1", port)).close()
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.01)
        senders = [kin.open_sender(address, timeout=HANG) for _ in range(5)]
        with socket.create_connection(("127.0.0.1", port)) as scanner:
            scanner.sendall(b"EHLO x\r\n" * 10)
            with pytest.raises(kin.CorruptChannel):
                receiver.recv(timeout=HANG)
        for number, sender in enumerate(senders):
            sender.send(number)
            sender.close()
        assert sorted(receiver) == list(range(5))


def test_a_blocked_receive_hears_the_end(port):
    a, b = kin.pair("tcp:")
    with a:
        with thread_of(a.recv, timeout=HANG) as call:
            until_blocked(a)
            b.close()
            assert isinstance(call.raised(), kin.EndOfChannel)


def test_a_small_message_is_given_up_whole():
    """Nothing of a message that timed out arrives, and the stream goes on."""
    a, b = kin.pair("tcp:", capacity=8192)
    with a, b:
        for size in (100, 4000, 5000, 60_000):
            sent = sent_before_full(a, bytes(size))
            with thread_of(a.send_bytes, b"mark", timeout=HANG):
                while (message := b.recv_bytes(timeout=HANG)) != b"mark":
                    assert len(message) == size
                    sent -= 1
            assert sent == 0


def test_capacity_is_what_was_asked_for_or_an_error():
    a, b = kin.pair("tcp:", capacity="64K")
    with a, b:
        assert a.limits.capacity == 4 * 64 * 1024
    with pytest.raises(kin.LimitReached, match=r"net\.core\.wmem_max"):
        kin.listen("tcp:127.0.0.1:0", capacity="1G")


def test_openings_that_fail_leave_nothing_open(port):
    before = open_descriptors()
    with pytest.raises(kin.LimitReached):
        kin.connect(f"tcp:127.0.0.1:{port}", timeout=0, capacity="1G")
    with pytest.raises(kin.Timeout):
        kin.open_sender(f"tcp:127.0.0.1:{port}", timeout=0.01)
    assert open_descriptors() == before
