"""Objects to messages and back.

A message has a kind, one byte, which travels in the mechanism's own header:

    0 raw       the bytes themselves (what send_bytes sends, and any `bytes` object)
    1 pickle    protocol 5
    2 msgpack   through msgspec
    3 json      through msgspec
    4 array     one NumPy array, out of band: its type and shape in plain bytes, for every receiver
    5 memory    bytes that are looked at where they are (`Sender.reserve`): recv() gives a memoryview
    +128        out of band: the body begins with a table, and buffers follow the encoded object

        count u32, 0 u32, length u64 × (count + 1)  │ object │ pad │ buffer 1 │ pad │ buffer 2 …
                          └ of the object, then of each buffer       each begins at a multiple of 16

Rules:
1. Arrays never go through the encoder: NumPy arrays and `pickle.PickleBuffer`s travel as buffers, without
   a copy on the sending side, and are views of the received message on the other.
2. What is received is read-only, unless the receiver asked for a copy of its own.
3. A receiver decodes pickles only if it was opened with the pickle codec: `allowed`. msgpack, json and raw can harm
   nobody and are always decoded, so a sender may choose them alone.
4. Every length in the table is checked against the message before it is used. What is decoded is copied out of memory that
   others can write first: the buffers alone are not.
5. msgspec is imported by what uses it: it takes a third of the time in which a program opens a channel.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import re
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kinfolk.channels.address import Codec
from kinfolk.channels.array_format import (
    array_alone,
    array_in,
    array_of,
    as_dtype,
    bytes_of_array,
    described,
)
from kinfolk.channels.contract import Buffer, Message
from kinfolk.errors import CodecError, CorruptChannel, DecodeError

if TYPE_CHECKING:
    import msgspec

RAW, PICKLE, MSGPACK, JSON, ARRAY, MEMORY = range(6)
OUT_OF_BAND = 0x80

KINDS: dict[Codec, int] = {"raw": RAW, "pickle": PICKLE, "msgpack": MSGPACK, "json": JSON}

_ALIGNMENT = 16
_MOST_PIECES = 512  # half of what writev(2) and sendmsg(2) take at once; a header comes before them
_COUNTS = struct.Struct("<II")
_ARRAY_EXTENSION = 1  # msgpack ext type: [index of the buffer, described dtype, shape]


def encode(obj: object, codec: Codec) -> Message:
    """The message for an object. Raises CodecError, which names the codec that could."""
    if type(obj) is bytes:
        return Message(RAW, (obj,))
    if codec in _TAKE_ARRAYS and (alone := array_alone(obj)) is not None:
        return Message(ARRAY | OUT_OF_BAND, alone)
    buffers: list[memoryview] = []
    try:
        body = _ENCODERS[codec](obj, buffers)
    except CodecError:
        raise
    except Exception as error:
        raise CodecError(
            f"the {codec} codec can't encode a {type(obj).__qualname__}",
            why=f"{type(error).__name__}: {error}",
            remedy=_OTHER_CODECS[codec],
        ) from error
    kind = KINDS[codec]
    if not buffers:
        return Message(kind, (body,))
    pieces = list(_with_table(body, buffers))
    if len(pieces) > _MOST_PIECES:
        pieces = [b"".join(pieces)]
    return Message(kind | OUT_OF_BAND, pieces)


def decode(message: Message, allowed: Codec, *, copy: bool = False) -> Any:
    """The object of a message. Raises DecodeError, or CorruptChannel for a body that can't be one.

    ``allowed`` is the codec that this end was opened with; ``copy`` gives arrays that may be written.
    """
    kind = message.kind & ~OUT_OF_BAND
    if kind == PICKLE and allowed != "pickle":
        raise DecodeError(
            f"a pickle came, but this end was opened with codec={allowed!r}",
            why="loading a pickle runs whatever it says",
            remedy="if you trust the sender, open this end with codec=pickle",
        )
    body: Buffer = message.body
    buffers: list[Buffer] = []
    if message.kind == ARRAY | OUT_OF_BAND:
        return _guarded(
            array_in, memoryview(bytearray(body)) if copy else memoryview(body).toreadonly()
        )
    if message.kind & OUT_OF_BAND:
        body, *buffers = _split(body)
        if isinstance(message.body, memoryview):
            body = bytes(body)
        if copy:
            buffers = [bytearray(buffer) for buffer in buffers]
    if kind == MEMORY:
        return bytearray(body) if copy else memoryview(body).toreadonly()
    if kind == RAW:
        return body if isinstance(body, bytes) else bytes(body)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise CorruptChannel(
            f"a message of unknown kind {kind} came", remedy="update the older side"
        )
    return _guarded(decoder, body, buffers)


def _guarded(decoder: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return decoder(*arguments)
    except (DecodeError, CorruptChannel):
        raise
    except Exception as error:
        raise DecodeError(
            "the object in the message can't be made here", why=f"{type(error).__name__}: {error}"
        ) from error


# ── the table before out-of-band buffers ─────────────────────────────────────────────────────


def _with_table(body: Buffer, buffers: Sequence[memoryview]) -> Iterator[Buffer]:
    lengths = [len(body), *(buffer.nbytes for buffer in buffers)]
    table = _COUNTS.pack(len(buffers), 0) + struct.pack(f"<{len(lengths)}Q", *lengths)
    yield table
    offset = len(table)
    for piece in (body, *buffers):
        if padding := -offset % _ALIGNMENT:
            yield bytes(padding)
        yield piece
        offset += padding + len(piece)


def _split(body: Buffer) -> list[Buffer]:
    view = memoryview(body).toreadonly()
    try:
        count, _ = _COUNTS.unpack_from(view)
        if count > len(view) // 8:
            raise CorruptChannel(f"a message of {len(view)} bytes claims to hold {count} buffers")
        lengths = struct.unpack_from(f"<{count + 1}Q", view, _COUNTS.size)
    except struct.error:
        raise CorruptChannel(
            f"a message of {len(view)} bytes is too short for its table of buffers"
        ) from None
    pieces: list[Buffer] = []
    offset = _COUNTS.size + 8 * (count + 1)
    for length in lengths:
        offset += -offset % _ALIGNMENT
        if length > len(view) - offset:
            raise CorruptChannel(
                f"a buffer of {length} bytes does not fit into its message of {len(view)}"
            )
        pieces.append(view[offset : offset + length])
        offset += length
    return pieces


# ── pickle ───────────────────────────────────────────────────────────────────────────────────


class _Memory:
    """Memory for NumPy to make an array over; it keeps the array alive whose memory it is."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.__array_interface__ = {
            "version": 3,
            "data": (array.ctypes.data, False),
            "shape": (array.nbytes,),
            "typestr": "|u1",
        }


def _as_if_writable(array: Any) -> Any:
    """The same array as one that could be written: a pickle would have a read-only one arrive read-only for ever.

    Nobody writes it: it lives until it is sent. Else an array that was received, and is sent on, could not be
    asked for with ``copy=True``.
    """
    if not array.flags.c_contiguous or not array.nbytes:
        return array.copy(order="K")
    numpy = sys.modules["numpy"]
    return numpy.asarray(_Memory(array)).view(array.dtype).reshape(array.shape)


def _reduce_array(array: Any) -> Any:
    if array.dtype.hasobject:  # or strings of any length: its bytes are addresses
        return array.__reduce_ex__(5)
    # NumPy copies a non-contiguous array into the pickle itself: make it contiguous first.
    if not array.flags.forc:
        array = array.copy(order="C")
    if not array.flags.writeable:
        array = _as_if_writable(array)
    try:
        memoryview(array)
    except ValueError:  # of a type that the buffer protocol can't describe, such as datetime64
        flat = bytes_of_array(array)
        return array_of, (pickle.PickleBuffer(flat), array.dtype, array.shape)
    return array.__reduce_ex__(5)


def _encode_pickle(obj: object, buffers: list[memoryview]) -> Buffer:
    def keep(buffer: pickle.PickleBuffer) -> None:
        buffers.append(buffer.raw())

    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=keep)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        pickler.dispatch_table = {**copyreg.dispatch_table, numpy.ndarray: _reduce_array}
    pickler.dump(obj)
    return file.getvalue()


def _decode_pickle(body: Buffer, buffers: list[Buffer]) -> Any:
    return pickle.loads(body, buffers=buffers)


# ── msgpack, json, raw ───────────────────────────────────────────────────────────────────────


def _encode_msgpack(obj: object, buffers: list[memoryview]) -> Buffer:
    import msgspec

    def array_to_extension(value: Any) -> msgspec.msgpack.Ext:
        if not _is_array(value):
            raise TypeError(f"msgpack has no type for {type(value).__qualname__}")
        if value.dtype.hasobject:
            raise TypeError(f"an array of {value.dtype} holds Python objects")
        buffers.append(bytes_of_array(value))
        description = [len(buffers) - 1, described(value.dtype), value.shape]
        return msgspec.msgpack.Ext(_ARRAY_EXTENSION, msgspec.msgpack.encode(description))

    return msgspec.msgpack.encode(obj, enc_hook=array_to_extension)


def _decode_msgpack(body: Buffer, buffers: list[Buffer]) -> Any:
    import msgspec

    def extension_to_array(code: int, data: memoryview) -> Any:
        if code != _ARRAY_EXTENSION:
            return msgspec.msgpack.Ext(code, bytes(data))
        try:
            import numpy
        except ImportError:
            raise DecodeError(
                "the message holds an array, and NumPy is not installed", remedy="pip install numpy"
            ) from None
        index, dtype, shape = msgspec.msgpack.decode(data, type=tuple[int, Any, list[int]])
        described = numpy.dtype(as_dtype(dtype))
        if described.hasobject or not 0 <= index < len(buffers):
            raise CorruptChannel("the description of an array is wrong")
        return array_of(buffers[index], described, shape)

    return msgspec.msgpack.decode(body, ext_hook=extension_to_array)


def _encode_json(obj: object, buffers: list[memoryview]) -> Buffer:
    import msgspec

    return msgspec.json.encode(obj)


def _decode_json(body: Buffer, buffers: list[Buffer]) -> Any:
    import msgspec

    return msgspec.json.decode(body)


def _encode_raw(obj: object, buffers: list[memoryview]) -> Buffer:
    if not isinstance(obj, (bytes, bytearray, memoryview)):
        raise TypeError("it takes bytes, bytearray and memoryview")
    return as_bytes_view(obj)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def as_bytes_view(data: object) -> Buffer:
    """A flat view of the bytes of an object that has the buffer protocol, in C order; bytes are their own.

    Raises CodecError for an object that has none; copies only what is not contiguous.
    """
    if type(data) is bytes:
        return data
    try:
        view = memoryview(data)  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        raise CodecError(
            f"a {type(data).__qualname__} has no bytes",
            remedy="send objects with send(), bytes with send_bytes()",
        ) from None
    if holds_addresses(view):
        raise CodecError(
            f"the bytes of this {type(data).__qualname__} are addresses of Python objects",
            remedy="send it with send()",
        )
    if not view.c_contiguous:
        return view.tobytes()
    # Not by a cast, which takes native formats alone, and no empty views of several dimensions.
    return view if view.format == "B" and view.ndim == 1 else pickle.PickleBuffer(view).raw()


def holds_addresses(view: memoryview) -> bool:
    """Whether its bytes are addresses of Python objects: they mean nothing elsewhere, and a crash if others are written."""
    return "O" in re.sub(":[^:]*:", "", view.format)  # of a structure, without the fields' names


_Encoder = Callable[[object, list[memoryview]], Buffer]
_Decoder = Callable[[Buffer, list[Buffer]], Any]

_ENCODERS: dict[Codec, _Encoder] = {
    "pickle": _encode_pickle,
    "msgpack": _encode_msgpack,
    "json": _encode_json,
    "raw": _encode_raw,
}
_TAKE_ARRAYS: frozenset[Codec] = frozenset({"pickle", "msgpack"})
_DECODERS: dict[int, _Decoder] = {
    PICKLE: _decode_pickle,
    MSGPACK: _decode_msgpack,
    JSON: _decode_json,
}
_OTHER_CODECS: dict[Codec, str] = {
    "pickle": "send something that can be pickled: no lambdas, open files, locks or local classes",
    "msgpack": "use codec=pickle between processes of one user, or send dicts, lists, numbers, text, arrays",
    "json": "use codec=msgpack, which takes arrays and bytes too",
    "raw": "use codec=pickle or codec=msgpack for objects",
}
