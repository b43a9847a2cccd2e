"""Typed records in shared memory: laid out as in C, refused where they don't fit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

import kinfolk as kin
from kinfolk.memory.records import Layout
from tests.conformance.peers import Peers

TYPES: dict[str, Any] = {
    "?": ctypes.c_bool,
    "c": ctypes.c_char,
    "b": ctypes.c_byte,
    "B": ctypes.c_ubyte,
    "h": ctypes.c_short,
    "H": ctypes.c_ushort,
    "i": ctypes.c_int,
    "I": ctypes.c_uint,
    "l": ctypes.c_long,
    "L": ctypes.c_ulong,
    "q": ctypes.c_longlong,
    "Q": ctypes.c_ulonglong,
    "n": ctypes.c_ssize_t,
    "N": ctypes.c_size_t,
    "f": ctypes.c_float,
    "d": ctypes.c_double,
    "s": ctypes.c_char,
}

formats = strategies.tuples(
    strategies.sampled_from(["", *map(str, range(1, 40))]), strategies.sampled_from(list(TYPES))
)


@pytest.fixture
def memory() -> Iterator[kin.SharedMemory]:
    with kin.SharedMemory.create("memfd:", 4096) as made:
        yield made


@hypothesis.given(strategies.lists(formats, min_size=1, max_size=8))
def test_the_layout_is_that_of_the_compiler(fields: list[tuple[str, str]]) -> None:
    layout = Layout({f"f{at}": count + kind for at, (count, kind) in enumerate(fields)}, "")

    class Struct(ctypes.Structure):
        _fields_ = [
            (f"f{at}", TYPES[kind] * int(count) if count else TYPES[kind])
            for at, (count, kind) in enumerate(fields)
        ]

    assert layout.size == ctypes.sizeof(Struct)
    assert layout.alignment == ctypes.alignment(Struct)
    for name, field in layout.fields.items():
        assert field.at == getattr(Struct, name).offset


def test_values_come_back_as_they_went_in(memory: kin.SharedMemory) -> None:
    record = memory.struct({"on": "?", "letter": "c", "few": "3h", "name": "5s", "x": "f"})
    record.on, record.letter, record.few, record.name, record.x = True, b"k", [1, -2, 3], b"ab", 0.5
    expected = {"on": True, "letter": b"k", "few": (1, -2, 3), "name": b"ab\0\0\0", "x": 0.5}
    assert record.as_dict() == expected
    assert repr(record) == f"<kinfolk.Record {expected}>"
    assert dir(record) == ["as_dict", "few", "letter", "name", "on", "x"]
    again = memory.struct({"on": "?", "letter": "c", "few": "3h", "name": "5s", "x": "f"})
    assert again.as_dict() == expected


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("n", 2**63, "n"),
        ("n", "text", "required argument is not an integer"),
        ("n", 1.5, "required argument is not an integer"),
        ("name", b"123456", "room for 5 bytes, not 6"),
        ("name", "text", "bytes object"),
        ("name", 5, "has no len"),
        ("few", (1, 2), "expected 3 items"),
        ("few", (1, 2, 3, 4), "expected 3 items"),
        ("few", 1, "not iterable"),
        ("few", (9, 9, "x"), "not an integer"),
        ("few", (9, 9, 2**15), "short"),
    ],
)
def test_what_is_no_value_is_refused(
    memory: kin.SharedMemory, name: str, value: Any, why: str
) -> None:
    record = memory.struct({"n": "q", "name": "5s", "few": "3h"})
    record.n, record.name, record.few = -5, b"abcde", (1, 2, 3)
    before = bytes(memory.buf)
    with pytest.raises(kin.InvalidValue, match=f"field '{name}' can't be .*{why}"):
        setattr(record, name, value)
    assert bytes(memory.buf) == before


@pytest.mark.parametrize(
    ("letter", "values"),
    [
        ("q", (0x1111111111111111, 0x7777777777777777)),
        ("i", (0x11111111, 0x77777777)),
        ("H", (0x1111, 0x7777)),
        ("d", (1.1, 7.7)),
    ],
)
def test_another_process_sees_one_value_or_the_other(
    memory: kin.SharedMemory, peers: Peers, letter: str, values: tuple[Any, Any]
) -> None:
    record = memory.struct({"n": letter, "done": "?"})
    record.n = values[0]

    def write(_: Any) -> None:
        for _ in range(50_000):
            record.n = values[1]
            record.n = values[0]
        record.done = True

    writer, seen = peers.fork(write), set()
    while not record.done:
        seen |= {record.n for _ in range(1000)}
    writer.result()
    assert seen <= set(values)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "needs a field"),
        ({"n": "qq"}, "format"),
        ({"n": "<q"}, "format"),
        ({"n": "P"}, "format"),
        ({"n": "0q"}, "format"),
        ({"n": "00s"}, "format"),
        ({"n": 8}, "format"),
        ({"1n": "q"}, "name"),
        ({"_n": "q"}, "name"),
        ({"a b": "q"}, "name"),
        ({3: "q"}, "name"),
        ({"as_dict": "q"}, "as_dict"),
        (None, "no fields"),
        (5, "no fields"),
        ("nq", "no fields"),
        ([("n", "q", 1)], "no fields"),
        ([([], "q")], "no fields"),
    ],
)
def test_what_is_no_layout_is_refused(memory: kin.SharedMemory, fields: Any, why: str) -> None:
    with pytest.raises(kin.InvalidValue, match=why):
        memory.struct(fields)


@pytest.mark.parametrize(
    ("offset", "count", "why"),
    [
        (4, None, "no multiple of 8"),
        (4096, None, "4104 bytes"),
        (0, 513, "4104 bytes"),
        (-8, None, "offset=-8"),
        (0, -1, "count=-1"),
        (0.5, None, "offset=0.5"),
        (0, "many", "count='many'"),
    ],
)
def test_what_does_not_fit_is_refused(
    memory: kin.SharedMemory, offset: Any, count: Any, why: str
) -> None:
    with pytest.raises(kin.InvalidValue, match=why):
        memory.struct({"n": "q"}, offset, count=count)


def test_there_are_only_the_fields_that_there_are(memory: kin.SharedMemory) -> None:
    record = memory.struct({"n": "q"})
    for name in ("m", "_n", "__deepcopy__"):
        with pytest.raises(AttributeError):
            getattr(record, name)
        with pytest.raises(AttributeError):
            setattr(record, name, 1)


def test_several_lie_one_after_the_other(memory: kin.SharedMemory) -> None:
    rows = memory.struct({"n": "q", "c": "b"}, 16, count=4)
    assert len(rows) == 4
    for number, row in enumerate(rows):
        row.n = number
    assert [memory.buf[16 + 16 * number] for number in range(4)] == [0, 1, 2, 3]
    assert rows[-1].n == 3
    assert [row.n for row in rows[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        rows[4]
    assert len(memory.struct({"n": "q"}, count=0)) == 0
