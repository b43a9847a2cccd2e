"""Every mechanism that the suite runs against, and how to make an address there that nobody else has.

A variant is a mechanism opened in one way. `test_table.py` fails when a mechanism of the registry has none.
What a variant can do is not written here: tests read it from the `limits` of its ends.

    way         how its two ends come about
    channel     kin.channel(address): both in one process, one of them inherited by the other process
    pair        kin.pair(address): likewise, connected both ways
    named       kin.open_receiver(address), kin.open_sender(address)
    listener    kin.listen(address).accept() receives, kin.connect(address) sends
    caller      the same, the other way round
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Way = Literal["channel", "pair", "named", "listener", "caller"]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Place:
    """Where a test may put its names."""

    directory: Path

    def path(self) -> str:
        """A path that does not exist yet."""
        return str(self.directory / f"c{next(_numbers)}")

    def name(self) -> str:
        """A name without slashes that no other run uses."""
        return f"kf{os.getpid():x}-c{next(_numbers)}"

    def key(self) -> int:
        """A System V key that is free, most likely: keys have 31 bits."""
        return 1 + int.from_bytes(os.urandom(4), "little") % 0x7FFFFFF0

    def port(self) -> int:
        """A TCP port of the loopback that was free a moment ago."""
        with socket.socket() as asking:
            asking.bind(("127.0.0.1", 0))
            return int(asking.getsockname()[1])


@dataclass(frozen=True)
class Variant:
    """A mechanism, opened in one way."""

    id: str
    scheme: str
    way: Way
    address: Callable[[Place], str]

    @property
    def anonymous(self) -> bool:
        """Whether its ends reach other processes only by inheritance."""
        return self.way in ("channel", "pair")

    @property
    def main(self) -> bool:
        """Whether costly tests run against it too: the others differ from these only in how they are opened."""
        return self.id in MAIN

    @property
    def duplex(self) -> bool:
        """Whether its ends are connections."""
        return self.way in ("pair", "listener", "caller")


#: One variant for each way in which data travels.
MAIN = {
    "pipe-channel",
    "pipe-one-channel",
    "fifo-named",
    "unix-named",
    "unix-pair",
    "unix-seqpacket-named",
    "unix-seqpacket-pair",
    "unix-dgram-named",
    "unix-dgram-caller",
    "mq-named",
    "mq-peers-named",
    "sysv-mq-named",
    "sysv-mq-peers-named",
    "tcp-named",
    "tcp-listener",
    "ring-named",
    "ring-channel",
    "file-named",
}


def _variants(scheme: str, ways: dict[Way, dict[str, Callable[[Place], str]]]) -> list[Variant]:
    return [
        Variant(f"{scheme}{'-' + name if name else ''}-{way}", scheme, way, address)
        for way, addresses in ways.items()
        for name, address in addresses.items()
    ]


def _bare(address: str) -> Callable[[Place], str]:
    return lambda place: address


def _path(scheme: str, query: str = "") -> Callable[[Place], str]:
    return lambda place: f"{scheme}:{place.path()}{query}"


def _abstract(scheme: str) -> Callable[[Place], str]:
    return lambda place: f"{scheme}:@{place.name()}"


def _tcp(query: str) -> Callable[[Place], str]:
    return lambda place: f"tcp:127.0.0.1:{place.port()}?codec=msgpack{query}"


_ROUND = "?capacity=256K"  # once around it, all of a ring's memory has been touched
_SMALL = "&capacity=256K"  # what TCP buffers by default are megabytes to be filled each time


TABLE: dict[str, list[Variant]] = {
    "pipe": _variants(
        "pipe",
        {
            "channel": {"": _bare("pipe:"), "one": _bare("pipe:?senders=one")},
            "pair": {"": _bare("pipe:")},
        },
    ),
    "fifo": _variants(
        "fifo",
        {
            "named": {"": _path("fifo"), "kept": _path("fifo", "?lifetime=name")},
            "channel": {"": _path("fifo")},
        },
    ),
    "unix": _variants(
        "unix",
        {
            "named": {"": _path("unix")},
            "listener": {"": _path("unix"), "abstract": _abstract("unix")},
            "caller": {"": _path("unix")},
            "channel": {"": _bare("unix:")},
            "pair": {"": _bare("unix:")},
        },
    ),
    "unix-seqpacket": _variants(
        "unix-seqpacket",
        {
            "named": {"": _path("unix-seqpacket")},
            "listener": {"abstract": _abstract("unix-seqpacket")},
            "caller": {"": _path("unix-seqpacket")},
            "channel": {"": _bare("unix-seqpacket:")},
            "pair": {"": _bare("unix-seqpacket:")},
        },
    ),
    "unix-dgram": _variants(
        "unix-dgram",
        {
            "named": {"": _path("unix-dgram"), "abstract": _abstract("unix-dgram")},
            "listener": {"": _path("unix-dgram")},
            "caller": {"": _path("unix-dgram")},
            "channel": {"": _bare("unix-dgram:")},
            "pair": {"": _bare("unix-dgram:")},
        },
    ),
    "mq": _variants(
        "mq",
        {
            "named": {
                "": lambda place: f"mq:/{place.name()}",
                "peers": lambda place: f"mq:/{place.name()}?lifetime=peers",
            },
            "channel": {"": _bare("mq:")},
            "pair": {"": _bare("mq:")},
        },
    ),
    "sysv-mq": _variants(
        "sysv-mq",
        {
            "named": {
                "": lambda place: f"sysv-mq:{place.key()}",
                "peers": lambda place: f"sysv-mq:{place.key()}?lifetime=peers",
            },
            "channel": {"": _bare("sysv-mq:")},
            "pair": {"": _bare("sysv-mq:")},
        },
    ),
    "tcp": _variants(
        "tcp",
        {
            "named": {"": _tcp(_SMALL)},
            "listener": {"": _tcp("")},
            "caller": {"": _tcp(_SMALL)},
            "channel": {"": _bare(f"tcp:?codec=msgpack{_SMALL}")},
            "pair": {"": _bare(f"tcp:?codec=msgpack{_SMALL}")},
        },
    ),
    "ring": _variants(
        "ring",
        {
            "named": {"": lambda place: f"ring:{place.name()}{_ROUND}"},
            "channel": {"": _bare(f"ring:{_ROUND}")},
            "pair": {"": _bare("ring:")},
        },
    ),
    "file": _variants(
        "file",
        {"named": {"": _path("file", f"{_ROUND}&arena=16M")}, "channel": {"": _path("file")}},
    ),
}
