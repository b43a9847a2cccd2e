"""How an address is written: ``scheme:name?option=value&…``. What the schemes and options are, each house says itself.

Rules:
1. ``%XX`` in a name is one byte (RFC 3986), so that a path may hold a question mark (``%3F``) or a percent sign (``%25``).
2. An option in the address and the same one in the call is an error only if they differ.
3. Sizes are bytes and take K, M, G (binary); modes are octal, as in chmod(1).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from kinfolk.errors import AddressError

Options = TypeVar("Options")  # a dataclass, with a field for each option

#: What makes an option's value of what was given, by the option's name; raises ValueError, TypeError, OverflowError.
Readers = Mapping[str, Callable[[Any], Any]]

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9-]*):(?P<name>[^?]*)(\?(?P<query>.*))?", re.DOTALL)

_TO_QUOTE = re.compile(r"[%?\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


class Split(NamedTuple):
    """An address taken apart."""

    scheme: str
    name: str
    options: list[tuple[str, str]]


def split(text: str, remedy: str) -> Split:
    """Take an address apart. Raises AddressError; the ``remedy`` says what an address looks like."""
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise AddressError("this is no address", subject=repr(text), remedy=remedy)
    name = unquote(match["name"], errors="surrogateescape")
    if "\0" in name:
        raise AddressError(
            "a name can't hold a NUL byte", subject=repr(text), remedy="choose another name"
        )
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise AddressError(
            "a name can't hold this half of a surrogate pair",
            subject=repr(text),
            why="no file name has such bytes; \\udc80 to \\udcff stand for those that are no UTF-8",
            remedy="choose another name, or write its bytes as %XX",
        ) from None
    if name.startswith("//") and name[2:3] == "/":
        name = name[2:]  # unix:///run/x, as URLs are often written
    try:
        pairs = parse_qsl(
            match["query"] or "", keep_blank_values=True, strict_parsing=bool(match["query"])
        )
    except ValueError as error:
        raise AddressError(
            "its options can't be read",
            subject=text,
            why=str(error),
            remedy="write ?option=value&option=value",
        ) from None
    return Split(match["scheme"], name, pairs)


def written(scheme: str, name: str) -> str:
    """Scheme and name as `split` reads them: printable, on one line."""
    return f"{scheme}:{_TO_QUOTE.sub(_quoted, name)}"


def _quoted(match: re.Match[str]) -> str:
    return quote(match[0], safe="", errors="surrogateescape")


def filled(
    text: str, options: Options, found: Split, given: Mapping[str, Any], readers: Readers
) -> Options:
    """The options with what stands in the address and what was ``given`` in the call (None counts as not given).

    Raises AddressError.
    """
    for key, value in found.options:
        options = _merge(text, options, key, value, readers)
    for key, value in given.items():
        if value is not None:
            options = _merge(text, options, key, value, readers)
    return options


def _merge(text: str, options: Options, key: str, value: Any, readers: Readers) -> Options:
    if key not in readers:
        raise AddressError(
            f"there is no option {key!r}",
            subject=text,
            remedy="the options are " + ", ".join(readers),
        )
    try:
        read = readers[key](value)
    except (ValueError, TypeError, OverflowError) as error:
        shown = _shown(key, value) if type(value) is int else value
        raise AddressError(f"{key}={shown} makes no sense", subject=text, why=str(error)) from None
    before = getattr(options, key)
    if before is not None and before != read:
        raise AddressError(
            f"{key} is given twice, as {_shown(key, before)} and {_shown(key, read)}",
            subject=text,
            remedy="give it once",
        )
    changed: Options = replace(options, **{key: read})  # type: ignore[type-var]
    return changed


def _shown(key: str, value: Any) -> str:
    """A value as people write it: modes in octal."""
    return f"{value:04o}" if key == "mode" else str(value)


# ── readers of single options ────────────────────────────────────────────────────────────────


def one_of(*words: str) -> Callable[[Any], str]:
    """What takes these words."""

    def read(value: Any) -> str:
        if value not in words:
            raise ValueError("it is one of " + ", ".join(words))
        return str(value)

    return read


def read_flag(value: Any) -> bool:
    """Yes or no: a bool, or one of these words. Raises ValueError."""
    if isinstance(value, bool):
        return value
    if value not in ("yes", "no"):
        raise ValueError("it is yes or no")
    return bool(value == "yes")


def read_size(value: Any) -> int:
    """A number of bytes: an int, or text such as 64K, 1.5M, 2GiB. Raises ValueError."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(i?B)?", value.strip(), re.IGNORECASE)
        if match is None:
            raise ValueError("a size is a number of bytes, or one with K, M or G")
        value = int(float(match[1]) * 1024 ** " KMG".index(match[2].upper() or " "))
    return read_positive(value)


def read_whole(value: Any) -> int:
    """A whole number, also as text. Raises ValueError."""
    try:
        if isinstance(value, str):
            return int(value)
        if not isinstance(value, bool):
            return operator.index(value)
    except (ValueError, TypeError):
        pass
    raise ValueError("it must be a whole number")


def read_positive(value: Any) -> int:
    """A whole number from 1 to 2^63 - 1, also as text. Raises ValueError."""
    number = read_whole(value)
    if number <= 0:
        raise ValueError("it must be positive")
    if number >= 2**63:
        raise ValueError("it is too large")
    return number


def read_mode(value: Any) -> int:
    """Permission bits: an int, or octal text such as 0640. Raises ValueError."""
    if isinstance(value, str) and not re.fullmatch("(0o)?[0-7]+", value):
        raise ValueError("a mode is octal, such as 0640")
    mode = int(value, 8) if isinstance(value, str) else read_whole(value)
    if not 0 <= mode <= 0o777:
        raise ValueError("a mode is between 0000 and 0777")
    return mode
