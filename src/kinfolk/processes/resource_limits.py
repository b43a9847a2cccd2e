"""The limits of a process by name: ``nofile`` is RLIMIT_NOFILE (getrlimit(2))."""

from __future__ import annotations

import resource

NUMBERS = {
    name.removeprefix("RLIMIT_").lower(): number
    for name, number in vars(resource).items()
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"  # BSD's name of nofile
}
_NAMES = {number: name for name, number in NUMBERS.items()}


def number_of(what: object) -> int | None:
    """The number of a name, with or without ``RLIMIT_``, or of a number; None when there is no such limit."""
    if isinstance(what, str):
        return NUMBERS.get(what.lower().removeprefix("rlimit_"))
    return what if isinstance(what, int) and what in _NAMES else None


def name_of(number: int) -> str:
    """Its name; of one that Python does not know, the number."""
    return _NAMES.get(number, str(number))


def shown(value: int) -> str:
    """For messages."""
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)
