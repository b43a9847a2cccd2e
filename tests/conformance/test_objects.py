"""Objects: the codecs, arrays out of band, and what can't be encoded or decoded."""

from __future__ import annotations

import datetime
import decimal
import functools
from typing import Any

import numpy as np
import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways, only
from tests.conformance.link import Link
from tests.conformance.peers import HANG, thread_of

PLAIN: list[Any] = [
    None,
    True,
    -1,
    2**62,
    1.5,
    "text ☃",
    [1, [2, [3]]],
    {"a": {"b": [None, "c"]}},
    [],
    {},
]


def both(link: Link, codec):
    if codec == "pickle" and link.variant.scheme == "tcp":
        link.address = link.address.replace("codec=msgpack", "codec=pickle")
        with pytest.raises((kin.UntrustedPeer, kin.Unsupported, kin.AddressError)) as caught:
            link.both()
        assert "msgpack" in caught.value.remedy
        return None
    link.address = link.address.replace("codec=msgpack&", "").replace("?codec=msgpack", "")
    link.options["codec"] = codec
    return link.both()


def carries(receiver, sender, thing, **options):
    with thread_of(sender.send, thing, timeout=HANG) as call:
        received = receiver.recv(timeout=HANG, **options)
        call.result()
    return received


@pytest.mark.parametrize("codec", ["msgpack", "json"])
def test_plain_objects(link: Link, codec):
    receiver, sender = both(link, codec)
    assert sender.codec == receiver.codec == codec
    for thing in PLAIN:
        assert carries(receiver, sender, thing) == thing
    for thing in (lambda: 1, object(), 1j):
        with pytest.raises(kin.CodecError) as caught:
            sender.send(thing)
        assert caught.value.remedy
        assert codec in str(caught.value)
    assert sender.statistics().messages_sent == len(PLAIN)
    assert carries(receiver, sender, "after the error") == "after the error"


def test_pickles(link: Link):
    ends = both(link, "pickle")
    if ends is None:
        return
    receiver, sender = ends
    things = [*PLAIN, 1j, {1, 2}, (1, (2,)), datetime.date(2020, 2, 29), decimal.Decimal("0.1")]
    for thing in [*things, bytearray(b"x"), functools.partial(int, "7")]:
        received = carries(receiver, sender, thing)
        if isinstance(thing, functools.partial):
            assert received() == 7
        else:
            assert received == thing
            assert type(received) is type(thing)
    with pytest.raises(kin.CodecError) as caught:
        sender.send(lambda: 1)
    assert caught.value.remedy
    assert isinstance(caught.value, ValueError)


def test_raw(link: Link):
    receiver, sender = both(link, "raw")
    for thing in (b"bytes", bytearray(b"array"), memoryview(b"view"), memoryview(b"abcdef")[::2]):
        assert carries(receiver, sender, thing) == bytes(thing)
    with pytest.raises(kin.CodecError) as caught:
        sender.send("text")
    assert caught.value.remedy


class Explodes:
    """A pickle that does harm where it is loaded."""

    def __reduce__(self):
        return (_explode, ())


def _explode():
    raise RuntimeError("the pickle was loaded")


def test_what_cant_be_made_here_is_consumed(link: Link):
    ends = both(link, "pickle")
    if ends is None:
        return
    receiver, sender = ends
    sender.send(Explodes())
    sender.send("next")
    with pytest.raises(kin.DecodeError, match="the pickle was loaded"):
        receiver.recv(timeout=HANG)
    assert receiver.recv(timeout=HANG) == "next"
    sender.send_many([1, Explodes(), 2])
    assert receiver.recv_many(5, timeout=HANG) == [1]
    with pytest.raises(kin.DecodeError):
        receiver.recv_many(5, timeout=HANG)
    assert receiver.recv_many(5, timeout=HANG) == [2]


@only(lambda variant: variant.way == "named" and variant.scheme != "tcp")
def test_a_pickle_is_not_loaded_where_it_was_not_asked_for(link: Link):
    """A sender with pickle, a receiver with msgpack: it says so, and loads nothing."""
    receiver = kin.open_receiver(link.address, codec="msgpack")
    with receiver, kin.open_sender(link.address, codec="pickle", timeout=HANG) as sender:
        sender.send(Explodes())
        sender.send(b"raw bytes are for everybody")
        with pytest.raises(kin.DecodeError, match="pickle") as caught:
            receiver.recv(timeout=HANG)
        assert "loaded" not in str(caught.value.__cause__)
        assert caught.value.remedy
        assert receiver.recv(timeout=HANG) == b"raw bytes are for everybody"


# ----------------------------------------------------------------------------------- arrays

STRUCTURED = np.array(
    [(1, 2.5, b"ab"), (2, -1.0, b"")], dtype=[("n", "<i4"), ("x", "<f8"), ("s", "S3")]
)
ARRAYS = {
    "one dimension": np.arange(200, dtype="<i8"),
    "a matrix": np.arange(60.0).reshape(6, 10),
    "Fortran order": np.asfortranarray(np.arange(60).reshape(6, 10)),
    "not contiguous": np.arange(600)[::3],
    "a transposed slice": np.arange(600).reshape(20, 30)[1:7:2, ::-5].T,
    "zero size": np.empty((0, 3), dtype="f4"),
    "no dimensions": np.array(7.5),
    "big-endian": np.arange(9, dtype=">u2"),
    "bool": np.array([True, False]),
    "structured": STRUCTURED,
    "dates": np.array(["2020-02-29", "NaT"], dtype="M8[D]"),
    "complex": np.array([1 + 2j]),
}


@main_ways
@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
def test_arrays(link: Link, codec):
    ends = both(link, codec)
    if ends is None:
        return
    receiver, sender = ends
    for name, array in ARRAYS.items():
        for copy in (False, True):
            received = carries(receiver, sender, {"a": array, "b": [array, 1]}, copy=copy)
            for one in (received["a"], received["b"][0]):
                assert one.dtype == array.dtype, name
                assert one.shape == array.shape, name
                assert one.tobytes() == array.tobytes(), name
                assert one.flags.writeable == copy or one.size == 0 or one.ndim == 0, name
        if array.size and array.ndim:
            with pytest.raises(ValueError, match="read-only"):
                carries(receiver, sender, array)[...] = 0
            own = carries(receiver, sender, array, copy=True)
            own[...] = np.zeros((), dtype=array.dtype)
    objects = np.array([object()], dtype=object)
    with pytest.raises(kin.CodecError):
        sender.send({"a": objects, "b": lambda: 1})


@main_ways
def test_a_large_array(link: Link):
    """Of the largest size that fits; what was sent may be changed as soon as send has returned."""
    receiver, sender = link.both()
    largest = min(20 << 20, sender.limits.max_message - 1000)
    array = np.arange(largest // 8, dtype="<i8")
    before = array.copy()

    def sending():
        sender.send(array, timeout=HANG)
        array[:] = -1

    with thread_of(sending) as call:
        received = receiver.recv(timeout=HANG)
        call.result()
    assert np.array_equal(received, before)


def test_a_received_array_outlives_what_follows(link: Link):
    receiver, sender = link.both()
    first = carries(receiver, sender, np.full(300, 7))
    for number in range(20):
        carries(receiver, sender, np.full(300, number))
    receiver.close()
    sender.close()
    assert (first == 7).all()
