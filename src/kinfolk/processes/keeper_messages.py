"""What owner and keeper say to each other, and what a keeper says about each child.

    owner                             socketpair, SOCK_SEQPACKET                          keeper
      request(number) + descriptors  ────────────────────────────────────────────────────>
                                     <────────────────────  reply(number) + pidfd, status pipe

    owner                                pipe, one a child                                keeper, child
      read end                       <────────────────────  records: Begun or Failed, Changed …, Ended

Rules:
1. A request, like a reply, is one packet: msgpack of one of the structs below. What is larger than a packet rides as a sealed memfd, the first descriptor
   of a packet of a byte that is no msgpack (`IN_MEMORY`) and its number. The keeper's side of starting programs is in C (native/keeper_wire.c), and knows
   `StartProgram`, `Started`, `Failed`, `Refused` and `Record` as well.
2. Every request gets exactly one reply of the same number, but for `Abandon` and `Goodbye`, which get none. One that can't be read,
   or lost descriptors on its way, is Refused like any other: its number can always be told (`number_of`).
3. Descriptors of a launch on its way are places in the list that rides along.
4. Records are of one size, and smaller than PIPE_BUF, so each is written and read whole. Ended is the last; an end of
   file without it is the keeper's death.
5. What comes from the owner's interpreter as text (sys.argv, sys.path) travels in bytes, as the kernel has it.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, TypeVar

import msgspec

from kinfolk import memfd
from kinfolk.ancillary import ROOM, close_all, read, rights
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.launch import Launch

#: Where the keeper finds its end of the line, and the owner's pidfd.
LINE, OWNER = 3, 4

#: What the keeper hears: its children, and what nobody can be deaf to. A terminal, a shell, a service manager send
#: the rest to everybody, `killall` to who has the name: it is the owner's business, and the keeper's end is that of everybody below it.
#: A fault of its own ends it all the same: the kernel does not let a process be deaf to that, nor does abort(3).
_HEARD = {signal.SIGCHLD, signal.SIGCONT, signal.SIGKILL, signal.SIGSTOP}
DEAF_TO = tuple(sorted(signal.valid_signals() - _HEARD))

#: Descriptors that ride with Started: pidfd, status pipe.
OF_A_CHILD = 2

#: A packet up to this size rides in the socket: well below what SO_SNDBUF allows by default.
LARGEST_PACKET = 32 * 1024

#: Never a first byte of msgpack.
IN_MEMORY = b"\xc1"


# ── requests ─────────────────────────────────────────────────────────────────────────────────


class StartProgram(msgspec.Struct, tag=0, array_like=True, frozen=True):
    """Start a program."""

    number: int
    #: of `_native.pack_launch`
    block: bytes


class StartFunction(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """Fork, and run a function in the copy."""

    number: int
    #: nothing is executed
    launch: Launch
    #: the function and its arguments, pickled; empty when they ride as a memfd, in `payload_at`
    payload: bytes
    #: the place of the memfd
    payload_at: int
    #: places of the descriptors that the arguments refer to
    arriving: list[int]
    #: the place of a descriptor that hangs up once the owner has closed what it moved here; -1: nothing is moved
    gate: int
    #: sys.argv and sys.path of the owner
    argv: list[bytes]
    path: list[bytes]
    #: of the function
    name: str


class Preload(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """Import modules, for all functions to come."""

    number: int
    modules: list[str]
    path: list[bytes]


class Abandon(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """Whoever made this request was interrupted: what it has started is to end."""

    number: int


class Goodbye(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """The owner ends: SIGTERM to every child, SIGKILL to all that is left after ``grace`` seconds."""

    grace: float


class SetLimit(msgspec.Struct, tag=5, array_like=True, frozen=True):
    """Have this limit from now on (setrlimit(2)), as the owner has."""

    number: int
    resource: int
    soft: int
    hard: int


Request = StartProgram | StartFunction | Preload | Abandon | Goodbye | SetLimit


# ── replies ──────────────────────────────────────────────────────────────────────────────────


class Started(msgspec.Struct, tag=0, array_like=True, frozen=True):
    """A child is there; its pidfd and the read end of its status pipe ride along."""

    number: int
    pid: int


class Failed(msgspec.Struct, tag=1, array_like=True, frozen=True):
    """No child: what `launch.start` would raise."""

    number: int
    step: str
    code: int
    item: int


class Done(msgspec.Struct, tag=2, array_like=True, frozen=True):
    """It was done."""

    number: int


class Unable(msgspec.Struct, tag=4, array_like=True, frozen=True):
    """This kind of keeper can't be had here, and why."""

    number: int
    why: str


class Refused(msgspec.Struct, tag=3, array_like=True, frozen=True):
    """It could not be done, why, and the errno if that was a system call's."""

    number: int
    why: str
    code: int = 0


Reply = Started | Failed | Done | Refused | Unable

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_replies = msgspec.msgpack.Decoder(Reply)
_anything = msgspec.msgpack.Decoder(list[msgspec.Raw])
_NUMBER = struct.Struct("=Q")

T = TypeVar("T")


def send(line: socket.socket, message: Request | Reply, descriptors: Sequence[int] = ()) -> None:
    """One packet; the descriptors stay the caller's as well. Raises OSError."""
    packet = _encoder.encode(message)
    if len(packet) > LARGEST_PACKET:
        _send_in_memory(line, getattr(message, "number", 0), packet, descriptors)
    else:
        line.sendmsg([packet], rights(descriptors, "the keeper's line"), socket.MSG_NOSIGNAL)


def _send_in_memory(
    line: socket.socket, number: int, packet: bytes, descriptors: Sequence[int]
) -> None:
    memory = memfd.sealed([packet], "the keeper's line")
    try:
        beside = rights([memory.fileno(), *descriptors], "the keeper's line")
        line.sendmsg([IN_MEMORY, _NUMBER.pack(number)], beside, socket.MSG_NOSIGNAL)
    finally:
        memory.close()


def receive_request(line: socket.socket) -> tuple[Request, list[int]] | None:
    """The next request and its descriptors, which are the caller's; None at the end of the line. Raises OSError."""
    received = _receive(line, _requests)
    return None if received is None else _checked(*received[:2])


def decode_request(packet: bytes, descriptors: list[int]) -> tuple[Request, list[int]]:
    """A request that was received as bytes; one of the descriptors may be part of it. Raises all kinds of errors for what is
    none; then the descriptors are closed.
    """
    return _checked(*_decode(_requests, packet, descriptors))


def number_of(packet: bytes) -> int:
    """Of a request that may be none otherwise."""
    if packet[:1] == IN_MEMORY:
        return int(_NUMBER.unpack(packet[1:])[0])
    return msgspec.msgpack.decode(_anything.decode(packet)[1], type=int)


def _checked(request: Request, descriptors: list[int]) -> tuple[Request, list[int]]:
    if isinstance(request, StartFunction):
        places = [place for place, _ in request.launch.descriptors]
        places += request.arriving
        places += [place for place in (request.payload_at, request.gate) if place != -1]
        if not all(0 <= place < len(descriptors) for place in places):
            close_all(descriptors)
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    return request, descriptors


def receive_reply(line: socket.socket) -> tuple[Reply, list[int], int | None] | None:
    """The next reply, likewise, and the pid of the child that it is about, where the keeper's own numbers are no use."""
    return _receive(line, _replies)


def _receive(
    line: socket.socket, decoder: msgspec.msgpack.Decoder[T]
) -> tuple[T, list[int], int | None] | None:
    packet, ancillary, _, _ = line.recvmsg(LARGEST_PACKET, ROOM, socket.MSG_CMSG_CLOEXEC)
    sender, descriptors = read(ancillary)
    about = None if sender is None else sender.pid
    return (*_decode(decoder, packet, descriptors), about) if packet else None


def _decode(
    decoder: msgspec.msgpack.Decoder[T], packet: bytes, descriptors: list[int]
) -> tuple[T, list[int]]:
    try:
        if packet[:1] != IN_MEMORY:
            return decoder.decode(packet), descriptors
        memory, *others = descriptors
        size = os.fstat(memory).st_size
        decoded = decoder.decode(memfd.view(memory, size, "the keeper's line"))
    except BaseException:
        close_all(descriptors)
        raise
    os.close(memory)
    return decoded, others


# ── records ──────────────────────────────────────────────────────────────────────────────────


class Kind(IntEnum):
    """What a record says."""

    BEGUN = 1  # the function's options are in force, and what was moved to it has arrived
    FAILED = 2  # they could not be put in force: step, errno, item
    CHANGED = 3  # a status word: stopped, continued
    ENDED = 4  # a status word, and what it used


#: What can fail, by its number in a record: the fields of a launch.
STEPS: tuple[str, ...] = Launch.__struct_fields__

_RECORD = struct.Struct("=4i2d14q")
_NO_USAGE = (0.0, 0.0) + (0,) * 14

#: Bytes in a record.
RECORD_SIZE = _RECORD.size


class Record(NamedTuple):
    """One record of a status pipe."""

    kind: int
    first: int = 0
    second: int = 0
    third: int = 0
    usage: Sequence[float] = _NO_USAGE

    def pack(self) -> bytes:
        """As it is written."""
        return _RECORD.pack(self.kind, self.first, self.second, self.third, *self.usage)

    @classmethod
    def unpack(cls, data: bytes) -> Record:
        """As it was read."""
        kind, first, second, third, *usage = _RECORD.unpack(data)
        return cls(kind, first, second, third, usage)

    def status(self) -> ExitStatus:
        """What Changed and Ended say."""
        usage = resource.struct_rusage(self.usage) if self.kind == Kind.ENDED else None
        return ExitStatus.from_wait(self.first, usage)
