"""Chunks of many senders in any order, against a naive model; and headers that no sender writes."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinfolk as kin
from kinfolk.channels import framing
from kinfolk.channels.contract import Message
from kinfolk.channels.framing import (
    ABORT,
    ATOMIC_CHUNK,
    DESCRIPTORS,
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    MAX_CHUNK,
    PIPE_BUF,
    Assembler,
    Chunker,
)
from tests.conformance.peers import Peers

BIG = 1 << 30


def header(
    flags: int,
    length: int,
    total: int,
    *,
    kind: int = 0,
    sender: tuple[int, int] = (1, 1),
    sequence: int = 1,
    magic: bytes = MAGIC,
) -> bytes:
    return HEADER.pack(magic, flags, kind, length, *sender, sequence, total)


def feed(assembler: Assembler, data: bytes, into_room: bool = False) -> Message | None:
    """One chunk, in either of the two ways that readers have."""
    if (message := assembler.single(data)) is not None:
        return message
    chunk = assembler.parse(data)
    body = data[HEADER.size :]
    if not into_room:
        return assembler.whole(chunk, body)
    room = assembler.room(chunk)
    if room is not None:
        room[:] = body
        room.release()
    return assembler.filled(chunk)


def joined(pieces: list[Any]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


# ------------------------------------------------------------------------------- there and back


@given(
    parts=st.lists(st.binary(max_size=50), max_size=5),
    kind=st.integers(0, 255),
    largest=st.integers(1, 40),
    committed=st.booleans(),
    into_room=st.booleans(),
)
def test_a_message_is_cut_and_put_together(
    parts: list[bytes], kind: int, largest: int, committed: bool, into_room: bool
) -> None:
    assembler = Assembler(BIG, "test")
    message = Message(kind, parts)
    chunks = [joined(c) for c in Chunker().chunks(message, largest, committed=committed)]
    assert all(len(chunk) <= HEADER.size + largest for chunk in chunks)
    results = [feed(assembler, chunk, into_room) for chunk in chunks]
    assert all(result is None for result in results[:-1])
    whole = results[-1]
    assert whole is not None
    assert (whole.kind, bytes(whole.body)) == (kind, b"".join(parts))
    assert not assembler.partials
    assert assembler.dropped == 0


def test_a_chunk_for_several_senders_is_one_packet() -> None:
    for size in (0, 1, ATOMIC_CHUNK - 1, ATOMIC_CHUNK, ATOMIC_CHUNK + 1, 3 * ATOMIC_CHUNK):
        chunks = list(Chunker().chunks(Message(0, (bytes(size),)), ATOMIC_CHUNK))
        assert all(len(joined(chunk)) <= PIPE_BUF for chunk in chunks)
        assert len(chunks) == max(1, -(-size // ATOMIC_CHUNK))


@dataclass
class End:
    """A naive sending end: its own chunker, and what remains of the message under way."""

    chunker: Chunker = field(default_factory=Chunker)
    waiting: list[bytes] = field(default_factory=list)
    message: bytes = b""


@settings(max_examples=200)
@given(data=st.data())
def test_any_interleaving_of_several_ends(data: Any) -> None:
    """The model: what is delivered are exactly the messages whose last chunk was fed, in that order."""
    ends = [End() for _ in range(data.draw(st.integers(1, 4)))]
    assembler = Assembler(BIG, "test")
    expected: list[bytes] = []
    got: list[bytes] = []
    dropped = 0
    for _ in range(data.draw(st.integers(0, 40))):
        end = data.draw(st.sampled_from(ends))
        act = data.draw(st.sampled_from(["go on", "go on", "go on", "abort", "die", "new"]))
        under_way = (
            bool(end.waiting) and (end.chunker._pid, end.chunker._nonce) in assembler.partials
        )
        if act == "abort" and end.waiting:
            assert feed(assembler, end.chunker.abort()) is None
            dropped += under_way
            end.waiting = []
        elif act == "die":
            assembler.forget((end.chunker._pid, end.chunker._nonce))
            dropped += under_way
            ends[ends.index(end)] = End()
        elif act == "new" or not end.waiting:
            dropped += under_way  # by the first chunk of the next one
            end.message = data.draw(st.binary(max_size=30))
            message = Message(3, (end.message,))
            end.waiting = [joined(chunk) for chunk in end.chunker.chunks(message, 7)]
            # Its first chunk follows at once: the model need not know of messages that never began.
            act = "go on"
        if act == "go on" and end.waiting:
            message_or_none = feed(assembler, end.waiting.pop(0), data.draw(st.booleans()))
            if not end.waiting:
                expected.append(end.message)
            assert (message_or_none is not None) == (not end.waiting)
            if message_or_none is not None:
                got.append(bytes(message_or_none.body))
    assert got == expected
    assert assembler.dropped == dropped
    dropped += len(assembler.partials)
    assembler.forget_all()
    assert assembler.dropped == dropped
    assert not assembler.partials


def test_a_receiver_that_takes_over_finds_the_next_message() -> None:
    chunker, assembler = Chunker(), Assembler(BIG, "test")
    first = [joined(chunk) for chunk in chunker.chunks(Message(0, (bytes(30),)), 10)]
    second = [joined(chunk) for chunk in chunker.chunks(Message(0, (b"x" * 30,)), 10)]
    results = [feed(assembler, chunk) for chunk in (*first[1:], *second)]
    assert [bytes(result.body) for result in results if result is not None] == [b"x" * 30]


def test_a_missing_chunk_never_makes_a_message_of_two() -> None:
    chunker, assembler = Chunker(), Assembler(BIG, "test")
    first = [joined(chunk) for chunk in chunker.chunks(Message(0, (bytes(30),)), 10)]
    second = [joined(chunk) for chunk in chunker.chunks(Message(0, (b"x" * 30,)), 10)]
    # the end of the first and the beginning of the second are lost
    assert [feed(assembler, chunk) for chunk in (first[0], *second[1:])] == [None] * 3
    assert assembler.dropped == 1


def test_two_ends_of_one_process_and_a_forked_copy_are_three(peers: Peers) -> None:
    one, other = Chunker(), Chunker()
    message = Message(0, (b"x",))

    def name(chunker: Chunker) -> tuple[int, int]:
        fields = HEADER.unpack_from(joined(chunker.single(message)))
        return fields[4], fields[5]

    names = [name(one), name(other), peers.fork(lambda voice: name(one)).result()]
    assert len(set(names)) == 3
    assert [pid == os.getpid() for pid, _ in names] == [True, True, False]


def test_sequence_numbers_wrap_around() -> None:
    chunker, assembler = Chunker(), Assembler(BIG, "test")
    chunker._sequence = 2**32 - 2
    for _ in range(4):
        chunks = [joined(chunk) for chunk in chunker.chunks(Message(0, (bytes(30),)), 10)]
        assert [feed(assembler, chunk) is not None for chunk in chunks] == [False, False, True]


def test_the_flag_of_descriptors_is_on_the_first_chunk_alone() -> None:
    message = Message(0, (bytes(30),), descriptors=(5,))
    flags = [joined(chunk)[2] & DESCRIPTORS for chunk in Chunker().chunks(message, 10)]
    assert flags == [DESCRIPTORS, 0, 0]


# --------------------------------------------------------------------------------------- hostile


HOSTILE = {
    "another magic": header(FIRST | LAST, 1, 1, magic=b"xx") + b"x",
    "an unknown flag": header(16, 1, 1) + b"x",
    "2⁶³ bytes": header(FIRST, 1, 2**63) + b"x",
    "2⁶⁴-1 bytes": header(FIRST | LAST, 0, 2**64 - 1),
    "more than the limit": header(FIRST, 1, BIG + 1) + b"x",
    "a chunk larger than its message": header(FIRST, 2, 1) + b"xx",
    "a chunk larger than any": header(FIRST, MAX_CHUNK + 1, BIG) + b"x",
    "a chunk of 4 GiB": header(FIRST, 2**32 - 1, BIG) + b"x",
    "a whole message that is shorter than it says": header(FIRST | LAST, 1, 5) + b"x",
    "one chunk that is the last of more": header(FIRST | LAST, 1, 2) + b"x",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_raise(name: str) -> None:
    assembler = Assembler(BIG, "pipe:")
    with pytest.raises(kin.CorruptChannel, match=r"^pipe: "):
        feed(assembler, HOSTILE[name])
    assert not assembler.partials


SUMS = {
    "more than announced": [(FIRST, 6, 10), (0, 6, 10)],
    "less than announced": [(FIRST, 6, 10), (LAST, 2, 10)],
    "another total": [(FIRST, 6, 10), (LAST, 4, 11)],
    "an empty end too early": [(FIRST, 6, 10), (LAST, 0, 10)],
}


@pytest.mark.parametrize("name", SUMS)
def test_chunks_that_do_not_add_up_raise_and_are_forgotten(name: str) -> None:
    assembler = Assembler(BIG, "pipe:")
    *begin, last = (header(*chunk) + b"x" * chunk[1] for chunk in SUMS[name])
    for chunk in begin:
        assert feed(assembler, chunk) is None
    with pytest.raises(kin.CorruptChannel):
        feed(assembler, last)
    assert not assembler.partials
    assert assembler.dropped == 1
    assert feed(assembler, header(FIRST | LAST, 1, 1) + b"x") is not None


@given(
    headers=st.lists(
        st.tuples(
            st.integers(0, 15),
            st.integers(0, 3),
            st.integers(0, 3),
            st.integers(0, 1),
            st.integers(0, 1),
        ),
        max_size=12,
    ),
    into_room=st.booleans(),
)
def test_any_headers_give_messages_of_the_announced_size_or_raise(
    headers: list[tuple[int, ...]], into_room: bool
) -> None:
    assembler = Assembler(BIG, "pipe:")
    for flags, length, total, nonce, sequence in headers:
        chunk = header(flags, length, total, sender=(1, nonce), sequence=sequence)
        try:
            message = feed(assembler, chunk + b"x" * length, into_room)
        except kin.CorruptChannel:
            continue
        if message is not None:
            assert message.size == total
            assert bytes(message.body) == b"x" * total
    assert len(assembler.partials) <= 2


def test_memory_grows_with_what_came_and_not_with_promises() -> None:
    assembler = Assembler(BIG, "pipe:")
    promise = header(FIRST, 1, BIG) + b"x"
    feed(assembler, promise)
    tracemalloc.start()
    try:
        for nonce in range(100):
            feed(assembler, header(FIRST, 1, BIG, sender=(1, nonce)) + b"x")
            feed(assembler, promise)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
        assembler.forget_all()
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_large_message_takes_its_own_size_and_little_more() -> None:
    total = 8 << 20
    chunks = [joined(chunk) for chunk in Chunker().chunks(Message(0, (bytes(total),)), MAX_CHUNK)]
    assembler = Assembler(BIG, "pipe:")
    tracemalloc.start()
    try:
        results = [feed(assembler, chunk) for chunk in chunks]
        assert results[-1] is not None
        assert results[-1].size == total
        assert tracemalloc.get_traced_memory()[1] < 2.5 * total
        assert tracemalloc.get_traced_memory()[0] < 1.2 * total
    finally:
        tracemalloc.stop()


def test_an_abort_of_nothing_is_nothing() -> None:
    assembler = Assembler(BIG, "pipe:")
    assert feed(assembler, header(ABORT, 0, 0)) is None
    assert feed(assembler, header(ABORT | LAST, 0, 0)) is None
    assert assembler.dropped == 0


def test_two_living_ends_of_a_process_differ_when_the_numbers_go_round() -> None:
    """Two with the same (pid, nonce) on one pipe would put their chunks into each other's messages."""
    first = Chunker()
    seen = {Chunker()._nonce for _ in range(1 << 16)}  # each gone at once
    second = Chunker()
    assert first._nonce not in seen | {second._nonce}
    assert len(seen) > 1 << 15  # other ends of this process may live
    assert {nonce >> 16 for nonce in seen} == {first._nonce >> 16}


def test_a_process_with_all_numbers_taken_says_so() -> None:
    living = []
    with contextlib.suppress(kin.LimitReached):
        for _ in range((1 << 16) + 1):
            living.append(Chunker())  # noqa: PERF401 — those before it fails live on
    with pytest.raises(kin.LimitReached, match="65536 sending ends"):
        Chunker()
    living.pop()
    Chunker()


def test_a_forked_copy_takes_no_number_away_and_keeps_none(peers: Peers) -> None:
    chunker = Chunker()

    def count(voice: Any) -> tuple[int, int]:
        before = len(framing._numbers)
        chunker.single(Message(0, (b"",)))
        return before, len(framing._numbers)

    before, after = peers.fork(count).result()
    assert before == after
