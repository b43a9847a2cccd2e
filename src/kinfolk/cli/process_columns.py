r"""The columns of `kin tree`: each by one name, as text for people and as a value for programs (the keys of --json).

What comes from processes is bytes of others' making. For people, what a terminal would obey becomes an escape; in JSON, bytes that are no
UTF-8 become ``\xNN``, so that it stays JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import kinfolk as kin
from kinfolk.cli.failures import printable


class Column(NamedTuple):
    """One column: how a process shows there."""

    text: Callable[[kin.ProcessInfo], str]
    value: Callable[[kin.ProcessInfo], Any]
    is_number: bool = False


#: What people see unless they say otherwise.
DEFAULT = ("pid", "user", "state", "age", "note", "command")

#: What --json has unless -o says otherwise: all that costs nothing more to read.
DEFAULT_JSON = (
    *("pid", "ppid", "pgid", "sid", "uid", "user", "state", "age", "start", "threads"),
    *("tracer", "adopted", "leader_ended", "kernel", "note", "name", "command"),
)

#: The one in which the tree is drawn: the first of these that is shown.
DRAWN = ("command", "name")

UNKNOWN = "?"


def note_on(process: kin.ProcessInfo) -> str:
    """What is remarkable about a process, in a few words."""
    notes = []
    if process.zombie:
        notes.append(f"unreaped by {process.tracer or process.parent}")
    elif process.tracer:
        notes.append(f"traced by {process.tracer}")
    if process.leader_ended:
        notes.append("main thread ended")
    if process.adopted is not None:
        likely = "likely " * (process.adopted.certainty == "likely")
        notes.append(f"{likely}adopted by {process.adopted.adopter}")
    return ", ".join(notes)


def age_of(seconds: float) -> str:
    """A time in one unit: 59s, 59m, 23h, 12d."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def parse(names: str) -> tuple[str, ...]:
    """The columns that -o names. Raises UsageError."""
    chosen = tuple(name.strip().lower() for name in names.split(","))
    for name in chosen:
        if name not in COLUMNS:
            raise kin.UsageError(
                f"there is no column {name!r}",
                subject="-o",
                remedy=f"choose of {', '.join(COLUMNS)}",
            )
    return chosen


def values(process: kin.ProcessInfo, columns: Sequence[str]) -> dict[str, Any]:
    """A process for JSON."""
    return {name: COLUMNS[name].value(process) for name in columns}


def encodable(text: str) -> str:
    """Text that JSON may hold: bytes that are no UTF-8 become escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _number(attribute: str) -> Column:
    def value(process: kin.ProcessInfo) -> int | None:
        found: int | None = getattr(process, attribute)
        return found

    def text(process: kin.ProcessInfo) -> str:
        found = value(process)
        return UNKNOWN if found is None else str(found)

    return Column(text, value, is_number=True)


def _string(value: Callable[[kin.ProcessInfo], str | None]) -> Column:
    def text(process: kin.ProcessInfo) -> str:
        found = value(process)
        return UNKNOWN if found is None else printable(found)

    def encoded(process: kin.ProcessInfo) -> str | None:
        found = value(process)
        return None if found is None else encodable(found)

    return Column(text, encoded)


def _flag(attribute: str) -> Column:
    def value(process: kin.ProcessInfo) -> bool:
        return bool(getattr(process, attribute))

    return Column(lambda process: "yes" if value(process) else "no", value)


def _user(process: kin.ProcessInfo) -> str | None:
    return process.user if process.user or process.uid is None else str(process.uid)


def _command(process: kin.ProcessInfo) -> list[str] | None:
    found = process.arguments
    return None if found is None else [encodable(argument) for argument in found]


def _adopted(process: kin.ProcessInfo) -> dict[str, Any] | None:
    return None if process.adopted is None else process.adopted._asdict()


def _adopter(process: kin.ProcessInfo) -> str:
    found = process.adopted
    if found is None:
        return ""
    return f"{found.adopter}{UNKNOWN if found.certainty == 'likely' else ''}"


COLUMNS: dict[str, Column] = {
    "pid": _number("pid"),
    "ppid": _number("parent"),
    "pgid": _number("group"),
    "sid": _number("session"),
    "uid": _number("uid"),
    "user": _string(_user),
    "state": _string(lambda process: process.condition),
    "age": Column(
        lambda process: age_of(process.age), lambda process: round(process.age, 2), is_number=True
    ),
    "start": _number("start_time"),
    "threads": _number("thread_count"),
    "tracer": _number("tracer"),
    "adopted": Column(_adopter, _adopted, is_number=True),
    "leader_ended": _flag("leader_ended"),
    "kernel": _flag("kernel_thread"),
    "note": _string(note_on),
    "name": _string(lambda process: process.name),
    "command": Column(lambda process: printable(process.command), _command),
    "exe": _string(lambda process: process.exe()),
    "cgroup": _string(lambda process: process.control_group()),
    "wchan": _string(lambda process: process.wchan()),
}
