"""kinfolk's own mechanisms: whatever the registry of mechanisms offers, each by an address that
nobody else has.

A mechanism that is new in kinfolk needs a line in `address_of`, and in `_MEETS` if it meets more or
less than most.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import kinfolk as kin
from kinfolk.bench.subject import Inlet, Outlet, Subject, Terms, Wiring
from kinfolk.channels.mechanisms import SCHEMES

#: Seconds that an end waits for the other one to be there.
_PATIENCE = 20.0

#: Messages that one call may take.
_BATCH = 100

_NAMED = frozenset({"crash-safe", "unrelated", "c-peers"})
_MEETS: dict[str, frozenset[str]] = {
    "pipe": frozenset({"crash-safe", "c-peers"}),
    "file": frozenset({"crash-safe", "unrelated"}),
    "tcp": _NAMED | {"network"},
}

#: Those in whose memory a message can be built and read.
_IN_PLACE = ("ring", "file")

#: Those with one receiving process at a time, by contract; others are asked when they are opened.
_ONE_RECEIVER = ("pipe", "fifo", "unix", "tcp")


def address_of(scheme: str, terms: Terms) -> str:
    """An address for a wiring. Raises Unsupported for a scheme that has none here."""
    codec = "pickle" if terms.objects else "raw"
    match scheme:
        case "pipe":
            senders = "&senders=one" if terms.shape.senders == 1 else ""
            return f"pipe:?codec={codec}{senders}"
        case "fifo" | "unix" | "unix-seqpacket" | "unix-dgram" | "file":
            return f"{scheme}:{terms.directory}/{terms.name}?codec={codec}"
        case "mq":
            return f"mq:/{terms.name}?codec={codec}&lifetime=peers"
        case "sysv-mq":
            return f"sysv-mq:{_key(terms.name)}?codec={codec}&lifetime=peers"
        case "ring":
            return f"ring:{terms.name}?codec={codec}"
        case "tcp":
            if terms.objects:
                raise kin.Unsupported(
                    "can't be measured like this", subject=scheme, why="TCP takes no pickles"
                )
            return f"tcp:127.0.0.1:{unused_port()}?codec={codec}"
    raise kin.Unsupported(
        "the bench has no address for this mechanism",
        subject=f"{scheme}:",
        remedy="add one to kinfolk/bench/channel_subjects.py",
    )


def unused_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _key(name: str) -> int:
    """A System V key of a name: 31 bits, not 0."""
    return 1 + int.from_bytes(name.encode(), "little") % 0x7FFFFFF0


class _Ends:
    """The calls of two kinds of ends, as they are used for bytes or for objects."""

    def __init__(self, objects: bool) -> None:
        self._objects = objects

    def outlet(self, sender: kin.Sender) -> Outlet:
        return Outlet(
            sender.send if self._objects else sender.send_bytes,
            sender.close,
            sender.send_many,
            # Not every mechanism has memory in which both sides look: `Subject.in_place` says
            # which.
            getattr(sender, "reserve", None),
        )

    def inlet(self, receiver: kin.Receiver) -> Inlet:
        take: Callable[[], Any] = receiver.recv if self._objects else receiver.recv_bytes
        return Inlet(take, lambda: receiver.recv_many(_BATCH), receiver.close)


class _Inherited(Wiring):
    """An anonymous channel: both ends are made before the fork, and each process drops what is not
    its own.
    """

    def __init__(self, address: str, objects: bool) -> None:
        self._receiver, self._sender = kin.channel(address)
        self._ends = _Ends(objects)

    def inlet(self, number: int) -> Inlet:
        self._sender.close()
        return self._ends.inlet(self._receiver)

    def outlet(self, number: int) -> Outlet:
        self._receiver.close()
        return self._ends.outlet(self._sender)

    def leave(self) -> None:
        self._receiver.close()
        self._sender.close()


class _Named(Wiring):
    """A channel with an address; senders wait for a receiver to have made it, and the last peer
    removes it.
    """

    def __init__(self, address: str, objects: bool) -> None:
        self._address = address
        self._ends = _Ends(objects)

    def inlet(self, number: int) -> Inlet:
        return self._ends.inlet(kin.open_receiver(self._address, timeout=_PATIENCE))

    def outlet(self, number: int) -> Outlet:
        return self._ends.outlet(kin.open_sender(self._address, timeout=_PATIENCE))

    def remove(self) -> None:
        """Also what killed processes have left: join once more, and go as the last one."""
        try:
            kin.open_receiver(self._address, timeout=1).close()
        except kin.KinfolkError:
            return  # why it can't be opened, the processes have said


def _subject(scheme: str) -> Subject:
    def lay(terms: Terms) -> Wiring:
        address = address_of(scheme, terms)
        if scheme == "pipe":
            return _Inherited(address, terms.objects)
        return _Named(address, terms.objects)

    return Subject(
        name=f"kin {scheme}",
        family="kinfolk",
        lay=lay,
        why="send_bytes and recv_bytes; streams are received by recv_many; arrays by send and recv"
        + (", or built in place with reserve" if scheme in _IN_PLACE else ""),
        module="kinfolk.channels.opening",
        many_receivers=scheme not in _ONE_RECEIVER,
        objects=scheme != "tcp",
        in_place=scheme in _IN_PLACE,
        meets=_MEETS.get(scheme, _NAMED),
    )


SUBJECTS = tuple(map(_subject, SCHEMES))
