"""What is particular to Unix stream sockets: credentials, descriptors, many senders, hostile peers, forks."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.resource_tracker
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import kinfolk as kin
from kinfolk.ancillary import MOST_DESCRIPTORS
from kinfolk.channels.framing import FIRST, HEADER, LAST, MAGIC, MAX_CHUNK
from tests.conformance.fixtures import peers  # noqa: F401
from tests.conformance.peers import (
    HANG,
    Call,
    Peers,
    open_descriptors,
    resident,
    socket_of,
    thread_of,
    until,
    until_blocked,
)
from tests.other_user import User
from tests.unit.test_tcp import sent_before_full

LARGE = 3 << 20  # no socket buffer holds it


def header(flags=FIRST | LAST, kind=0, length=0, total=None, sender=1, nonce=2, sequence=3):
    total = length if total is None else total
    return HEADER.pack(MAGIC, flags, kind, length, sender, nonce, sequence, total)


@contextmanager
def against(
    peer_address: str = "unix:", **options
) -> Iterator[tuple[kin.Connection, socket.socket]]:
    """A connection whose other end is a bare socket."""
    near, far = kin.pair(peer_address, **options)
    bare = socket_of(far)
    bare.settimeout(HANG)
    far.close()
    with near, bare:
        yield near, bare


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """EMFILE for whoever opens one."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    free = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest)]  # fills the gaps
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in free:
            os.close(fd)


# ------------------------------------------------------------------------------- credentials


def test_the_peer_is_known_on_both_sides(socket_path, peers: Peers):  # noqa: F811
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


def test_a_squatted_abstract_name_gets_no_pickle(unique_name, foreign_user: User, peers: Peers):  # noqa: F811
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
def test_descriptors_of_messages_that_nobody_gets_are_closed(how, peers: Peers):  # noqa: F811
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


# -------------------------------------------------------------------------------------- forks


def test_a_forked_copy_that_writes_raises(peers: Peers):  # noqa: F811
    a, b = kin.pair("unix:")
    with a, b:
        a.send(1)

        def write(voice):
            a.send(2)

        with pytest.raises(AssertionError, match=f"Busy.*process {os.getpid()}"):
            peers.fork(write).result()
        a.send(3)
        assert [b.recv(timeout=HANG), b.recv(timeout=HANG)] == [1, 3]


def test_a_forked_copy_that_reads_raises(peers: Peers):  # noqa: F811
    a, b = kin.pair("unix:")
    with a, b:
        a.send(1)
        assert b.recv(timeout=HANG) == 1

        def read(voice):
            b.recv(timeout=1)

        with pytest.raises(AssertionError, match=r"Busy.*another process receives"):
            peers.fork(read).result()


def test_a_forked_copy_goes_on_where_the_other_never_wrote(peers: Peers):  # noqa: F811
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


def test_a_copy_does_not_write_into_half_a_message(peers: Peers):  # noqa: F811
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


def test_a_copy_of_an_end_that_had_read_ahead_is_refused(peers: Peers):  # noqa: F811
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
def test_after_a_killed_receiver_no_copy_goes_on(scheme, peers: Peers):  # noqa: F811
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


def test_a_copy_goes_on_after_a_receiver_that_closed(peers: Peers):  # noqa: F811
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


def test_a_forked_receiver_of_many_has_an_epoll_of_its_own(socket_path, peers: Peers):  # noqa: F811
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
