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
    def duplex(self) -> bool:
        """Whether its ends are connections."""
        return self.way in ("pair", "listener", "caller")


def _variants(scheme: str, ways: dict[Way, dict[str, Callable[[Place], str]]]) -> list[Variant]:
    return [
        Variant(f"{scheme}{'-' + name if name else ''}-{way}", scheme, way, address)
        for way, addresses in ways.items()
        for name, address in addresses.items()
    ]


def _bare(address: str) -> Callable[[Place], str]:
    return lambda place: address


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
            "named": {"": lambda place: f"fifo:{place.path()}"},
        },
    ),
    "unix": _variants(
        "unix",
        {
            "pair": {"": _bare("unix:")},
            "named": {"": lambda place: f"unix:{place.path()}"},
            "listener": {
                "": lambda place: f"unix:{place.path()}",
                "abstract": lambda place: f"unix:@{place.name()}",
            },
            "caller": {"": lambda place: f"unix:{place.path()}"},
        },
    ),
    "unix-seqpacket": _variants(
        "unix-seqpacket",
        {
            "pair": {"": _bare("unix-seqpacket:")},
            "named": {"": lambda place: f"unix-seqpacket:{place.path()}"},
            "listener": {
                "": lambda place: f"unix-seqpacket:{place.path()}",
                "abstract": lambda place: f"unix-seqpacket:@{place.name()}",
            },
        },
    ),
    "unix-dgram": _variants(
        "unix-dgram",
        {
            "named": {
                "": lambda place: f"unix-dgram:{place.path()}",
                "abstract": lambda place: f"unix-dgram:@{place.name()}",
            },
            "pair": {"": _bare("unix-dgram:")},
        },
    ),
    "mq": _variants(
        "mq",
        {
            "named": {
                "": lambda place: f"mq:/{place.name()}",
                "peers": lambda place: f"mq:/{place.name()}?lifetime=peers",
            }
        },
    ),
    "sysv-mq": _variants(
        "sysv-mq",
        {
            "named": {
                "": lambda place: f"sysv-mq:{place.key()}",
                "peers": lambda place: f"sysv-mq:{place.key()}?lifetime=peers",
            }
        },
    ),
    "tcp": _variants(
        "tcp",
        {
            "named": {"": lambda place: f"tcp:127.0.0.1:{place.port()}?codec=msgpack"},
            "listener": {"": lambda place: f"tcp:127.0.0.1:{place.port()}?codec=msgpack"},
            "caller": {"": lambda place: f"tcp:127.0.0.1:{place.port()}?codec=msgpack"},
        },
    ),
}
