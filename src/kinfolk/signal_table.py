"""The signals of this machine: number, name, default action, meaning; and what people type for one.

Rules:
1. A signal is a number. Those that Python names come as `signal.Signals`, which is an int too.
2. Numbers differ between architectures, names do not: the table is written by name. It has no entry for 32 and 33, which the C
   library keeps for itself.
3. Real-time signals are SIGRTMIN+n, the last one SIGRTMAX. Nobody but programs gives them a meaning.
4. This is the one place that knows. Whatever takes a signal from a user takes it as people write it (`Like`), by `number_of`.

signal(7) is the source for the default actions.
"""

from __future__ import annotations

import difflib
import operator
import re
import signal as python
from collections.abc import Iterable
from typing import Literal, NamedTuple

from kinfolk.errors import InvalidValue

#: A signal as people write it: 15, "TERM", "SIGTERM", "term", "RTMIN+3", signal.SIGTERM.
Like = int | str

#: What the kernel does to a process that says nothing about a signal.
Action = Literal["terminate", "core", "stop", "continue", "ignore"]


class Entry(NamedTuple):
    """One signal. ``catchable``: whether a process may handle, ignore or block it."""

    number: int
    name: str
    action: Action
    catchable: bool
    meaning: str


_MEANINGS: dict[str, tuple[Action, str]] = {
    "SIGHUP": ("terminate", "the terminal has gone; daemons read their configuration again"),
    "SIGINT": ("terminate", "Ctrl-C"),
    "SIGQUIT": ("core", "Ctrl-\\: quit, and leave a core"),
    "SIGILL": ("core", "an instruction that the processor does not know"),
    "SIGTRAP": ("core", "a breakpoint"),
    "SIGABRT": ("core", "abort(3): the program gives itself up"),
    "SIGBUS": ("core", "memory that can't be had: misaligned, or a file was cut under a mapping"),
    "SIGFPE": ("core", "arithmetic: a division by zero, an overflow"),
    "SIGKILL": ("terminate", "killed at once; nobody can refuse it"),
    "SIGUSR1": ("terminate", "the program's own"),
    "SIGSEGV": ("core", "memory that is not the program's"),
    "SIGUSR2": ("terminate", "the program's own"),
    "SIGPIPE": ("terminate", "written where nobody reads; Python ignores it and raises instead"),
    "SIGALRM": ("terminate", "the timer of alarm(2) or setitimer(2)"),
    "SIGTERM": ("terminate", "a request to end; what kill(1) sends"),
    "SIGSTKFLT": ("terminate", "a fault of a coprocessor's stack; unused"),
    "SIGCHLD": ("ignore", "a child has ended, stopped or gone on; ignored on purpose, it reaps"),
    "SIGCONT": ("continue", "go on after a stop"),
    "SIGSTOP": ("stop", "stopped; nobody can refuse it"),
    "SIGTSTP": ("stop", "Ctrl-Z"),
    "SIGTTIN": ("stop", "a background job reads from its terminal"),
    "SIGTTOU": ("stop", "a background job writes to its terminal"),
    "SIGURG": ("ignore", "urgent data on a socket"),
    "SIGXCPU": ("core", "the limit of processor time is reached (ulimit -t)"),
    "SIGXFSZ": ("core", "the limit of file size is reached (ulimit -f); Python ignores it"),
    "SIGVTALRM": ("terminate", "the timer of processor time spent in the program"),
    "SIGPROF": ("terminate", "the timer of a profiler"),
    "SIGWINCH": ("ignore", "the terminal's window has another size"),
    "SIGIO": ("terminate", "a descriptor is ready (O_ASYNC)"),
    "SIGPWR": ("terminate", "the power fails"),
    "SIGSYS": ("core", "a system call that is none, or that seccomp(2) forbids"),
}
_ALIASES = {
    "SIGIOT": "SIGABRT",
    "SIGCLD": "SIGCHLD",
    "SIGPOLL": "SIGIO",
    "SIGRTMIN+0": "SIGRTMIN",
    f"SIGRTMIN+{python.SIGRTMAX - python.SIGRTMIN}": "SIGRTMAX",
}
_UNREFUSABLE = (python.SIGKILL, python.SIGSTOP)


def _entries() -> dict[int, Entry]:
    entries = {}
    for name, (action, meaning) in _MEANINGS.items():
        number = getattr(python, name, None)  # SIGSTKFLT is not on every architecture
        if number is not None:
            entries[int(number)] = Entry(number, name, action, number not in _UNREFUSABLE, meaning)
    for plain in range(python.SIGRTMIN, python.SIGRTMAX + 1):
        entries[plain] = Entry(
            as_member(plain), _real_time_name(plain), "terminate", True, "a program's own, queued"
        )
    return dict(sorted(entries.items()))


def as_member(number: int) -> int:
    """A signal as a member of `signal.Signals`, where Python has one; else the number."""
    try:
        return python.Signals(number)
    except ValueError:  # a real-time one in the middle
        return number


def _real_time_name(number: int) -> str:
    if number == python.SIGRTMAX:
        return "SIGRTMAX"
    above = number - python.SIGRTMIN
    return f"SIGRTMIN+{above}" if above else "SIGRTMIN"


_TABLE = _entries()
_BY_NAME = {entry.name: entry.number for entry in _TABLE.values()}
_BY_NAME |= {alias: _BY_NAME[name] for alias, name in _ALIASES.items()}


def table() -> tuple[Entry, ...]:
    """Every signal of this machine, by number; real-time ones too."""
    return tuple(_TABLE.values())


def entry_of(signal: Like) -> Entry:
    """What the table says of a signal. Raises InvalidValue when there is none such."""
    if isinstance(signal, str):
        return _parsed(signal)
    try:
        entry = None if isinstance(signal, bool) else _TABLE.get(operator.index(signal))
    except TypeError:
        entry = None
    if entry is None:
        raise _no_such(repr(signal))
    return entry


def number_of(signal: Like) -> int:
    """The number of what somebody typed: 9, "9", "KILL", "SIGKILL", "kill", "RTMIN+3", "RTMAX-1".

    A member of `signal.Signals` where Python has one. Raises InvalidValue when there is no such signal.
    """
    return entry_of(signal).number


def name_of(signal: Like) -> str:
    """SIGTERM, SIGRTMIN+3. Raises InvalidValue when there is no such signal."""
    return entry_of(signal).name


def shown(number: int | None) -> str:
    """For messages: its name, also of what is no signal, such as 33, which a process may die of all the same."""
    if number is None:
        return "no signal"
    return _TABLE[number].name if number in _TABLE else f"signal {number}"


def numbers_of(signals: Like | Iterable[Like]) -> frozenset[int]:
    """One signal or several, none of them unrefusable. Raises InvalidValue, also when there is none."""
    one = isinstance(signals, int | str)
    several: Iterable[Like] = (signals,) if one else signals  # type: ignore[assignment]
    try:
        numbers = frozenset(map(number_of, several))
    except TypeError:
        raise _no_such(repr(signals)) from None
    if not numbers:
        raise InvalidValue("no signal is named", remedy='name one or several, such as "TERM"')
    for number in _UNREFUSABLE:
        if number in numbers:
            raise InvalidValue(
                f"{number.name} can't be caught, blocked or ignored",
                why="the kernel acts on it by itself",
                remedy="leave it out",
            )
    return numbers


_FROM_THE_END = re.compile(r"SIGRTMAX-([0-9]{1,3})")


def _parsed(text: str) -> Entry:
    typed = text.strip().upper()
    name = typed if typed.startswith("SIG") else f"SIG{typed}"
    number = _BY_NAME.get(name, -1)
    if number < 0 and re.fullmatch(r"[0-9]{1,4}", typed):
        number = int(typed)
    elif number < 0 and (real_time := _FROM_THE_END.fullmatch(name)):
        number = python.SIGRTMAX - int(real_time[1])
        number = number if number >= python.SIGRTMIN else -1
    if number not in _TABLE:
        raise _no_such(repr(text), typed)
    return _TABLE[number]


def _no_such(shown: str, typed: str = "") -> InvalidValue:
    why = ""
    if typed in ("0", "EXIT"):
        why = "0 asks whether a process is there, and sends nothing"
    elif typed in ("32", "33") or shown in ("32", "33"):
        why = "the C library keeps 32 and 33 for itself"
    name = typed if typed.startswith("SIG") else f"SIG{typed}"
    close = difflib.get_close_matches(name, _BY_NAME, 1) if typed and not typed.isdecimal() else []
    meant = f"did you mean {close[0]}? " if close else ""
    last = _real_time_name(python.SIGRTMAX)
    return InvalidValue(
        f"there is no signal {shown}",
        why=why,
        remedy=f"{meant}names and numbers are SIGHUP 1 to {last} {int(python.SIGRTMAX)}: see kin signals",
    )
