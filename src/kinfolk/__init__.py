"""kinfolk: Linux processes that live and talk together.

    import kinfolk as kin

    receiver, sender = kin.channel("pipe:")

The rooms, by floor; imports run downward only, and tests/test_architecture.py holds that:

    0  errors
    1  descriptors, deadlines, identity, waiting
    3  channels
    4  tour, cli
"""

from kinfolk.channels.address import Address
from kinfolk.channels.contract import Limits
from kinfolk.channels.end import Statistics
from kinfolk.channels.endpoints import Connection, Listener, Receiver, Sender
from kinfolk.channels.opening import (
    aconnect,
    aopen_receiver,
    aopen_sender,
    channel,
    connect,
    listen,
    open_receiver,
    open_sender,
    pair,
)
from kinfolk.errors import (
    AccessDenied,
    AddressError,
    BrokenChannel,
    BufferTooSmall,
    Busy,
    Closed,
    CodecError,
    CorruptChannel,
    DecodeError,
    EndOfChannel,
    ForkedCopy,
    InvalidValue,
    KernelError,
    KinfolkError,
    LimitReached,
    MessageTooBig,
    NoSpace,
    NotFound,
    PeerError,
    SystemProblem,
    Timeout,
    Unsupported,
    UntrustedPeer,
    UsageError,
)
from kinfolk.identity import Identity, Peer

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Address",
    "AddressError",
    "BrokenChannel",
    "BufferTooSmall",
    "Busy",
    "Closed",
    "CodecError",
    "Connection",
    "CorruptChannel",
    "DecodeError",
    "EndOfChannel",
    "ForkedCopy",
    "Identity",
    "InvalidValue",
    "KernelError",
    "KinfolkError",
    "LimitReached",
    "Limits",
    "Listener",
    "MessageTooBig",
    "NoSpace",
    "NotFound",
    "Peer",
    "PeerError",
    "Receiver",
    "Sender",
    "Statistics",
    "SystemProblem",
    "Timeout",
    "Unsupported",
    "UntrustedPeer",
    "UsageError",
    "aconnect",
    "aopen_receiver",
    "aopen_sender",
    "channel",
    "connect",
    "listen",
    "open_receiver",
    "open_sender",
    "pair",
]
