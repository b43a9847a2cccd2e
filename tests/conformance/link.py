"""One channel between two processes, whatever the mechanism and the way it is opened.

    receiver, peer = link.from_peer(function)     the function runs in a child, with the sender
    sender, peer = link.to_peer(function)         the function runs in a child, with the receiver
    receiver, sender = link.both()                both ends in this process

A function for a peer takes `(end, voice, *args)`. In the child every copy of an end that was
inherited from the parent is closed, but the one that the function gets.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, Literal

import posix_ipc
import sysv_ipc

import kinfolk as kin
from kinfolk.channels import ring_memory
from kinfolk.channels.address import parse
from kinfolk.channels.mechanisms import SCHEMES, load
from tests.conformance.mechanisms import Place, Variant
from tests.conformance.peers import HANG, Call, Peer, Peers, Voice

Role = Literal["receiver", "sender"]
Job = Callable[..., Any]


class Link:
    """One channel. It closes every end that it gave, and removes the name."""

    def __init__(self, variant: Variant, place: Place, peers: Peers) -> None:
        self.variant, self.place, self.peers = variant, place, peers
        #: called in each child before it opens anything
        self.become: Callable[[], None] = lambda: None
        self.address = variant.address(place)
        #: options for both ends; to be set before the first end is opened
        self.options: dict[str, Any] = {}
        self._ends: list[Any] = []
        self._spare: dict[Role, Any] = {}  # anonymous ends that nobody asked for yet
        self._waiting: list[Peer] = []  # until this process has closed what is theirs
        self._listener: kin.Listener | None = None

    # ---------------------------------------------------------------------------- opening

    def receiver(self) -> Any:
        """A receiving end in this process."""
        return self._keep(self._open("receiver"))

    def sender(self) -> Any:
        """A sending end in this process."""
        return self._keep(self._open("sender"))

    def both(self) -> tuple[Any, Any]:
        """Receiver and sender, both in this process."""
        self.prepare()
        if self.variant.way in ("listener", "caller"):
            accepting: Role = "receiver" if self.variant.way == "listener" else "sender"
            calling: Role = "sender" if accepting == "receiver" else "receiver"
            accept = Call(self._open, accepting)
            ends = {calling: self._open(calling)}
            ends[accepting] = accept.result()
            return self._keep(ends["receiver"]), self._keep(ends["sender"])
        return self.receiver(), self.sender()

    def prepare(self) -> None:
        """Make what has to exist before a child is forked."""
        if self.variant.anonymous and not self._spare and not self._ends:
            if self.variant.way == "channel":
                receiver, sender = kin.channel(self.address, **self.options)
            else:
                receiver, sender = kin.pair(self.address, **self.options)  # type: ignore[assignment]
            self._spare = {"receiver": receiver, "sender": sender}

    def _open(self, role: Role) -> Any:
        way = self.variant.way
        if self.variant.anonymous:
            self.prepare()
            return self._spare.pop(role)
        if way == "named":
            opening: Any = kin.open_receiver if role == "receiver" else kin.open_sender
            return opening(self.address, timeout=HANG, **self.options)
        if (way == "listener") == (role == "receiver"):
            with kin.listen(self.address, timeout=HANG, **self.options) as listener:
                return listener.accept(timeout=HANG)
        return kin.connect(self.address, timeout=HANG, **self.options)

    def _keep(self, end: Any) -> Any:
        self._ends.append(end)
        return end

    # ------------------------------------------------------------------------------ peers

    def from_peer(self, function: Job, *args: Any) -> tuple[Any, Peer]:
        """A receiver here, and a peer that runs `function(sender, voice, *args)`."""
        peer = self.fork("sender", function, *args)
        self.release("sender")
        return self.receiver(), peer

    def to_peer(self, function: Job, *args: Any) -> tuple[Any, Peer]:
        """A sender here, and a peer that runs `function(receiver, voice, *args)`."""
        peer = self.fork("receiver", function, *args)
        self.release("receiver")
        return self.sender(), peer

    def fork(self, role: Role, function: Job, *args: Any) -> Peer:
        """A peer with an end of its own. It begins when `release` is called, after the last fork."""
        self.prepare()
        peer = self.peers.fork(self._in_child, role, function, args)
        self._waiting.append(peer)
        return peer

    def release(self, *roles: Role) -> None:
        """Close the copies here of ends that are for peers (or of all), and let the peers begin."""
        for role in roles or tuple(self._spare):
            if (end := self._spare.pop(role, None)) is not None:
                end.close()
        self.let_begin()

    def let_begin(self) -> None:
        """Let the peers begin while the copies here stay open."""
        while self._waiting:
            self._waiting.pop().say("begin")

    def _in_child(self, voice: Voice, role: Role, function: Job, args: tuple[Any, ...]) -> Any:
        self.become()
        for inherited in self._ends:
            inherited.close()
        if self.variant.anonymous:
            # A copy closed here, and copies that the parent still has, count as peers.
            end = self._open(role)
            self._waiting.clear()
            self.release()
            voice.hear()
        else:
            voice.hear()
            end = self._open(role)
        with end:
            return function(end, voice, *args)

    # ------------------------------------------------------- what it can do, before it is used

    def prepared(self, question: Callable[[Any], Any]) -> Any:
        """The answer to a question about an end, asked of a channel of the same kind that is thrown away."""
        answer = question(self.both()[1])
        self.renew()
        return answer

    @property
    def several_senders(self) -> bool:
        """Whether several processes may have this very channel to send."""
        if self.variant.way == "channel" and self.variant.scheme in ("unix", "tcp"):
            return (
                False  # a stream socket has one writing process, and nobody else can join this one
            )
        return not self.variant.duplex and self.prepared(lambda end: end.limits.senders) == "many"

    @property
    def receivers_may_follow(self) -> bool:
        """Whether another process can receive here when one was killed: a copy, or a name that stays."""
        return self.variant.way == "channel" or (self.variant.way == "named" and self.outlives)

    # ------------------------------------------------------------------------------ the end

    @property
    def outlives(self) -> bool:
        """Whether the name outlives its users, by the mechanism's default or the address."""
        lifetime = parse(self.address).options.lifetime
        return (lifetime or load(self.variant.scheme).default_lifetime) == "name"

    def name_exists(self) -> bool | None:
        """Whether the name is there, for the kernel; None where the kernel can't be asked."""
        exists = _EXISTS.get(self.variant.scheme, os.path.lexists)
        return exists(parse(self.address).name)

    def forget(self, *ends: Any) -> None:
        """Leave ends to the garbage collector."""
        self._ends = [end for end in self._ends if end not in ends]

    def renew(self) -> None:
        """Close everything, and begin with a new channel: other options may be set."""
        self.close()
        self._ends, self._spare, self._waiting = [], {}, []

    def close(self) -> None:
        """Close everything here and remove the name."""
        for end in (*self._ends, *self._spare.values()):
            end.close()
        if not self.variant.anonymous:
            _CLEANERS.get(self.variant.scheme, _no_cleaning)(parse(self.address).name)


def limits_of(variant: Variant, place: Place, peers: Peers) -> kin.Limits:
    """The limits of a variant, from an end that is opened for the purpose."""
    link = Link(variant, place, peers)
    try:
        return link.both()[0].limits
    finally:
        link.close()


# --------------------------------------------------------- names that outlive everybody on purpose


def _no_cleaning(name: str) -> None:
    """Its names are files below the test's own directory."""


def _remove_posix_queue(name: str) -> None:
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue(name)


def _remove_sysv_queue(name: str) -> None:
    with contextlib.suppress(sysv_ipc.ExistentialError):
        sysv_ipc.MessageQueue(int(name)).remove()


def _remove_file(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)


def _posix_queue_exists(name: str) -> bool:
    try:
        posix_ipc.MessageQueue(name).close()
    except posix_ipc.ExistentialError:
        return False
    return True


def _sysv_queue_exists(name: str) -> bool:
    try:
        sysv_ipc.MessageQueue(int(name))
    except sysv_ipc.ExistentialError:
        return False
    return True


def _unix_name_exists(name: str) -> bool:
    if not name.startswith("@"):
        return os.path.lexists(name)
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as file:
        return any(line.endswith(f" {name}\n") for line in file)


def _ring_exists(name: str) -> bool:
    return os.path.lexists(ring_memory.path_of(name))


def _no_name(name: str) -> None:
    """A port is no object."""


_CLEANERS: dict[str, Callable[[str], None]] = {
    "mq": _remove_posix_queue,
    "sysv-mq": _remove_sysv_queue,
    "file": _remove_file,
}
_EXISTS: dict[str, Callable[[str], bool | None]] = {
    "ring": _ring_exists,
    "mq": _posix_queue_exists,
    "sysv-mq": _sysv_queue_exists,
    "unix": _unix_name_exists,
    "unix-seqpacket": _unix_name_exists,
    "unix-dgram": _unix_name_exists,
    "tcp": _no_name,
}

#: The schemes that this build of the library has, with the variants of the table.
REGISTERED = SCHEMES
