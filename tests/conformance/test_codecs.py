"""Codecs on every mechanism, beyond `test_objects`: many arrays in one object, odd dtypes, refusals that
name a codec which can, and batches of anything against a plain list."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import kinfolk as kin
from kinfolk.channels.codec import encode
from tests.conformance.fixtures import main_ways, only
from tests.conformance.link import Link
from tests.conformance.peers import HANG, thread_of
from tests.conformance.test_objects import both, carries

CODECS = pytest.mark.parametrize("codec", ["pickle", "msgpack"])
_RECORD = [("when", "M8[us]"), ("place", "<f4", (2, 3)), ("inner", [("a", "i1"), ("b", "U4")])]
ODD: list[np.ndarray] = [
    np.zeros(3, dtype=_RECORD),
    np.zeros(
        3, dtype=np.dtype({"names": ["a"], "formats": ["<u2"], "offsets": [6], "itemsize": 16})
    ),
    np.array(["2020-01-01T12:00:00.000001", "NaT"], dtype="M8[us]"),
    np.array([1, -1], dtype="m8[ns]"),
    np.array(["å", "text"]),
    np.array([b"\0a", b""]),
    np.array([1.5, np.nan, np.inf], dtype="f2"),
    np.array(3, dtype="M8[D]"),
    np.empty((2, 0, 5), dtype="M8[D]", order="F"),
    np.asfortranarray(np.arange(24, dtype="<i2").reshape(2, 3, 4)),
    np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0)[::-1],
    np.broadcast_to(np.arange(4), (3, 4)),
    np.frombuffer(b"\0" + bytes(range(16)), dtype="<u4", offset=1),  # not aligned
]


def same(one: Any, other: np.ndarray) -> bool:
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@main_ways
@CODECS
def test_odd_arrays(link: Link, codec: str):
    ends = both(link, codec)
    if ends is None:
        return
    receiver, sender = ends
    for array in ODD:
        for copy in (False, True):
            received = carries(receiver, sender, [array, "beside it"], copy=copy)
            assert same(received[0], array), array
            assert received[1] == "beside it"
            if array.size and array.ndim:
                assert received[0].flags.writeable == copy


@main_ways
@CODECS
@pytest.mark.parametrize("count", [3, 100, 700])
def test_many_arrays_in_one_object(link: Link, codec: str, count: int):
    """More than writev(2) takes pieces at once, with an object around and inside."""
    ends = both(link, codec)
    if ends is None:
        return
    receiver, sender = ends
    thing: dict[str, Any] = {
        "rows": [{"n": n, "a": np.full(n % 7, n, dtype="<i4")} for n in range(count)]
    }
    if codec == "pickle":
        thing["again"] = thing["rows"][0]["a"]
    if encode(thing, sender.codec).size > sender.limits.max_message:
        with pytest.raises(kin.MessageTooBig):
            sender.send(thing, timeout=HANG)
        assert carries(receiver, sender, "after it") == "after it"
        return
    received = carries(receiver, sender, thing, copy=True)
    for n, row in enumerate(received["rows"]):
        assert row["n"] == n
        assert same(row["a"], thing["rows"][n]["a"])
        row["a"][...] = -1  # each is its own
    if codec == "pickle":
        assert received["again"] is received["rows"][0]["a"]


@main_ways
def test_what_the_kernel_would_split_or_refuse(link: Link):
    """Around one atomic write, one packet, one queue message: arrays as large as the limits let them be."""
    receiver, sender = link.both()
    largest = sender.limits.max_message
    for size in (4096, 60_000, 65_536, 212_000, 262_144, 300_000, 1 << 20, 9 << 20):
        array = np.arange(size // 8, dtype="<u8")
        if size > largest:
            with pytest.raises(kin.MessageTooBig) as caught:
                sender.send(array, timeout=HANG)
            assert str(largest) in str(caught.value)
            assert caught.value.remedy
        else:
            assert np.array_equal(carries(receiver, sender, {"a": array})["a"], array)


def test_several_arrays_in_a_batch_stay_apart(link: Link):
    receiver, sender = link.both()
    size = min(500, sender.limits.max_message // 16)
    arrays = [np.full(size, number, dtype="<u2") for number in range(50)]
    with thread_of(sender.send_many, arrays, timeout=HANG) as call:
        received: list[np.ndarray] = []
        while len(received) < len(arrays):
            received += receiver.recv_many(7, timeout=HANG, copy=len(received) % 2 == 0)
        assert call.result() == len(arrays)
    for number, array in enumerate(received):
        assert (array == number).all(), "it was overwritten by what came after it"


# ------------------------------------------------------------------------------------ refusals

REFUSED: dict[str, list[tuple[Any, str]]] = {
    # what the codec can't, and a codec that the remedy names
    "msgpack": [({1, 2j}, "pickle"), ([object()], "pickle"), (2**70, "pickle")],
    "json": [([b"x", np.arange(3)], "msgpack"), (np.arange(3), "msgpack"), (1j, "msgpack")],
    "raw": [("text", "msgpack"), ([1], "pickle"), (None, "pickle")],
    "pickle": [(lambda: 1, "")],
}


@pytest.mark.parametrize("codec", REFUSED)
def test_what_a_codec_can_not_is_refused_whole(link: Link, codec: str):
    ends = both(link, codec)
    if ends is None:
        return
    receiver, sender = ends
    for thing, able in REFUSED[codec]:
        with pytest.raises(kin.CodecError) as caught:
            sender.send(thing, timeout=0)
        assert able in caught.value.remedy
        assert re.search(codec, str(caught.value))
        assert caught.value.subject == sender.address
        # The first of these goes out, and nothing of the second.
        with pytest.raises(kin.CodecError):
            sender.send_many([b"before", thing, b"never"], timeout=HANG)
        assert receiver.recv(timeout=HANG) == b"before"
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0)
    assert sender.statistics().messages_sent == len(REFUSED[codec])
    assert carries(receiver, sender, b"after all that") == b"after all that"


@only(lambda variant: variant.way == "named" and variant.scheme != "tcp")
@pytest.mark.parametrize("asked", ["msgpack", "json", "raw"])
def test_a_pickle_that_was_not_asked_for(link: Link, asked: str):
    """Alone and in the middle of a batch; what is around it comes."""
    with (
        kin.open_receiver(link.address, codec=asked, timeout=HANG) as receiver,
        kin.open_sender(link.address, codec="pickle", timeout=HANG) as sender,
    ):
        assert sender.send_many([b"1", {"a": np.arange(4)}, b"2", None, b"3"]) == 5
        got: list[Any] = []
        while len(got) < 5:
            try:
                got += receiver.recv_many(5, timeout=HANG)
            except kin.DecodeError as error:
                got.append("pickle" in error.remedy)
        assert got == [b"1", True, b"2", True, b"3"]


@main_ways
def test_bytes_as_the_codec_wrote_them(link: Link):
    """Another program can read them, without this library."""
    for codec, read in (("json", json.loads), ("msgpack", msgspec.msgpack.decode)):
        ends = both(link, codec)
        assert ends is not None
        receiver, sender = ends
        sender.send({"a": [1, "☃", None]})
        assert read(receiver.recv_bytes(timeout=HANG)) == {"a": [1, "☃", None]}
        link.options.clear()
        link.renew()


# ----------------------------------------------------------------------- against a plain list

_plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(max_size=20),
        st.binary(min_size=1, max_size=40),
    ),
    lambda inside: st.one_of(
        st.lists(inside, max_size=4), st.dictionaries(st.text(max_size=4), inside, max_size=4)
    ),
    max_leaves=12,
)
_dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.array_dtypes(hnp.integer_dtypes(), max_size=3),
)
_arrays = hnp.arrays(
    _dtypes, hnp.array_shapes(min_dims=0, min_side=0, max_side=5), fill=st.nothing()
)
_sized = st.integers(1, 3000).map(lambda size: bytes([size % 251]) * size)
_batches = st.lists(st.lists(st.one_of(_plain, _arrays, _sized), max_size=5), max_size=4)


def equal(one: Any, other: Any) -> bool:
    if isinstance(other, np.ndarray):
        return isinstance(one, np.ndarray) and same(one, other)
    return type(one) is type(other) and one == other


@settings(max_examples=8, suppress_health_check=list(HealthCheck), derandomize=True)
@given(batches=_batches, most=st.integers(1, 6), copy=st.booleans())
def check_batches(ends: tuple[Any, Any], batches: list[list[Any]], most: int, copy: bool):
    receiver, sender = ends
    for batch in batches:
        with thread_of(sender.send_many, batch, timeout=HANG) as call:
            received: list[Any] = []
            while len(received) < len(batch):
                some = receiver.recv_many(most, timeout=HANG, copy=copy)
                assert 1 <= len(some) <= most
                received += some
            assert call.result() == len(batch)
        assert all(map(equal, received, batch)), (received, batch)
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)


@main_ways
@CODECS
def test_batches_against_a_plain_list(link: Link, codec: str):
    ends = both(link, codec)
    if ends is not None:
        check_batches(ends)
