"""What a mechanism has to provide, and what it may rely on.

    user ── Sender.send(obj) ── codec ──> Message ──> SendTransport.send ── the kernel ──┐
    user <─ Receiver.recv() <── codec ─── Message <── ReceiveTransport.receive <─────────┘

A mechanism is one file with a `Mechanism`, whose openings are Steps (`kinfolk.waiting`) that
give transports. Endpoints call a transport.

Rules for a transport:
1. `send` and `receive` never block: they try, and yield an Interest when the kernel says no. One operation
   at a time runs in each direction, and it is run to its end, or closed at a yield (a timeout, a
   cancellation, a close); then the next operation finds the transport whole: what was half
   sent is aborted, what was half received is kept.
2. `send` returns when the message is committed: it is delivered as long as a receiver lives.
3. `receive` returns a whole message, or raises EndOfChannel when every sender has gone and all was received.
4. OSErrors may pass through: the endpoint translates them.
5. `close` runs when nobody is inside an operation; nothing runs after it.
6. Nothing that arrived is trusted: lengths are checked against `Limits.max_message` before
   memory is taken for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from kinfolk.channels.address import Address, Codec, Lifetime
from kinfolk.channels.delivery import Claim
from kinfolk.errors import AddressError, Closed, Unsupported
from kinfolk.identity import Peer
from kinfolk.interest import Interest, Steps

Buffer = bytes | bytearray | memoryview

#: The largest message unless ``max_message`` says otherwise, in bytes.
DEFAULT_MAX_MESSAGE = 1 << 30


@dataclass(slots=True)
class Message:
    """A message as it travels: what the codec made, and what the kernel says beside it."""

    #: which codec wrote it: see `kinfolk.channels.codec`
    kind: int
    #: outgoing: the pieces, one after the other; incoming: one piece
    parts: Sequence[Buffer]
    priority: int | None = None
    #: descriptors that ride along; the holder of the message owns them
    descriptors: Sequence[int] = ()
    #: who sent it, where the kernel says so for each message
    sender: Peer | None = None
    #: the hold on one that is to be acknowledged
    claim: Claim | None = None
    #: bytes in all pieces
    size: int = field(init=False)

    def __post_init__(self) -> None:
        parts = self.parts
        self.size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))

    @property
    def body(self) -> Buffer:
        """The single piece of an incoming message."""
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a channel can do, and where it ends. Every number was read from the kernel or the options."""

    mechanism: str
    #: bytes in the largest message; a larger one raises MessageTooBig
    max_message: int
    #: bytes that may wait in the kernel before a sender blocks; None where it counts messages only
    capacity: int | None = None
    #: messages that may wait; None where it counts bytes only
    depth: int | None = None
    #: processes that may send at the same time: "one" or "many"
    senders: str = "many"
    #: processes that may receive at the same time
    receivers: str = "one"
    #: whether the end of the other side is seen
    presence: bool = True
    #: whether messages carry priorities (or types)
    priorities: bool = False
    #: whether descriptors can be passed
    descriptors: bool = False
    #: whether a message without bytes can be told from none
    empty_messages: bool = True
    #: what to do about a message that is too large
    too_big_remedy: str = "open both ends with a larger max_message"
    #: what else a user should know, a sentence each
    notes: tuple[str, ...] = ()


class _Transport(ABC):
    """What both directions have."""

    limits: Limits
    #: whether a second end in this process can go on with it; not where each would know connections of its own
    clonable: ClassVar[bool] = True

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that becomes ready when this direction does. Raises Unsupported where none can."""

    @abstractmethod
    def close(self) -> None:
        """Give back every descriptor; the last peer removes the name that kinfolk made."""

    def unlink(self) -> None:
        """Remove the name. Raises Unsupported where there is none."""
        raise Unsupported(
            "there is no name to remove",
            subject=self.limits.mechanism,
            remedy="close it: that is all",
        )

    def peer(self) -> Peer | None:
        """Who is at the other end, where the kernel vouches for one."""
        return None

    def shortcuts(self, end: object, *guards: Collection[object]) -> dict[str, Callable[..., Any]]:
        """Methods of this end that the mechanism has a quicker way for, by their names; they mean the same.

        One of them is never taken while a guard holds anything: that is somebody inside, or a message that waits to be
        handed over. It refers to the end weakly.
        """
        return {}

    def uncounted(self) -> tuple[int, int, int]:
        """Messages and bytes that went by `shortcuts`, and how often one slept."""
        return 0, 0, 0

    def depth(self) -> int | None:
        """Bytes (or messages, where `limits.depth` counts those) that wait in the kernel; None when unknown.

        Any thread may ask, also during a close or after the object was removed: then it may raise OSError or Closed.
        """
        return None

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A function and arguments that make this transport anew from duplicated descriptors.

        Descriptors among the arguments are wrapped in `Passed`. Raises Unsupported where an end can't be passed.
        """
        raise Unsupported(
            "an end of this mechanism can't be passed",
            subject=self.limits.mechanism,
            remedy="open the address in the other process, or fork",
        )

    def keep(self) -> None:  # noqa: B027 — most give nothing away
        """What `passable` gave came to nothing: this transport goes on with what it gave away."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A descriptor among the arguments of `passable`."""

    number: int


class SendTransport(_Transport):
    """The sending direction of one end."""

    @abstractmethod
    def send(self, message: Message) -> Steps[None]:
        """Commit one message. Raises BrokenChannel when every receiver has gone."""

    def try_send(self, message: Message) -> bool:
        """`send` for a message that takes one system call, and only if it can be sent now; whether it was.

        Here for speed alone: a mechanism that can't do better than its steps leaves it.
        """
        return False

    def reserve(self, size: int) -> Steps[Any]:
        """Memory in which a message is built that is read there: a Room of `kinfolk.channels.reserving`."""
        raise Unsupported(
            "there is no memory to build a message in",
            subject=self.limits.mechanism,
            why="the kernel copies what is sent",
            remedy="use ring:, or send()",
        )

    def reserve_now(self, size: int) -> Any:
        """The same as `shortcuts` do things: at once, if nobody is inside, or None."""
        return None

    def send_eof(self) -> None:
        """End this direction while the other goes on. Raises Unsupported where they can't be parted."""
        raise Unsupported(
            "this direction can't be ended alone",
            subject=self.limits.mechanism,
            remedy="close the end",
        )


def sending_ended(subject: str) -> Closed:
    """What a transport raises that is to send after its `send_eof`."""
    return Closed("sending was ended with send_eof()", subject=subject)


class ReceiveTransport(_Transport):
    """The receiving direction of one end."""

    #: whole messages that were dropped because their sender died or gave up in the middle, or may not send them
    dropped: int = 0

    @abstractmethod
    def receive(self) -> Steps[Message]:
        """The next message. Raises EndOfChannel, CorruptChannel."""

    #: whether its messages have a claim, and come by `recv_message` alone
    acknowledges: bool = False

    #: what to wait for, after `try_receive` gave None
    interest: Interest
    _steps: Steps[Message] | None = None

    def try_receive(self) -> Message | None:
        """The next message, or None instead of waiting: then `interest` says for what.

        By default it goes on with the steps of `receive` where they stopped; a mechanism with a quicker way takes it,
        and makes its steps of that.
        """
        if self._steps is None:
            self._steps = self.receive()
        try:
            self.interest = next(self._steps)
        except StopIteration as received:
            self._steps = None
            return received.value  # type: ignore[no-any-return]
        except BaseException:
            self._steps = None
            raise
        return None

    #: whether messages may be in user space, of which `fileno` knows nothing
    reads_ahead: bool = False

    def hangups(self) -> tuple[int, ...]:
        """Descriptors whose hang-up may be the end of the channel, of which `fileno` knows nothing."""
        return ()

    def buffered(self) -> bool:
        """Whether a message (or an error) was read ahead."""
        return False


@dataclass(frozen=True, slots=True)
class Duplex:
    """Both directions of one connection."""

    receiving: ReceiveTransport
    sending: SendTransport

    def close(self) -> None:
        """Close both."""
        self.receiving.close()
        self.sending.close()


class ListenTransport(ABC):
    """Accepts connections."""

    limits: Limits
    #: connections refused because of who asked
    refused: int = 0

    @abstractmethod
    def accept(self) -> Steps[Duplex]:
        """The next connection."""

    @abstractmethod
    def fileno(self) -> int:
        """Readable when a connection waits."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening and remove the name that was made."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it really listens (a port of 0 has become a number)."""


class Mechanism:
    """One mechanism of the kernel. The openings that it lacks raise Unsupported, with a remedy."""

    scheme: ClassVar[str]
    options: ClassVar[frozenset[str]]
    default_codec: ClassVar[Codec] = "pickle"
    default_lifetime: ClassVar[Lifetime] = "peers"
    #: what to use for the openings that are missing here
    remedy: ClassVar[str] = "use unix:, unix-seqpacket: or tcp:"

    def completed(self, address: Address) -> Address:
        """The address with this mechanism's defaults in place of what it leaves open. Raises AddressError."""
        options = address.options
        framing = options.framing or "framed"
        codec = options.codec or ("raw" if framing == "raw" else self.default_codec)
        if framing == "raw" and codec != "raw":
            raise AddressError(
                f"framing=raw moves bare bytes, and codec={codec} makes more of them",
                subject=str(address),
                remedy="leave the codec out, or use framing=framed",
            )
        lifetime = options.lifetime or self.default_lifetime
        return replace(
            address, options=replace(options, framing=framing, codec=codec, lifetime=lifetime)
        )

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver to have made the name, and join it."""
        raise self._lacks("a sender can't be opened by address", address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the name, or join it where several receive."""
        raise self._lacks("a receiver can't be opened by address", address)

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Both ends of a one-way channel, in this process."""
        raise self._lacks("a channel of one process can't be made", address)

    def connect(self, address: Address) -> Steps[Duplex]:
        """Connect to a listener, waiting for it to be there."""
        raise self._lacks("it goes one way only", address)

    def listen(self, address: Address) -> Steps[ListenTransport]:
        """Make the name and listen there."""
        raise self._lacks("it goes one way only", address)

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two connected ends; one channel each way unless the mechanism knows better."""
        here_receives, there_sends = yield from self.channel(address)
        try:
            there_receives, here_sends = yield from self.channel(address)
        except BaseException:
            here_receives.close()
            there_sends.close()
            raise
        return Duplex(here_receives, here_sends), Duplex(there_receives, there_sends)

    def _lacks(self, why: str, address: Address) -> Unsupported:
        return Unsupported(
            "can't be opened like this", subject=str(address), why=why, remedy=self.remedy
        )
