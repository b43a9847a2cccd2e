"""What is particular to Unix stream sockets: credentials, ends, passing, options."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import socket
from collections.abc import Callable, Iterator

import pytest

import kinfolk as kin
from kinfolk.channels.framing import FIRST, MAX_CHUNK
from tests.conformance.peers import (
    HANG,
    Call,
    Peers,
    open_descriptors,
    thread_of,
    until_blocked,
)
from tests.other_user import User
from tests.unit.streams import LARGE, against, header
from tests.unit.test_tcp import sent_before_full

# ------------------------------------------------------------------------------- credentials


def test_the_peer_is_known_on_both_sides(socket_path, peers: Peers):
    def call(voice):
        with kin.connect(f"unix:{socket_path}", timeout=HANG) as connection:
            voice.say(connection.peer)
            voice.hear()

    with kin.listen(f"unix:{socket_path}") as listener:
        caller = peers.fork(call)
        with listener.accept(timeout=HANG) as connection:
            assert connection.peer == (caller.pid, os.geteuid(), os.getegid())
            assert caller.hear() == (os.getpid(), os.geteuid(), os.getegid())
            caller.say()
            caller.result()


def test_each_message_says_who_sent_it(socket_path):
    with (
        kin.open_receiver(f"unix:{socket_path}") as receiver,
        kin.open_sender(f"unix:{socket_path}", timeout=HANG) as sender,
    ):
        sender.send(1)
        message = receiver._receiving.try_receive()
        assert message
        assert message.sender == sender.peer == (os.getpid(), os.geteuid(), os.getegid())
        assert receiver.peer is None


def nothing_comes(operation: Callable[..., object], call: Call) -> None:
    """Whatever the other thread does, this finds nothing."""
    while call.thread.is_alive():
        with pytest.raises(kin.Timeout):
            operation(timeout=0.05)


def test_a_foreign_user_is_refused_and_counted(unique_name, foreign_user: User):
    address = f"unix:@{unique_name}"

    def call() -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(HANG)
            client.connect("\0" + unique_name)
            return client.recv(1).hex()  # the end, when refused

    with kin.listen(address) as listener:
        with thread_of(foreign_user.run, call) as calling:
            nothing_comes(listener.accept, calling)
            assert calling.result() == ""
        assert listener._transport.refused == 1
    with kin.open_receiver(address) as receiver:
        with thread_of(foreign_user.run, call) as calling:
            nothing_comes(receiver.recv, calling)
            assert calling.result() == ""
        assert receiver.statistics().dropped == 1


def test_a_foreign_user_may_send_what_is_no_pickle(socket_path, foreign_user: User):
    os.chmod(socket_path.parent, 0o755)
    address = f"unix:{socket_path}"

    def call() -> object:
        with kin.connect(address, timeout=HANG, codec="msgpack") as connection:
            connection.send({"from": os.geteuid()})
            return connection.recv(timeout=HANG)

    with kin.listen(address, codec="msgpack", mode=0o666) as listener:
        with thread_of(foreign_user.run, call) as calling:
            with listener.accept(timeout=HANG) as connection:
                assert connection.recv(timeout=HANG) == {"from": foreign_user.uid}
                assert connection.peer
                assert connection.peer.uid == foreign_user.uid
                connection.send("welcome")
                assert calling.result() == "welcome"


def test_a_squatted_abstract_name_gets_no_pickle(unique_name, foreign_user: User, peers: Peers):
    def squat(voice):
        foreign_user.become()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("\0" + unique_name)
            server.listen()
            voice.say()
            voice.hear()

    squatter = peers.fork(squat)
    squatter.hear()
    before = open_descriptors()
    for opening in (kin.connect, kin.open_sender):
        with pytest.raises(kin.UntrustedPeer, match="msgpack"):
            opening(f"unix:@{unique_name}", timeout=HANG)
        opening(f"unix:@{unique_name}", timeout=HANG, codec="msgpack").close()
    assert open_descriptors() == before
    squatter.say()
    squatter.result()


def test_a_mode_keeps_others_out(socket_path, foreign_user: User):
    os.chmod(socket_path.parent, 0o755)

    def call() -> None:
        kin.connect(f"unix:{socket_path}", timeout=0, codec="msgpack")

    with kin.listen(f"unix:{socket_path}", codec="msgpack"):
        with pytest.raises(kin.AccessDenied):
            foreign_user.run(call)


# ------------------------------------------------------------------------------- ends and kills


def test_a_reset_does_not_lose_what_came_before():
    """The peer goes with our bytes unread (ECONNRESET): what it had sent is still received."""
    a, b = kin.pair("unix:")
    with a:
        a.send("never read")
        b.send_many(["first", bytes(50_000), "last"])
        b.close()
        assert a.recv(timeout=HANG) == "first"
        assert a.recv(timeout=HANG) == bytes(50_000)
        assert a.recv(timeout=HANG) == "last"
        for _ in range(2):
            with pytest.raises(kin.EndOfChannel):
                a.recv(timeout=HANG)
        with pytest.raises(kin.BrokenChannel):
            a.send(1)


def test_a_reset_in_the_middle_of_a_call():
    a, b = kin.pair("unix:")
    with a:
        a.send("never read")
        with thread_of(a.recv, timeout=HANG) as call:
            until_blocked(a)
            b.close()
            assert isinstance(call.raised(), kin.EndOfChannel)


@pytest.mark.parametrize("size", [100_000, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, LARGE])
def test_a_message_given_up_is_never_delivered(size):
    """Whatever part of it went out, also when all but its last bytes did."""
    a, b = kin.pair("unix:")
    with a, b:
        for number in range(12):
            sent = sent_before_full(a, b"g" * size)
            with thread_of(a.send_bytes, b"%d" % number, timeout=HANG):
                while (message := b.recv_bytes(timeout=HANG)) != b"%d" % number:
                    assert message == b"g" * size
                    sent -= 1
            assert sent == 0


def test_send_eof_ends_one_direction():
    a, b = kin.pair("unix:")
    with a, b:
        a.send(1)
        a.send_eof()
        assert b.recv(timeout=HANG) == 1
        with pytest.raises(kin.EndOfChannel):
            b.recv(timeout=HANG)
        b.send(bytes(100))
        assert a.recv(timeout=HANG) == bytes(100)
        with pytest.raises(kin.Closed, match="send_eof"):
            a.send(2)
        with pytest.raises(kin.Closed, match="send_eof"):
            a.send(bytes(LARGE))


# ------------------------------------------------------------------------------------- passing


@pytest.fixture
def spawn() -> Iterator[multiprocessing.context.SpawnContext]:
    """multiprocessing without the fork, and without the process that it leaves behind."""
    yield multiprocessing.get_context("spawn")
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _echo(connection: kin.Connection) -> None:
    with connection:
        for message in connection:
            connection.send(message)


def _forward(receiver: kin.Receiver, sender: kin.Sender) -> None:
    with receiver, sender:
        for message in receiver:
            sender.send(message)


def test_a_connection_is_passed_with_what_was_read_ahead(spawn):
    a, b = kin.pair("unix:")
    with a:
        a.send_many(["hello", "ahead", "of it"])
        assert b.recv(timeout=HANG) == "hello"
        child = spawn.Process(target=_echo, args=(b,))
        child.start()
        with pytest.raises(kin.Busy, match="passed on"):
            b.recv(timeout=0)
        b.close()
        assert [a.recv(timeout=HANG), a.recv(timeout=HANG)] == ["ahead", "of it"]
        a.send(bytes(LARGE // 3))
        assert len(a.recv(timeout=HANG)) == LARGE // 3
        a.close()
        child.join(HANG)
        assert child.exitcode == 0


def test_a_receiver_of_many_is_passed_with_its_connections(socket_path, spawn):
    address = f"unix:{socket_path}"
    receiver = kin.open_receiver(address)
    results, sending = kin.channel("unix:")
    senders = [kin.open_sender(address, timeout=HANG) for _ in range(3)]
    for number, sender in enumerate(senders):
        sender.send_many([number, number])
    first = receiver.recv(timeout=HANG)
    child = spawn.Process(target=_forward, args=(receiver, sending))
    child.start()
    receiver.close()
    sending.close()
    assert socket_path.exists()
    with kin.open_sender(address, timeout=HANG) as late:
        late.send("late")
    for sender in senders:
        sender.close()
    with results:
        received = [first, *results]
    assert sorted(map(str, received)) == sorted(["0", "0", "1", "1", "2", "2", "late"])
    child.join(HANG)
    assert child.exitcode == 0


def test_an_end_in_the_middle_of_a_message_is_not_passed():
    with against() as (near, bare):
        bare.sendall(header(FIRST, length=1, total=10) + b"x")
        with pytest.raises(kin.Timeout):
            near.recv(timeout=0)
        with pytest.raises(kin.Busy, match="middle of a message"):
            near._receiving.passable()


# ------------------------------------------------------------------------------------- options


def test_capacity_is_what_was_asked_for_or_an_error():
    a, b = kin.pair("unix:", capacity="50K")
    with a, b:
        assert a.limits.capacity == 2 * 50 * 1024
    with pytest.raises(kin.LimitReached, match=r"net\.core\.wmem_max=1073741824"):
        kin.pair("unix:", capacity="1G")


def test_lifetime_name_is_unsupported(socket_path):
    for opening in (kin.listen, kin.connect, kin.open_sender, kin.open_receiver):
        with pytest.raises(kin.Unsupported, match="no life of its own"):
            opening(f"unix:{socket_path}?lifetime=name", timeout=0)


def test_a_pair_has_no_name(socket_path):
    with pytest.raises(kin.Unsupported):
        kin.pair(f"unix:{socket_path}")


def test_messages_of_very_many_pieces():
    numpy = pytest.importorskip("numpy")
    arrays = [numpy.full(3, number) for number in range(2000)]  # each a buffer out of band
    a, b = kin.pair("unix:")
    with a, b:
        with thread_of(a.send, arrays, timeout=HANG):
            received = b.recv(timeout=HANG)
        assert [int(one[0]) for one in received] == list(range(2000))
