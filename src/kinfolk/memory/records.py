"""Memory as typed records, laid out as a C compiler does it: what C programs share.

    memory.struct({"count": "q", "name": "13s", "position": "3d"})

    struct { int64_t count; char name[13]; double position[3]; }
             0              8             24                    48

A format is that of the struct module, for one field: a letter, with a number before it for several. Several numbers are a tuple, several
characters ("13s") are bytes, filled up with NULs.

Rules:
1. A field is written only when its value is one, by one copy of its bytes, and read by one. Of a single number (1, 2, 4 or 8 bytes, which lie
   where a C compiler puts them) that is one access to the memory: another process sees the old value or the new one. Of several
   ("3d", "13s") it may see a part; and between two fields, or a read and a write (`+= 1`), others may get in. What belongs
   together needs a lock.
2. A record looks into the memory: as long as it lives, that is mapped.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kinfolk.errors import InvalidValue, Unsupported

_FORMAT = re.compile(r"(?P<count>[0-9]{0,9})(?P<letter>[?cbBhHiIlLqQnNefds])", re.ASCII)


class _Field(NamedTuple):
    """One field of a layout."""

    at: int
    format: struct.Struct
    #: how many values it has; None for one, or for bytes
    number: int | None

    def read(self, view: memoryview) -> Any:
        values = self.format.unpack_from(view, self.at)
        return values[0] if self.number is None else values

    def write(self, view: memoryview, value: Any) -> None:
        """Raises InvalidValue, without the name of the field."""
        try:
            values = (value,) if self.number is None else tuple(value)
            if self.format.format.endswith("s") and len(value) > self.format.size:
                raise InvalidValue(f"there is room for {self.format.size} bytes, not {len(value)}")
            # Not pack_into, which zeroes the field before it looks at the values.
            packed = self.format.pack(*values)
        except (struct.error, TypeError, OverflowError) as error:
            raise InvalidValue(str(error)) from None
        view[self.at : self.at + len(packed)] = packed


class Layout:
    """The fields of a record, each where a C compiler puts it."""

    def __init__(self, fields: Mapping[str, str], subject: str) -> None:
        """Lay them out in their order. Raises InvalidValue."""
        self.fields: dict[str, _Field] = {}
        self.alignment, end = 1, 0
        try:
            given = dict(fields)
        except (TypeError, ValueError) as error:
            raise InvalidValue(
                f"{fields!r} has no fields",
                subject=subject,
                why=str(error),
                remedy='write names and formats: {"count": "q", "name": "13s"}',
            ) from None
        for name, text in given.items():
            found = _FORMAT.fullmatch(text) if isinstance(text, str) else None
            if found is None or (found["count"] and not int(found["count"])):
                raise InvalidValue(
                    f"field {name!r} can't have the format {text!r}",
                    subject=subject,
                    remedy='write one letter of the struct module, or several of one: "q", "3d", "16s"',
                )
            if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
                raise InvalidValue(
                    f"a field can't have the name {name!r}",
                    subject=subject,
                    remedy="choose one that can stand behind a dot",
                )
            if name == "as_dict":
                raise InvalidValue("a record has its own as_dict", subject=subject)
            size = struct.calcsize(text)
            alignment = struct.calcsize("c" + text) - size
            start = -(-end // alignment) * alignment
            single = not found["count"] or found["letter"] == "s"
            count = None if single else int(found["count"])
            self.fields[name] = _Field(start, struct.Struct(text), count)
            self.alignment, end = max(self.alignment, alignment), start + size
        #: bytes, with what a C compiler adds at the end
        self.size = -(-end // self.alignment) * self.alignment
        if not self.fields:
            raise InvalidValue("a record needs a field", subject=subject)


class Record:
    """Typed fields in shared memory, read and written as attributes. Made by `SharedMemory.struct`.

    Thread- and fork-safe as memory is: see the rules in kinfolk.memory.records.
    """

    __slots__ = ("_layout", "_view")
    _layout: Layout
    _view: memoryview

    def __init__(self, layout: Layout, view: memoryview) -> None:
        """Made by `SharedMemory.struct`."""
        object.__setattr__(self, "_layout", layout)
        object.__setattr__(self, "_view", view)

    def __getattr__(self, name: str) -> Any:
        field = self._layout.fields.get(name) if not name.startswith("_") else None
        if field is None:
            raise AttributeError(f"the record has no field {name!r}")
        return field.read(self._view)

    def __setattr__(self, name: str, value: Any) -> None:
        field = self._layout.fields.get(name)
        if field is None:
            raise AttributeError(f"the record has no field {name!r}")
        if self._view.readonly:
            raise Unsupported(
                f"field {name!r} can't be written",
                why="the memory was attached read-only",
                remedy="attach without read_only",
            )
        try:
            field.write(self._view, value)
        except InvalidValue as error:
            raise InvalidValue(
                f"field {name!r} can't be {value!r}",
                why=error.what,
                remedy=f"its format is {field.format.format!r}",
            ) from None

    def as_dict(self) -> dict[str, Any]:
        """A copy of all fields, one after the other; not one moment's, without a lock."""
        return {name: field.read(self._view) for name, field in self._layout.fields.items()}

    def __dir__(self) -> list[str]:
        return [*self._layout.fields, "as_dict"]

    def __repr__(self) -> str:
        return f"<kinfolk.Record {self.as_dict()}>"


class Records(Sequence[Record]):
    """Records that lie one after the other, as an array of structs does."""

    def __init__(self, layout: Layout, view: memoryview) -> None:
        """Made by `SharedMemory.struct`."""
        self._layout, self._view = layout, view

    def __len__(self) -> int:
        return len(self._view) // self._layout.size

    def __getitem__(self, index: Any) -> Any:
        """One of them, or a tuple of those in a slice."""
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return tuple(self._at(number) for number in numbers)
        return self._at(numbers)

    def _at(self, number: int) -> Record:
        size = self._layout.size
        return Record(self._layout, self._view[number * size : (number + 1) * size])


def records(
    view: memoryview, fields: Mapping[str, str], offset: int, count: int | None, subject: str
) -> Record | Records:
    """A record at an offset of a view, or ``count`` of them. Raises InvalidValue for what does not fit."""
    layout = Layout(fields, subject)
    for name, number in (("offset", offset), ("count", 1 if count is None else count)):
        if not isinstance(number, int) or number < 0:
            raise InvalidValue(f"{name}={number!r} makes no sense", subject=subject)
    end = offset + layout.size * (1 if count is None else count)
    if offset % layout.alignment:
        why = f"offset {offset} is no multiple of {layout.alignment}"
    elif end > len(view):
        why = f"it takes {end} bytes from the beginning, and there are {len(view)}"
    elif count is None:
        return Record(layout, view[offset:end])
    else:
        return Records(layout, view[offset:end])
    raise InvalidValue("the record can't lie there", subject=subject, why=why)
