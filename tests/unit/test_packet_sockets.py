"""What is special about seqpacket and datagram sockets; the common contract is tests/conformance."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import itertools
import json
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import pickle
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.ancillary import MOST_DESCRIPTORS
from kinfolk.channels import packet_limits, packet_reader, stream_terms, unix_dgram
from kinfolk.channels.codec import JSON, PICKLE, RAW
from kinfolk.channels.packet_format import CONNECTION, HEADER
from tests.other_user import User

SCHEMES = ["unix-seqpacket", "unix-dgram"]
PATIENCE = 30  # seconds; only a hang lasts so long

Start = Callable[[Callable[[], object]], int]


def packet(kind: int, body: bytes, *, size: int | None = None, **fields: Any) -> bytes:
    given = {"magic": b"kP", "flags": 0, "riding": 0, "zero": 0} | fields
    length = len(body) if size is None else size
    return (
        HEADER.pack(given["magic"], given["flags"], kind, given["riding"], given["zero"], length)
        + body
    )


def sock_of(end: Any) -> socket.socket:
    """The socket under a sender."""
    return end._sending._socket


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def fork() -> Iterator[Start]:
    """Runs a function in a forked child, which then exits with 0; what is left is killed."""
    children: list[int] = []

    def start(function: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                function()
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
        return pid

    yield start
    for pid in children:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ended_well(*pids: int) -> bool:
    """Waits for all of them, whatever the first says."""
    return not any([os.waitpid(pid, 0)[1] for pid in pids])  # noqa: C419


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


def fill(sender: kin.Sender, body: bytes) -> int:
    count = 0
    with contextlib.suppress(kin.Timeout):
        while True:
            sender.send_bytes(body, timeout=0)
            count += 1
    return count


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


# ── hostile and foreign peers ────────────────────────────────────────────────────────────────

GARBAGE = {
    "another magic": packet(RAW, b"x", magic=b"kC"),
    "too short": b"kP",
    "unknown flags": packet(RAW, b"x", flags=2),
    "reserved bytes": packet(RAW, b"x", zero=1),
    "a longer length": packet(RAW, b"x", size=2),
    "a shorter length": packet(RAW, b"xx", size=1),
    "2**63": packet(RAW, b"x", size=2**63),
    "2**64-1": packet(RAW, b"", size=2**64 - 1),
    "descriptors that did not come": packet(RAW, b"x", riding=3),
    "memory that did not come": packet(RAW, b"", flags=1, size=1000),
    "longer than any of ours": packet(RAW, bytes(190_000), size=200_000),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("scheme", SCHEMES)
def test_garbage_is_a_clear_error_and_the_next_message_whole(scheme: str, garbage: bytes) -> None:
    receiver, sender = kin.channel(f"{scheme}:")
    with receiver, sender:
        sock_of(sender).send(garbage)
        sender.send("after")
        with pytest.raises(kin.CorruptChannel):
            receiver.recv(timeout=PATIENCE)
        assert receiver.recv(timeout=PATIENCE) == "after"


def test_descriptors_of_garbage_are_closed() -> None:
    receiver, sender = kin.channel("unix-seqpacket:")
    with receiver, sender:
        before = open_descriptors()
        socket.send_fds(sock_of(sender), [b"garbage"], [0, 1, 2])
        with pytest.raises(kin.CorruptChannel):
            receiver.recv(timeout=PATIENCE)
        assert open_descriptors() == before


def open_to_all(path: Path) -> None:
    path.parent.chmod(0o755)


def send_packets(path: str, *packets: bytes) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(path)
        for one in packets:
            sock.send(one)
    return os.getuid()


EVIL = packet(PICKLE, pickle.dumps("evil"))
FRIENDLY = packet(JSON, b'"friendly"')


def test_a_pickle_of_a_foreign_user_is_dropped(foreign_user: User, socket_path: Path) -> None:
    open_to_all(socket_path)
    with kin.open_receiver(f"unix-dgram:{socket_path}", mode=0o666) as receiver:
        path = str(socket_path)
        uid = foreign_user.run(send_packets, path, EVIL, FRIENDLY)
        assert receiver.recv(timeout=PATIENCE) == "friendly"
        assert receiver.statistics().dropped == 1
        foreign_user.run(send_packets, path, FRIENDLY)
        message = receiver._receiving.try_receive()
        assert message is not None
        assert message.sender is not None
        assert message.sender.uid == uid != os.getuid()
        # The positive control: from our own user it is taken.
        send_packets(path, EVIL)
        assert receiver.recv(timeout=PATIENCE) == "evil"


def test_without_the_check_it_would_be_loaded(
    foreign_user: User, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(packet_reader, "is_trusted", lambda uid: True)
    open_to_all(socket_path)
    with kin.open_receiver(f"unix-dgram:{socket_path}", mode=0o666) as receiver:
        foreign_user.run(send_packets, str(socket_path), EVIL)
        assert receiver.recv(timeout=PATIENCE) == "evil"


def test_a_pickle_that_nobody_vouches_for_is_dropped() -> None:
    receiver, sender = kin.channel("unix-dgram:")
    with receiver, sender:
        # A peer that holds a copy of our socket may have turned its credentials off.
        receiver._receiving._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)  # type: ignore[attr-defined]
        sender.send(["pickle"])
        sender.send_bytes(b"bytes")
        assert receiver.recv_bytes(timeout=PATIENCE) == b"bytes"
        assert receiver.statistics().dropped == 1


def test_a_flood_of_foreign_pickles_does_not_outlast_a_timeout(foreign_user: User) -> None:
    receiver, sender = kin.channel("unix-dgram:")
    with receiver, sender:

        def flood() -> None:
            with contextlib.suppress(kin.BrokenChannel, kin.Timeout):
                for _ in range(500):
                    sender.send(["evil"], timeout=0)

        for _ in range(3):
            foreign_user.run(flood)
            with pytest.raises(kin.Timeout):
                receiver.recv(timeout=0.01)
        assert receiver.statistics().dropped > 64
        sender.send("ours")
        assert receiver.recv(timeout=PATIENCE) == "ours"


def test_messages_behind_a_flood_come_before_the_end(foreign_user: User) -> None:
    """A reader that takes breath after 64 dropped pickles has not seen the socket empty."""
    receiver, sender = kin.channel("unix-dgram:", capacity=1 << 20)
    with receiver:

        def flood() -> None:
            for _ in range(200):
                sender.send(["evil"], timeout=0)

        foreign_user.run(flood)
        sender.send("ours")
        sender.close()
        assert receiver.recv(timeout=PATIENCE) == "ours"
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=PATIENCE)


@pytest.mark.parametrize(("codec", "comes_in"), [("pickle", False), ("msgpack", True)])
def test_a_foreign_user_comes_in_only_without_pickles(
    codec: str, comes_in: bool, foreign_user: User, socket_path: Path
) -> None:
    open_to_all(socket_path)
    with kin.listen(f"unix-seqpacket:{socket_path}", mode=0o666, codec=codec) as listener:

        def visit() -> int:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(socket_path))
                sock.send(FRIENDLY)
            return os.getuid()

        uid = foreign_user.run(visit)
        if comes_in:
            with listener.accept(timeout=PATIENCE) as connection:
                assert connection.recv(timeout=PATIENCE) == "friendly"
                assert connection.peer is not None
                assert connection.peer.uid == uid
        else:
            with pytest.raises(kin.Timeout):
                listener.accept(timeout=0.2)
            assert listener._transport.refused == 1


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_squatter_gets_no_pickles(
    scheme: str,
    checked: bool,
    foreign_user: User,
    short_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short_directory.chmod(0o777)
    path = short_directory / "s"
    ready, go = os.pipe(), os.pipe()

    def squat() -> bool:
        kind = socket.SOCK_DGRAM if scheme == "unix-dgram" else socket.SOCK_SEQPACKET
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.bind(str(path))
            path.chmod(0o666)
            if scheme == "unix-dgram":
                os.mkfifo(short_directory / ".s.presence", 0o666)
                (short_directory / ".s.presence").chmod(0o666)
                os.open(short_directory / ".s.presence", os.O_RDONLY | os.O_NONBLOCK)
            else:
                sock.listen()
            os.write(ready[1], b".")
            os.read(go[0], 1)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                return bool(sock.recv(100) if scheme == "unix-dgram" else sock.accept()[0].recv(9))
        return False

    def visitor() -> None:
        os.read(ready[0], 1)
        try:
            if checked:
                with pytest.raises(kin.UntrustedPeer, match="user"):
                    kin.open_sender(f"{scheme}:{path}", timeout=PATIENCE)
            else:
                kin.open_sender(f"{scheme}:{path}", timeout=PATIENCE).send("secret")
        finally:
            os.write(go[1], b".")

    if not checked:  # the negative control
        monkeypatch.setattr(unix_dgram, "check_object", lambda *_, **__: None)
        monkeypatch.setattr(stream_terms, "check_peer", lambda *_: None)
    pid = os.fork()
    if pid == 0:
        try:
            visitor()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert foreign_user.run(squat) is not checked
    assert ended_well(pid)
    for fd in (*ready, *go):
        os.close(fd)


def test_presence_of_a_foreign_user_is_refused(foreign_user: User, short_directory: Path) -> None:
    """He could end our channels, or keep them from ending."""
    short_directory.chmod(0o777)
    fifo = short_directory / ".s.presence"

    def squat() -> None:
        os.mkfifo(fifo)
        fifo.chmod(0o666)

    foreign_user.run(squat)
    before = open_descriptors()
    with pytest.raises(kin.UntrustedPeer):
        kin.open_receiver(f"unix-dgram:{short_directory}/s")
    assert not (short_directory / "s").exists()
    assert open_descriptors() == before


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
