"""From an address to the end that a command sends to or receives from.

How data travels, decided by --framed, --codec and the same options in the address:

    (neither)                   RAW        bare bytes, as cat and C programs write them; on queues and packets
                                           each block is one message
    --framed                    CHECKED    messages of kinfolk around one transfer, with its SHA-256
    --codec raw                 MESSAGES   messages of kinfolk, each a block of bytes
    --codec json|msgpack|…      OBJECTS    messages of kinfolk, each an object

Who comes to whom: the receiver makes the name, any number of senders wait for it and come. What has no boundaries to
keep senders apart (bare bytes on a stream, a checked transfer) travels over one connection, where the mechanism has
connections: the receiver listens and takes the first that comes, or the two are told to be the other way round.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import kinfolk as kin
from kinfolk.cli.failures import say

#: Bytes without boundaries.
BYTE_STREAMS = frozenset({"pipe", "fifo", "unix", "tcp"})
#: Connections that go both ways.
TWO_WAY = frozenset({"unix", "unix-seqpacket", "tcp"})
#: Nothing tells a receiver of bare messages that the last sender has gone.
WITHOUT_END = frozenset({"unix-dgram", "mq", "sysv-mq"})
#: Names that outlive everybody unless told otherwise.
LASTING = frozenset({"mq", "sysv-mq", "file"})

Sending = kin.Sender | kin.Connection
Receiving = kin.Receiver | kin.Connection


class Style(enum.Enum):
    """How data travels: see above."""

    RAW = "raw"
    CHECKED = "checked"
    MESSAGES = "messages"
    OBJECTS = "objects"


def options_in(address: str) -> dict[str, str]:
    """The options that stand in an address. What is wrong with them, the library says on opening."""
    return dict(parse_qsl(address.partition("?")[2], keep_blank_values=True))


def scheme_of(address: str) -> str:
    """The mechanism that an address names."""
    return address.partition(":")[0]


def style_of(address: str, framed: bool, codec: str | None) -> Style:
    """How data travels at an address."""
    there = options_in(address)
    codec = codec or there.get("codec")
    if codec is not None:
        return Style.MESSAGES if codec == "raw" else Style.OBJECTS
    return Style.CHECKED if framed or there.get("framing") == "framed" else Style.RAW


def has_boundaries(address: str, style: Style) -> bool:
    """Whether what is sent in one piece is received in one piece."""
    return style is not Style.RAW or scheme_of(address) not in BYTE_STREAMS


def never_ends(address: str, style: Style) -> bool:
    """Whether a receiver is never told that everything has come, whoever leaves."""
    scheme, there = scheme_of(address), options_in(address)
    lasting = there.get("lifetime", "name" if scheme in LASTING else "peers") == "name"
    if style is Style.CHECKED:
        return False
    return lasting or (style is Style.RAW and scheme in WITHOUT_END)


def opening(style: Style, framed: bool, codec: str | None, **others: Any) -> dict[str, Any]:
    """The options to open an end with. The codec of a checked transfer is only for its header and trailer."""
    if style is Style.RAW:
        return {"framing": "raw", **others}
    return {
        "framing": "framed" if framed else None,
        "codec": codec or ("msgpack" if style is Style.CHECKED else None),
        **others,
    }


def is_connection(address: str, style: Style, turned: bool) -> bool:
    """Whether data travels over one connection. ``turned``: told to be the other way round."""
    single = style is Style.CHECKED or not has_boundaries(address, style)
    return scheme_of(address) in TWO_WAY and (single or turned)


@contextlib.contextmanager
def within(timeout: float | None, what: str, address: str) -> Iterator[None]:
    """Say in a Timeout what did not happen, rather than which call it was."""
    try:
        yield
    except kin.Timeout as error:
        why = f"not within {timeout:g} s"
        remedy = "see whether the other side runs, or give a longer --timeout"
        subject = address.partition("?")[0]
        raise kin.Timeout(what, subject=subject, why=why, remedy=remedy) from error


@contextlib.contextmanager
def sender_to(
    address: str, style: Style, *, listen: bool, timeout: float | None, **options: Any
) -> Iterator[Sending]:
    """An end to send to, whose other side is there within ``timeout`` seconds."""
    if is_connection(address, style, listen):
        with _connection(address, listen, timeout, "receiver", options) as connection:
            yield connection
        return
    _refuse(address, listen, "--listen")
    with within(timeout, "no receiver came", address):
        sender = kin.open_sender(address, timeout=timeout, **options)
    with sender:
        yield sender


@contextlib.contextmanager
def receiver_from(
    address: str, style: Style, *, connect: bool, timeout: float | None, **options: Any
) -> Iterator[Receiving]:
    """An end to receive from. Where a connection is needed, it is there; else the first message has still to come."""
    if is_connection(address, style, connect):
        with _connection(address, not connect, timeout, "sender", options) as connection:
            yield connection
        return
    _refuse(address, connect, "--connect")
    with kin.open_receiver(address, timeout=timeout, **options) as receiver:
        yield receiver


@contextlib.contextmanager
def _connection(
    address: str, listen: bool, timeout: float | None, other: str, options: dict[str, Any]
) -> Iterator[kin.Connection]:
    with within(timeout, f"no {other} came", address):
        if listen:
            connection = _accept_one(address, timeout, options)
        else:
            connection = kin.connect(address, timeout=timeout, **options)
    with connection:
        yield connection


def _accept_one(address: str, timeout: float | None, options: dict[str, Any]) -> kin.Connection:
    with kin.listen(address, **options) as listener:
        if scheme_of(address) == "tcp" and listener.address != address.partition("?")[0]:
            say(f"listening on {listener.address}")  # the kernel chose the port
        return listener.accept(timeout=timeout)


def _refuse(address: str, asked: bool, option: str) -> None:
    if asked:
        raise kin.Unsupported(
            f"{option} is for connections",
            subject=address,
            why=f"{scheme_of(address)}: goes one way",
            remedy=f"leave {option} out, or use unix:, unix-seqpacket: or tcp:",
        )


def finish_sending(end: Sending, timeout: float | None) -> None:
    """Say that everything was sent; on a connection, wait until the other side has taken it and closes too.

    Raises BrokenChannel when that one left with something unread. What it sends meanwhile is dropped.
    """
    if isinstance(end, kin.Sender):
        return
    end.send_eof()
    closed = within(timeout, "the receiver does not say that it has everything", end.address)
    with contextlib.suppress(kin.EndOfChannel), closed:
        while True:
            end.recv_bytes(timeout=timeout)
