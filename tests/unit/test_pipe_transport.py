"""Whole messages over pipes: what several senders, or one, leave there when they are killed, forked, interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

import kinfolk as kin
from kinfolk.channels.framing import (
    ABORT,
    ATOMIC_CHUNK,
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    PIPE_BUF,
    pid_namespace,
)
from kinfolk.channels.pipe_transport import INSIDE, flags_of
from tests.conformance.peers import (
    HANG,
    Call,
    Peers,
    Voice,
    resident,
    state,
    until,
    until_blocked,
)

Ends = tuple[kin.Receiver, kin.Sender]
MIB = 1 << 20


@pytest.fixture
def many() -> Iterator[Ends]:
    receiver, sender = kin.channel("pipe:", codec="raw")
    with receiver, sender:
        yield receiver, sender


@pytest.fixture
def one() -> Iterator[Ends]:
    receiver, sender = kin.channel("pipe:", codec="raw", senders="one")
    with receiver, sender:
        yield receiver, sender


def chunk(flags: int, body: bytes, total: int, *, pid: int, nonce: int = 1) -> bytes:
    """A packet as an end of process `pid` would write it."""
    number = pid_namespace() << 16 | nonce
    return HEADER.pack(MAGIC, flags, 0, len(body), pid, number, 1, total) + body


# --------------------------------------------------------------------------------- several senders


def test_a_dead_senders_half_message_is_dropped_and_counted(many: Ends, peers: Peers) -> None:
    receiver, sender = many

    def child(voice: Voice) -> None:
        voice.say()
        sender.send_bytes(bytes(64 * MIB))  # never received whole

    peer = peers.fork(child)
    peer.hear()
    until(lambda: sender.statistics().depth, "some of it is in the pipe")
    peer.signal(signal.SIGSTOP)  # or it might keep up with the receiver until all is through
    until(lambda: state(peer.pid) == "T", "stopped")
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)
    peer.kill(reap=False)
    sender.send(b"after")
    assert receiver.recv(timeout=HANG) == b"after"
    until(lambda: dropped(receiver), "dropped")
    assert receiver.statistics().dropped == 1
    assert not receiver._receiving._pidfds  # type: ignore[attr-defined]


def dropped(receiver: kin.Receiver) -> bool:
    """Whether the receiver knows of no incomplete message any more; makes it look."""
    try:
        receiver.recv(timeout=0)
    except kin.Timeout:
        pass
    return receiver.statistics().dropped == 1


@pytest.mark.parametrize("pid", [2**22 + 1, 2**32 - 1, 0])
def test_a_half_message_of_who_was_dead_before_it_came_is_dropped_too(many: Ends, pid: int) -> None:
    receiver, sender = many
    os.write(sender.fileno(), chunk(FIRST, b"x", 10, pid=pid))
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)
    assert receiver.statistics().dropped == 1
    sender.send(b"after")
    assert receiver.recv(timeout=0) == b"after"


def test_a_blocked_receiver_learns_of_the_death_by_the_kernel_alone(
    many: Ends, peers: Peers
) -> None:
    receiver, sender = many

    def child(voice: Voice) -> None:
        os.write(sender.fileno(), chunk(FIRST, b"x", 10, pid=os.getpid()))
        voice.say()
        voice.hear()

    peer = peers.fork(child)
    peer.hear()
    call = Call(receiver.recv)
    until_blocked(receiver)
    peer.kill(reap=False)
    until(lambda: receiver.statistics().dropped == 1, "dropped")
    sender.send(b"after")
    assert call.result() == b"after"


def test_pids_of_another_namespace_say_nothing(many: Ends) -> None:
    receiver, sender = many
    foreign = (pid_namespace() + 1 & 0xFFFF) << 16

    def write(flags: int, body: bytes) -> None:
        header = HEADER.pack(MAGIC, flags, 0, len(body), 2**22 + 1, foreign, 1, 2)
        os.write(sender.fileno(), header + body)

    write(FIRST, b"1")
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)
    write(LAST, b"2")
    assert receiver.recv(timeout=0) == b"12"


def test_a_sender_that_gave_up_and_goes_tells_it(many: Ends) -> None:
    receiver, sender = many
    second = sender.clone()
    with pytest.raises(kin.Timeout):
        second.send_bytes(bytes(MIB), timeout=0.001)
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)  # makes room
    second.close()
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)
    assert receiver.statistics().dropped == 1
    assert not receiver._receiving._assembler.partials  # type: ignore[attr-defined]


def test_promises_of_a_hostile_peer_cost_no_memory(many: Ends) -> None:
    receiver, sender = many
    before = resident()
    for nonce in range(300):
        packet = chunk(FIRST, b"x", 1 << 30, pid=os.getpid(), nonce=nonce)
        os.write(sender.fileno(), packet)
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
    assert resident() - before < 100 * MIB


@pytest.mark.parametrize(
    "garbage",
    [
        b"x",
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(PIPE_BUF),
        chunk(FIRST | LAST, b"xx", 5, pid=1),
        chunk(FIRST, b"x" * 10, 5, pid=1),
        chunk(FIRST | LAST, b"", 2**63, pid=1),
        chunk(FIRST | LAST | ABORT | 16, b"", 0, pid=1),
        chunk(FIRST, b"xx", 5, pid=1)[:-1],
    ],
)
def test_garbage_is_an_error_and_the_next_message_comes(many: Ends, garbage: bytes) -> None:
    receiver, sender = many
    os.write(sender.fileno(), garbage)
    sender.send(b"after")
    with pytest.raises(kin.CorruptChannel, match=r"^pipe: "):
        receiver.recv(timeout=HANG)
    assert receiver.recv(timeout=HANG) == b"after"


def test_each_small_message_is_one_packet(many: Ends) -> None:
    receiver, sender = many
    assert flags_of(sender.fileno()) & os.O_DIRECT
    for size in (0, 1, ATOMIC_CHUNK):
        sender.send_bytes(bytes(size))
    sender.send_bytes(bytes(ATOMIC_CHUNK + 1))
    sizes = [len(os.read(receiver.fileno(), PIPE_BUF)) for _ in range(5)]
    assert sizes == [HEADER.size, HEADER.size + 1, PIPE_BUF, PIPE_BUF, HEADER.size + 1]


# ------------------------------------------------------------------------------------- one sender


def test_a_second_process_is_busy_until_the_first_has_gone(one: Ends, peers: Peers) -> None:
    receiver, sender = one

    def child(voice: Voice) -> None:
        sender.send(b"child")
        voice.say()
        voice.hear()

    peer = peers.fork(child)
    peer.hear()
    with pytest.raises(kin.Busy, match=f"process {peer.pid} does"):
        sender.send(b"parent")
    with pytest.raises(kin.Busy):
        sender.send_bytes(bytes(MIB))
    peer.kill(reap=False)
    sender.send(b"parent")
    assert [receiver.recv(timeout=HANG), receiver.recv(timeout=HANG)] == [b"child", b"parent"]


def test_two_ends_of_one_process_do_not_mix(one: Ends) -> None:
    receiver, sender = one
    sender.send(b"1")
    with sender.clone() as second:
        with pytest.raises(kin.Busy, match="another end sends here"):
            second.send(b"2")
        sender.close()
        second.send(b"3")
    assert [receiver.recv(), receiver.recv()] == [b"1", b"3"]


def test_two_receiving_ends_of_one_process_do_not_tear_messages_apart(many: Ends) -> None:
    receiver, sender = many
    sender.send(b"1")
    assert receiver.recv() == b"1"
    with receiver.clone() as second:
        sender.send(b"2")
        with pytest.raises(kin.Busy, match="another end receives here"):
            second.recv(timeout=0)
        receiver.close()
        assert second.recv(timeout=0) == b"2"


def test_a_second_receiving_process_is_busy(many: Ends, peers: Peers) -> None:
    receiver, sender = many
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)

    def child(voice: Voice) -> bytes:
        with pytest.raises(kin.Busy, match="another process receives here"):
            receiver.recv(timeout=0)
        voice.say()
        voice.hear()
        return receiver.recv(timeout=HANG)

    peer = peers.fork(child)
    peer.hear()
    receiver.close()
    peer.say()
    sender.send(b"x")
    assert peer.result() == b"x"


@pytest.mark.parametrize(
    "size", [ATOMIC_CHUNK, ATOMIC_CHUNK + 1, PIPE_BUF, 5 * PIPE_BUF + 1, MIB, MIB + 1, 3 * MIB - 7]
)
def test_long_and_short_messages_alternate(one: Ends, size: int) -> None:
    receiver, sender = one
    messages = [b"short", bytes(range(256)) * (size // 256) + bytes(size % 256), b"", b"last"]

    def send() -> None:
        for message in messages:
            sender.send_bytes(message)

    call = Call(send)
    assert [receiver.recv_bytes(timeout=HANG) for _ in messages] == messages
    call.result()
    assert not flags_of(sender.fileno()) & INSIDE
    assert not flags_of(receiver.fileno()) & INSIDE


@pytest.mark.parametrize("received", [0, 1])
def test_a_long_send_that_times_out_is_never_delivered_and_the_next_is(
    one: Ends, received: int
) -> None:
    receiver, sender = one
    for _ in range(received):
        sender.send(b"first")
    for _ in range(3):
        with pytest.raises(kin.Timeout):
            sender.send_bytes(os.urandom(3 * MIB), timeout=0.002)
    call = Call(sender.send_bytes, b"next" * MIB)
    for _ in range(received):
        assert receiver.recv(timeout=HANG) == b"first"
    assert receiver.recv_bytes(timeout=HANG) == b"next" * MIB
    call.result()
    assert receiver.statistics().dropped == 1


def test_a_forked_copy_owes_nothing_of_its_parents(one: Ends, peers: Peers) -> None:
    """What the parent left half sent, it sends itself: a second time would tear the stream."""
    receiver, sender = one
    with pytest.raises(kin.Timeout):
        sender.send_bytes(bytes(MIB), timeout=0.002)

    def child(voice: Voice) -> None:
        voice.hear()
        sender.send(b"child")

    peer = peers.fork(child)
    call = Call(sender.send, b"parent")
    assert receiver.recv(timeout=HANG) == b"parent"
    call.result()
    sender.close()
    peer.say()
    peer.result()
    assert receiver.recv(timeout=HANG) == b"child"
    assert receiver.statistics().dropped == 1


def test_raw_bytes_are_not_written_twice_by_a_forked_copy(peers: Peers) -> None:
    receiver, sender = kin.channel("pipe:", framing="raw")
    with receiver, sender:
        data = os.urandom(MIB)
        with pytest.raises(kin.Timeout):
            sender.send_bytes(data, timeout=0.002)

        def child(voice: Voice) -> None:
            voice.hear()
            sender.send_bytes(b"child")

        peer = peers.fork(child)
        call = Call(sender.send_bytes, b"parent")
        got = b""
        while len(got) < len(data) + 6:
            got += receiver.recv_bytes(timeout=HANG)
        call.result()
        peer.say()
        peer.result()
        assert got == data + b"parent"
        assert receiver.recv_bytes(timeout=HANG) == b"child"


def test_nobody_goes_on_after_a_sender_killed_in_a_long_message(one: Ends, peers: Peers) -> None:
    """What it had still to write is known to nobody: a message after it would be taken for the rest."""
    receiver, sender = one

    def child(voice: Voice) -> None:
        voice.say()
        sender.send_bytes(bytes(64 * MIB))

    peer = peers.fork(child)
    peer.hear()
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0.05)
    until(lambda: flags_of(sender.fileno()) & INSIDE, "in the middle")
    peer.kill(reap=False)
    for message in (b"x", bytes(MIB)):
        with pytest.raises(kin.BrokenChannel, match="torn"):
            sender.send_bytes(message)
    call = Call(receiver.recv)
    until(lambda: receiver.statistics().dropped == 1, "dropped")
    sender.close()
    assert isinstance(call.raised(), kin.EndOfChannel)


def test_nobody_goes_on_after_a_receiver_killed_in_a_long_message(one: Ends, peers: Peers) -> None:
    receiver, sender = one

    def child(voice: Voice) -> None:
        voice.say()
        receiver.recv()

    with pytest.raises(kin.Timeout):
        sender.send_bytes(bytes(MIB), timeout=0.002)
    peer = peers.fork(child)
    peer.hear()
    until(lambda: not sender.statistics().depth, "all that there is was read")
    assert flags_of(receiver.fileno()) & INSIDE
    peer.kill(reap=False)
    for _ in range(2):
        with pytest.raises(kin.CorruptChannel, match="torn"):
            receiver.recv(timeout=0)


# ------------------------------------------------------------------------------------------- fork


def test_a_forked_receiver_does_not_add_to_its_parents_halves(many: Ends, peers: Peers) -> None:
    receiver, sender = many
    first, last = (
        chunk(flags, body, 4, pid=os.getpid()) for flags, body in ((FIRST, b"12"), (LAST, b"34"))
    )
    os.write(sender.fileno(), first)
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)

    def child(voice: Voice) -> bytes:
        voice.hear()
        return receiver.recv(timeout=HANG)

    peer = peers.fork(child)
    receiver.close()
    os.write(sender.fileno(), last)
    sender.send(b"after")
    peer.say()
    assert peer.result() == b"after"


def test_closing_the_other_end_does_not_lose_the_claim(many: Ends, peers: Peers) -> None:
    """Both ends are one inode, and closing either drops the process's locks on it."""
    receiver, sender = many
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)

    def child(voice: Voice) -> None:
        voice.hear()
        with pytest.raises(kin.Busy):
            receiver.recv(timeout=0)

    peer = peers.fork(child)
    sender.close()
    peer.say()
    peer.result()


def test_recv_many_keeps_what_came_before_an_error(many: Ends) -> None:
    receiver, sender = many
    sender.send_many([b"1", b"2"])
    os.write(sender.fileno(), b"garbage")
    sender.send(b"3")
    assert receiver.recv_many(10) == [b"1", b"2"]
    with pytest.raises(kin.CorruptChannel):
        receiver.recv_many(10)
    sender.close()
    assert receiver.recv_many(10) == [b"3"]
    for _ in range(2):
        with pytest.raises(kin.EndOfChannel):
            receiver.recv_many(10)


def test_counts_are_exact_with_several_threads(many: Ends) -> None:
    receiver, sender = many
    count = 2000

    def send() -> None:
        for _ in range(count):
            sender.send(b"xx")

    def take() -> int:
        return sum(1 for _ in receiver)

    senders = [Call(send) for _ in range(3)]
    takers = [Call(take) for _ in range(2)]
    for call in senders:
        call.result()
    assert sender.statistics().messages_sent == 3 * count
    assert sender.statistics().bytes_sent == 6 * count
    sender.close()
    assert sum(call.result() for call in takers) == 3 * count
    assert receiver.statistics().messages_received == 3 * count
    assert receiver.statistics().bytes_received == 6 * count


def test_an_error_is_not_its_own_cause(many: Ends) -> None:
    receiver, sender = many
    receiver.close()
    with pytest.raises(kin.BrokenChannel) as caught:
        sender.send(b"x")
    seen = set()
    error: BaseException | None = caught.value
    while error is not None:
        assert id(error) not in seen
        seen.add(id(error))
        error = error.__cause__
