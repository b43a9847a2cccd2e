"""Objects there and back; and what hostile bytes can do: nothing but raise."""

from __future__ import annotations

import itertools
import os
import pickle
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import kinfolk as kin
from kinfolk.channels.address import Codec
from kinfolk.channels.codec import (
    JSON,
    KINDS,
    MSGPACK,
    OUT_OF_BAND,
    PICKLE,
    RAW,
    as_bytes_view,
    decode,
    encode,
)
from kinfolk.channels.contract import Message

CODECS: list[Codec] = ["pickle", "msgpack", "json", "raw"]

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
dtypes = (
    npst.scalar_dtypes()
    | npst.byte_string_dtypes(min_len=1, max_len=5)
    | npst.unicode_string_dtypes(min_len=1, max_len=5)
    | npst.nested_dtypes()
)
arrays = npst.arrays(dtypes, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


def travel(message: Message, joined: bool = True) -> Message:
    """As a mechanism hands it over: one piece."""
    return Message(message.kind, (b"".join(map(bytes, message.parts)),))


def same(one: Any, other: Any) -> bool:
    return (
        type(one) is type(other)
        and one.dtype == other.dtype
        and one.shape == other.shape
        and one.tobytes() == other.tobytes()
    )


# ------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("codec", ["pickle", "msgpack", "json"])
@given(obj=plain)
def test_plain_objects_come_back(codec: Codec, obj: Any) -> None:
    assert decode(travel(encode(obj, codec)), codec) == obj


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary())
def test_bytes_travel_as_they_are_with_every_codec(codec: Codec, data: bytes) -> None:
    message = encode(data, codec)
    assert message.kind == RAW
    assert message.parts[0] is data
    assert decode(travel(message), codec) == data


@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
@given(array=arrays)
def test_arrays_come_back_read_only_and_equal(codec: Codec, array: Any) -> None:
    message = travel(encode(array, codec))
    back = decode(message, codec)
    assert same(back, array)
    assert not back.flags.writeable
    own = decode(message, codec, copy=True)
    assert same(own, array)
    assert own.flags.writeable


@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
        np.arange(6.0).reshape(2, 3).T,
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.zeros((0, 3)),
        np.array(5, dtype=">i4"),
        np.zeros(2, dtype=np.dtype([("a", "u1"), ("b", "f8")], align=True)),
        np.zeros(2, dtype=[("a", "i4", (2, 3)), ("b", [("x", "f4"), ("t", "M8[ns]")])]),
        np.array(["2026-11-22", "NaT"], dtype="M8[D]"),
        np.zeros(3, dtype="S0"),
        np.zeros((2, 3), dtype="V0"),
        np.zeros(3, dtype=[]),
    ],
    ids=repr,
)
def test_odd_arrays(codec: Codec, array: Any) -> None:
    back = decode(travel(encode({"deep": [array]}, codec)), codec)["deep"][0]
    assert same(back, np.ascontiguousarray(array).reshape(array.shape))
    assert not (back.flags.writeable and array.dtype.itemsize)


@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
def test_arrays_are_not_copied_on_the_way_out_and_in(codec: Codec) -> None:
    array = np.arange(10000)
    message = encode([array, array[5000:]], codec)
    assert any(
        np.shares_memory(np.frombuffer(part, "u1"), array) for part in message.parts if len(part)
    )
    arrived = travel(message)
    for back in decode(arrived, codec):
        assert np.shares_memory(back, np.frombuffer(arrived.body, "u1"))
        assert back.ctypes.data % 16 == np.frombuffer(arrived.body, "u1").ctypes.data % 16


def test_buffers_of_pickle_buffer_travel_out_of_band() -> None:
    body = bytearray(b"x" * 1000)
    message = encode([pickle.PickleBuffer(body)], "pickle")
    assert message.kind == PICKLE | OUT_OF_BAND
    assert bytes(decode(travel(message), "pickle")[0]) == body


@given(count=st.integers(0, 5), lengths=st.lists(st.integers(0, 100), max_size=5), data=st.data())
def test_each_buffer_begins_at_a_multiple_of_16(count: int, lengths: list[int], data: Any) -> None:
    objects = [pickle.PickleBuffer(data.draw(st.binary(min_size=n, max_size=n))) for n in lengths]
    message = encode(objects, "pickle")
    back = decode(travel(message), "pickle")
    assert [bytes(one) for one in back] == [bytes(one) for one in objects]
    offsets = itertools.accumulate(map(len, message.parts), initial=0)
    for offset, part in zip(offsets, message.parts, strict=False):
        assert not isinstance(part, memoryview) or offset % 16 == 0


@given(st.data())
def test_any_contiguous_or_strided_buffer_has_bytes(data: Any) -> None:
    array = data.draw(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_side=0)))
    if array.dtype.kind in "mM":
        with pytest.raises(kin.CodecError, match="has no bytes"):
            as_bytes_view(array)
    else:
        view = as_bytes_view(array[::2])
        assert bytes(view) == array[::2].tobytes()
        assert len(view) == array[::2].nbytes


@pytest.mark.parametrize(
    "array",
    [
        np.array(["of any", "length" * 100], dtype=np.dtypes.StringDType()),
        np.array([None, "a", 5], dtype=object),
        np.zeros(2, dtype=[("a", "O"), ("b", "i4")]),
    ],
    ids=repr,
)
def test_arrays_whose_bytes_are_addresses_are_pickled(array: Any) -> None:
    array.flags.writeable = False
    back = decode(travel(encode([array], "pickle")), "pickle")[0]
    assert (back.dtype, back.tolist()) == (array.dtype, array.tolist())


# ----------------------------------------------------------------------------------- what can't


@pytest.mark.parametrize("dtype", ["O", [("a", "i4"), ("b", "O")]], ids=str)
def test_addresses_are_no_bytes_to_send(dtype: Any) -> None:
    with pytest.raises(kin.CodecError, match="addresses of Python objects"):
        as_bytes_view(np.zeros(3, dtype))
    assert len(as_bytes_view(np.zeros(3, [("O", "i4"), ("OO", "u1", (2,))]))) == 18


@pytest.mark.parametrize(
    ("codec", "obj", "names"),
    [
        ("pickle", lambda: None, "lambda"),
        ("pickle", open(os.devnull, "rb"), "open files"),  # noqa: SIM115
        ("msgpack", object(), "codec=pickle"),
        ("msgpack", np.array([object()]), "codec=pickle"),
        ("msgpack", 2**64, "codec=pickle"),
        ("json", np.arange(3), "codec=msgpack"),
        ("json", {1, object()}, "codec=msgpack"),
        ("raw", "text", "codec=pickle"),
        ("raw", np.zeros(2, "M8[s]"), "codec=pickle"),
    ],
)
def test_what_a_codec_cannot_is_told_with_the_codec_that_can(
    codec: Codec, obj: Any, names: str
) -> None:
    with pytest.raises(kin.CodecError, match=f"the {codec} codec can't encode a ") as caught:
        encode(obj, codec)
    assert names in caught.value.remedy
    if hasattr(obj, "close"):
        obj.close()


def test_an_error_of_the_objects_own_is_told() -> None:
    class Odd:
        def __reduce__(self) -> Any:
            raise LookupError("not me")

    with pytest.raises(kin.CodecError, match="LookupError: not me"):
        encode(Odd(), "pickle")


def exploding() -> Any:
    raise AssertionError("a pickle was loaded")


class Bomb:
    def __reduce__(self) -> Any:
        return exploding, ()


@pytest.mark.parametrize("allowed", ["msgpack", "json", "raw"])
@pytest.mark.parametrize("kind", [PICKLE, PICKLE | OUT_OF_BAND])
def test_a_pickle_is_not_touched_by_who_did_not_ask_for_it(allowed: Codec, kind: int) -> None:
    with pytest.raises(kin.DecodeError, match="codec=pickle"):
        decode(Message(kind, (pickle.dumps(Bomb()),)), allowed)


@pytest.mark.parametrize("allowed", CODECS)
@pytest.mark.parametrize("sent", ["msgpack", "json", "raw"])
def test_harmless_kinds_are_decoded_by_everybody(allowed: Codec, sent: Codec) -> None:
    obj = b"x" if sent == "raw" else [1, "x"]
    assert decode(travel(encode(obj, sent)), allowed) == obj


def test_what_the_pickle_raises_is_a_decode_error() -> None:
    with pytest.raises(kin.DecodeError, match="AssertionError: a pickle was loaded"):
        decode(Message(PICKLE, (pickle.dumps(Bomb()),)), "pickle")


# --------------------------------------------------------------------------------------- hostile


def table(*lengths: int, count: int | None = None, then: bytes = b"") -> bytes:
    number = len(lengths) - 1 if count is None else count
    return struct.pack(f"<II{len(lengths)}Q", number, 0, *lengths) + then


def extension(index: Any, dtype: Any, shape: Any, buffer: bytes = bytes(16)) -> bytes:
    body = msgspec.msgpack.encode(
        msgspec.msgpack.Ext(1, msgspec.msgpack.encode([index, dtype, shape]))
    )
    start = table(len(body), len(buffer))
    padded = start + bytes(-len(start) % 16) + body
    return padded + bytes(-len(padded) % 16) + buffer


DEEP: Any = ["u1", [2]]
for _ in range(300):
    DEEP = [DEEP, [1]]

HOSTILE: dict[str, tuple[int, bytes]] = {
    "no table": (OUT_OF_BAND, b""),
    "half a count": (OUT_OF_BAND, b"\0\0\0"),
    "a count and no lengths": (OUT_OF_BAND, struct.pack("<II", 0, 0)),
    "billions of buffers": (OUT_OF_BAND, struct.pack("<II", 2**32 - 1, 0) + bytes(64)),
    "one buffer too many": (OUT_OF_BAND, table(1, count=1, then=b"x" * 8)),
    "a length of 2⁶³": (OUT_OF_BAND, table(2**63, then=b"x" * 64)),
    "a length of 2⁶⁴-1": (OUT_OF_BAND, table(2**64 - 1, then=b"x" * 64)),
    "lengths that overflow together": (OUT_OF_BAND, table(2**64 - 16, 32, then=b"x" * 64)),
    "a buffer past the end": (OUT_OF_BAND, table(1, 100, then=b"x" * 64)),
    "an unknown kind": (77, b"x"),
    "an unknown kind with buffers": (77 | OUT_OF_BAND, table(1, then=b"x" * 32)),
    "broken msgpack": (MSGPACK, b"\xc1"),
    "empty msgpack": (MSGPACK, b""),
    "msgpack that promises 2³² elements": (MSGPACK, b"\xdd\xff\xff\xff\xff"),
    "msgpack that promises 4 GiB": (MSGPACK, b"\xc6\xff\xff\xff\xff"),
    "msgpack too deep": (MSGPACK, b"\x91" * 100000),
    "an array without buffers": (
        MSGPACK,
        msgspec.msgpack.encode(
            msgspec.msgpack.Ext(1, msgspec.msgpack.encode([0, "u1", [1]])),
        ),
    ),
    "an array of another buffer": (MSGPACK | OUT_OF_BAND, extension(1, "u1", [16])),
    "an array of buffer -1": (MSGPACK | OUT_OF_BAND, extension(-1, "u1", [16])),
    "an array of objects": (MSGPACK | OUT_OF_BAND, extension(0, "O", [2])),
    "a field of objects": (
        MSGPACK | OUT_OF_BAND,
        extension(0, {"names": ["a"], "formats": ["O"], "offsets": [0], "itemsize": 8}, [2]),
    ),
    "overlapping objects": (
        MSGPACK | OUT_OF_BAND,
        extension(0, [{"names": ["a"], "formats": ["O"], "offsets": [0], "itemsize": 8}, [2]], [1]),
    ),
    "a field past its structure": (
        MSGPACK | OUT_OF_BAND,
        extension(0, {"names": ["a"], "formats": ["u8"], "offsets": [60], "itemsize": 8}, [2]),
    ),
    "a shape larger than the buffer": (MSGPACK | OUT_OF_BAND, extension(0, "u1", [1 << 40])),
    "a shape that overflows": (MSGPACK | OUT_OF_BAND, extension(0, "u1", [1 << 62, 1 << 62])),
    "two unknown dimensions": (MSGPACK | OUT_OF_BAND, extension(0, "u1", [-1, -1])),
    "a dtype that is none": (MSGPACK | OUT_OF_BAND, extension(0, "nonsense", [1])),
    "a dtype that is a number": (MSGPACK | OUT_OF_BAND, extension(0, 7, [1])),
    "a dtype of terabytes": (MSGPACK | OUT_OF_BAND, extension(0, "V2147483647", [1])),
    "a dtype nested too deep": (MSGPACK | OUT_OF_BAND, extension(0, DEEP, [1])),
    "a description that is none": (
        MSGPACK,
        msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"\xc1")),
    ),
    "broken json": (JSON, b"{"),
    "json that is no text": (JSON, b'"\xff"'),
    "json too deep": (JSON, b"[" * 100000),
    "an empty pickle": (PICKLE, b""),
    "a broken pickle": (PICKLE, b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "a pickle of a missing buffer": (PICKLE, b"\x80\x05\x97."),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_raise(name: str) -> None:
    kind, body = HOSTILE[name]
    with pytest.raises((kin.DecodeError, kin.CorruptChannel)):
        decode(Message(kind, (body,)), "pickle")


@given(kind=st.integers(0, 255), body=st.binary(max_size=200))
def test_any_bytes_decode_or_raise(kind: int, body: bytes) -> None:
    if kind & ~OUT_OF_BAND == PICKLE:
        kind ^= PICKLE ^ MSGPACK  # a pickle may do anything
    try:
        decode(Message(kind, (body,)), "pickle")
    except (kin.DecodeError, kin.CorruptChannel):
        pass


@pytest.mark.parametrize("codec", ["pickle", "msgpack"])
@given(data=st.data())
def test_a_message_with_buffers_that_was_damaged_decodes_or_raises(codec: Codec, data: Any) -> None:
    message = travel(encode([np.arange(5), {"a": np.zeros(3, "u1")}], "msgpack"))
    body = bytearray(message.body)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    try:
        decode(Message(message.kind, (bytes(body),)), codec)
    except (kin.DecodeError, kin.CorruptChannel):
        pass


def test_the_kinds_are_what_the_wire_says() -> None:
    assert KINDS == {"raw": 0, "pickle": 1, "msgpack": 2, "json": 3}
