"""Addresses: ``scheme:name?option=value&…``, and the options that they or a call may carry.

Rules:
1. The scheme is the mechanism; the name is its name there; ``%XX`` in a name is one byte (RFC 3986),
   so that a path may hold a question mark (``%3F``) or a percent sign (``%25``).
2. An option in the address and the same one in the call is an error only if they differ.
3. Each mechanism says which options it takes; another one is an error that lists them.
4. Sizes are bytes and take K, M, G (binary); modes are octal, as in chmod(1).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote

from kinfolk.errors import AddressError

Codec = Literal["pickle", "msgpack", "json", "raw"]
Framing = Literal["framed", "raw"]
Lifetime = Literal["peers", "name"]

_ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9-]*):(?P<name>[^?]*)(\?(?P<query>.*))?", re.DOTALL)

_TO_QUOTE = re.compile(r"[%?\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Options:
    """Every option that some mechanism takes; None means the mechanism's own default."""

    codec: Codec | None = None
    framing: Framing | None = None
    lifetime: Lifetime | None = None
    #: permission bits of what is created
    mode: int | None = None
    #: bytes that the kernel buffers (F_SETPIPE_SZ, SO_SNDBUF, msg_qbytes)
    capacity: int | None = None
    #: messages that a queue holds
    depth: int | None = None
    #: the largest message, in bytes
    max_message: int | None = None
    #: how many processes send: "one" allows long frames on a pipe
    senders: Literal["one", "many"] | None = None
    #: message type that a System V receiver asks for, or a sender sends
    type: int | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address."""

    scheme: str
    name: str
    options: Options

    def __str__(self) -> str:
        """Scheme and name as `parse` reads them: printable, on one line."""
        return f"{self.scheme}:{_TO_QUOTE.sub(_quoted, self.name)}"


def parse(text: str, **given: Any) -> Address:
    """Parse an address; ``given`` are the options of the call (None counts as not given).

    Raises AddressError, which says what an address looks like.
    """
    match = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise AddressError(
            "this is no address",
            subject=repr(text),
            remedy="write mechanism:name, such as fifo:/tmp/f, unix:/run/app.sock or mq:/jobs",
        )
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
    options = Options()
    for key, value in pairs:
        options = _merge(text, options, {key: value})
    return Address(
        match["scheme"],
        name,
        _merge(text, options, {k: v for k, v in given.items() if v is not None}),
    )


def _quoted(match: re.Match[str]) -> str:
    return quote(match[0], safe="", errors="surrogateescape")


def restrict(address: Address, allowed: frozenset[str]) -> None:
    """Raise AddressError when the address carries an option outside ``allowed``."""
    for field in fields(Options):
        if getattr(address.options, field.name) is not None and field.name not in allowed:
            raise AddressError(
                f"{address.scheme}: takes no option {field.name!r}",
                subject=str(address),
                remedy="it takes " + ", ".join(sorted(allowed)),
            )


def _merge(text: str, options: Options, given: Mapping[str, Any]) -> Options:
    for key, value in given.items():
        if key not in _READERS:
            raise AddressError(
                f"there is no option {key!r}",
                subject=text,
                remedy="the options are " + ", ".join(_READERS),
            )
        try:
            read = _READERS[key](value)
        except (ValueError, TypeError, OverflowError) as error:
            shown = _shown(key, value) if type(value) is int else value
            raise AddressError(
                f"{key}={shown} makes no sense", subject=text, why=str(error)
            ) from None
        before = getattr(options, key)
        if before is not None and before != read:
            raise AddressError(
                f"{key} is given twice, as {_shown(key, before)} and {_shown(key, read)}",
                subject=text,
                remedy="give it once",
            )
        options = replace(options, **{key: read})
    return options


def _shown(key: str, value: Any) -> str:
    """A value as people write it: modes in octal."""
    return f"{value:04o}" if key == "mode" else str(value)


# ── readers of single options ────────────────────────────────────────────────────────────────


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError("it is one of " + ", ".join(words))
        return str(value)

    return read


def read_size(value: Any) -> int:
    """A number of bytes: an int, or text such as 64K, 1.5M, 2GiB. Raises ValueError."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(i?B)?", value.strip(), re.IGNORECASE)
        if match is None:
            raise ValueError("a size is a number of bytes, or one with K, M or G")
        value = int(float(match[1]) * 1024 ** " KMG".index(match[2].upper() or " "))
    return _positive(value)


def _whole(value: Any) -> int:
    try:
        if isinstance(value, str):
            return int(value)
        if not isinstance(value, bool):
            return operator.index(value)
    except (ValueError, TypeError):
        pass
    raise ValueError("it must be a whole number")


def _positive(value: Any) -> int:
    number = _whole(value)
    if number <= 0:
        raise ValueError("it must be positive")
    if number >= 2**63:
        raise ValueError("it is too large")
    return number


def read_mode(value: Any) -> int:
    """Permission bits: an int, or octal text such as 0640. Raises ValueError."""
    if isinstance(value, str) and not re.fullmatch("(0o)?[0-7]+", value):
        raise ValueError("a mode is octal, such as 0640")
    mode = int(value, 8) if isinstance(value, str) else _whole(value)
    if not 0 <= mode <= 0o777:
        raise ValueError("a mode is between 0000 and 0777")
    return mode


def _message_type(value: Any) -> int:
    number = _whole(value)
    if not -(2**63) < number < 2**63:
        raise ValueError("a message type is a long")
    return number


_READERS: dict[str, Callable[[Any], Any]] = {
    "codec": _one_of("pickle", "msgpack", "json", "raw"),
    "framing": _one_of("framed", "raw"),
    "lifetime": _one_of("peers", "name"),
    "mode": read_mode,
    "capacity": read_size,
    "depth": _positive,
    "max_message": read_size,
    "senders": _one_of("one", "many"),
    "type": _message_type,
}
