"""One NumPy array as the body of a message: its type and shape in plain bytes, and its bytes.

    1 u32, 0 u32, length u64 of the description, length u64 of the bytes │ pad │ description │ bytes, at a multiple of 64

The description is the number of dimensions and their lengths (i64 each), and the type: as NumPy writes it, or, of one that has
more to say, JSON. It is what an out-of-band message of one buffer looks like (`kinfolk.channels.codec`), and a pickle of
nothing: whoever sends it can harm nobody.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from kinfolk.channels.contract import Buffer
from kinfolk.errors import CorruptChannel, DecodeError

_ONE = struct.Struct("<IIQQ")
_ALIGNMENT = 16
_ARRAY_ALIGNMENT = 64  # a cache line, and what vector instructions like best


def array_alone(obj: Any) -> Sequence[Buffer] | None:
    """The pieces of a message of kind `ARRAY`, or None for what is no plain array."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(obj) is not numpy.ndarray:
        return None
    dtype = obj.dtype
    if not obj.flags.c_contiguous or not _is_plain(dtype):
        return None
    return array_head(dtype, obj.shape), bytes_of_array(obj)


@lru_cache(64)
def _is_plain(dtype: Any) -> bool:
    """Whether its string says all of it."""
    return bool(
        dtype.kind in "biufcmMSU"
        and dtype.metadata is None
        and sys.modules["numpy"].dtype(dtype.str) == dtype
    )


@lru_cache(64)
def array_head(dtype: Any, shape: tuple[int, ...]) -> bytes:
    """What comes before the bytes of an array, at the beginning of a message of kind `ARRAY`. Raises ValueError."""
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} holds Python objects, which are of one process")
    name: str = dtype.str
    if not _is_plain(dtype):
        import msgspec

        name = msgspec.json.encode(described(dtype)).decode()
    text = struct.pack(f"<{len(shape) + 1}q", len(shape), *shape) + name.encode()
    begin = _ONE.size + -_ONE.size % _ALIGNMENT
    end = -(-(begin + len(text)) // _ARRAY_ALIGNMENT) * _ARRAY_ALIGNMENT
    nbytes = math.prod(shape) * dtype.itemsize
    table = _ONE.pack(1, 0, end - begin, nbytes)
    return table.ljust(begin, b"\0") + text.ljust(end - begin, b" ")


def array_in(view: memoryview) -> Any:
    """The array of a message of kind `ARRAY`, over its bytes: the same as `decode`, in a quarter of the time."""
    try:
        count, _, length, nbytes = _ONE.unpack_from(view)
    except struct.error:
        raise CorruptChannel("a message is too short for an array") from None
    begin = _ONE.size + -_ONE.size % _ALIGNMENT
    end = begin + length
    start = end + -end % _ALIGNMENT
    if count != 1 or start + nbytes > len(view):
        raise CorruptChannel("an array does not fit into its message")
    shape, dtype, size = _array_description(bytes(view[begin:end]))
    if size != nbytes:
        raise CorruptChannel("the description of an array is wrong")
    return sys.modules["numpy"].ndarray(shape, dtype, view, start)


@lru_cache(64)
def _array_description(text: bytes) -> tuple[tuple[int, ...], Any, int]:
    try:
        import numpy
    except ImportError:
        raise DecodeError(
            "the message is an array, and NumPy is not installed", remedy="pip install numpy"
        ) from None
    (count,) = struct.unpack_from("<q", text)
    if not 0 <= count <= 64:
        raise CorruptChannel("the description of an array is wrong")
    shape = struct.unpack_from(f"<{count}q", text, 8)
    name = text[8 * (count + 1) :].decode().rstrip()
    if name[:1] in ("{", "["):
        import msgspec

        dtype = numpy.dtype(as_dtype(msgspec.json.decode(name)))
    else:
        dtype = numpy.dtype(name)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise CorruptChannel("the description of an array is wrong")
    return shape, dtype, math.prod(shape) * dtype.itemsize


def bytes_of_array(array: Any) -> memoryview:
    """The bytes of an array of any type, in C order; copies only what is not contiguous."""
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    return memoryview(array.reshape(-1).view("u1"))


def described(dtype: Any) -> Any:
    """A dtype as plain objects: its string, [base, shape] of a subarray, or the fields of a structure."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [described(base), shape]
    if dtype.names is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    return {
        "names": dtype.names,
        "formats": [described(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": [field[2] if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
    }


def as_dtype(description: Any) -> Any:
    """What numpy.dtype takes for a description."""
    if isinstance(description, list):
        base, shape = description
        return as_dtype(base), tuple(shape)
    if isinstance(description, dict):
        return description | {"formats": [as_dtype(one) for one in description["formats"]]}
    return description


def array_of(buffer: Buffer, dtype: Any, shape: Sequence[int]) -> Any:
    """The array whose bytes `bytes_of_array` gave."""
    import numpy

    return numpy.ndarray(shape, dtype, buffer)  # frombuffer takes no items of no bytes
