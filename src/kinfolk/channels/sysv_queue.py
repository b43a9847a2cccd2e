"""System V message queues as the kernel has them: one end's hold on a queue, and how it is got by key.

sysv_ipc makes, finds and removes them; messages go through `kinfolk._native.SysvQueue`, which can block so that it can be
woken (native/sysv_wait.c, docs/design/sysv.md).

Rules:
1. A queue that kinfolk made for lifetime="peers" has a mark (`marks`) from the moment it exists: only such a one is ever
   removed by its peers, and only if their presence lay beside it from the beginning.
2. Waiting for a message takes none, so a receive that is given up loses none. (One without any bytes, which only others
   than kinfolk send, can't be waited for like that: it is kept for the next receive.)
3. A blocked send carries its message; when it is woken, it is known whether that was sent.
4. While a call is blocked, the watcher wakes it when the other side has gone. (Around the call is no context manager in
   Python: an interrupt in one would leave the watch behind.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import sysv_ipc

from kinfolk import marks, runtime_directory
from kinfolk._native import SysvQueue
from kinfolk.channels.presence import open_end, presence_path
from kinfolk.channels.queue_limits import capacity_refused, sysv_refused
from kinfolk.channels.queue_transport import Put, Queue
from kinfolk.errors import InvalidValue, KinfolkError, NotFound, Unsupported, from_os_error
from kinfolk.interest import Interest
from kinfolk.rendezvous import NotYet
from kinfolk.sysctl import kernel_number
from kinfolk.watcher import watching

_FOREVER = -1
_LONG = struct.Struct("@l")


class Status(NamedTuple):
    """What IPC_STAT says of a queue (msgctl(2))."""

    messages: int
    bytes: int
    capacity: int
    owner: int
    creator: int
    mode: int
    key: int

    @property
    def ours(self) -> bool:
        """Whether it has the mark, and this user made it."""
        return marks.is_sysv_marked(self.mode) and self.creator == os.geteuid()


class Hold(Queue):
    """A queue by its id."""

    def __init__(self, number: int, kind: int | None, subject: str) -> None:
        """``kind`` is the message type to send or to ask for."""
        self._id, self._kind, self._subject = number, kind, subject
        self._native = SysvQueue(number)
        self._room = kernel_number("kernel.msgmax")

    def put(self, data: bytes, priority: int | None) -> Put:
        """A message to be sent. Raises InvalidValue for a type that there is not."""
        kind = priority if priority is not None else 1 if self._kind is None else self._kind
        if not 1 <= kind < 2**63:
            raise InvalidValue(
                f"a message can't be of type {kind}", remedy="give a type from 1 up as priority="
            )
        return _Put(self, _LONG.pack(kind) + data)

    def take(self) -> tuple[bytes, int] | None:
        """The first message of the type that was asked for."""
        while True:
            try:
                taken = self._native.receive(self._kind or 0, self._room)
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
                # Sent when kernel.msgmax was larger. It is not larger than all there is in the queue.
                self._room = max(self._room + 1, self.status().bytes)
                continue
            return None if taken is None else (taken[1], taken[0])

    def arrival(self) -> Interest:
        """A call that blocks until there is a message."""
        return Interest(call=self)

    def messages(self) -> int:
        """msg_qnum."""
        return self.status().messages

    def status(self) -> Status:
        """What the kernel says of it."""
        return Status(*self._native.status())

    def fileno(self) -> int:
        """There is none."""
        raise Unsupported(
            "a System V queue has no descriptor",
            subject=self._subject,
            remedy="wait in recv(timeout=) or await arecv(), or use mq:/name",
        )

    def unlink(self) -> None:
        """Remove the queue, with what is in it, at once. Raises NotFound when it has gone."""
        try:
            sysv_ipc.remove_message_queue(self._id)
        except sysv_ipc.ExistentialError:
            raise NotFound("the queue was removed already", subject=self._subject) from None
        except sysv_ipc.PermissionsError:
            raise from_os_error(
                PermissionError(errno.EPERM, os.strerror(errno.EPERM)),
                "can't remove the queue",
                self._subject,
                remedy="its owner can, or root",
            ) from None

    def remove_if_ours(self) -> None:
        """Remove the queue if kinfolk made it for its peers."""
        with contextlib.suppress(OSError, KinfolkError):
            if self.status().ours:
                self.unlink()

    def close(self) -> None:
        """An id is not to be given back."""

    def passable(self) -> tuple[Callable[..., Queue], tuple[Any, ...]]:
        """By its id, which is the same in every process."""
        return Hold, (self._id, self._kind, self._subject)

    def block(self, milliseconds: int | None) -> bool:
        """Block until a message may be there: the call of `arrival`."""
        try:
            with watching(*self.hangup, waker=self._native.waker):
                self._native.wait_for_message(self._kind or 0, _patience(milliseconds))
        except OSError as error:
            self._refused(error)
        return False  # nothing is lost by not looking again: what it may have taken is kept

    def block_to_put(self, message: bytes, milliseconds: int | None) -> bool:
        """Block until a message is sent; whether it is."""
        try:
            with watching(*self.hangup, waker=self._native.waker):
                return self._native.wait_to_send(message, _patience(milliseconds))
        except OSError as error:
            self._refused(error)
        return False

    def wake(self) -> None:
        """End a blocked call, in whatever thread."""
        self._native.wake()

    def _refused(self, error: OSError) -> None:
        if isinstance(error, KinfolkError):  # the watcher's
            raise error
        # A queue that was removed says so again at the next try, which knows what it means.
        if error.errno not in {errno.EIDRM, errno.EINVAL}:
            raise from_os_error(error, "can't wait", self._subject) from error

    def try_put(self, message: bytes) -> bool:
        """Send, if there is room; a type comes first in ``message``."""
        return self._native.send(message)


class _Put(Put):
    """A message on its way, and the call that blocks until it is in."""

    def __init__(self, hold: Hold, message: bytes) -> None:
        self._hold, self._message = hold, message

    def attempt(self) -> Interest:
        self.done = self._hold.try_put(self._message)
        return Interest(call=self)

    def block(self, milliseconds: int | None) -> bool:
        self.done = self._hold.block_to_put(self._message, milliseconds)
        return self.done

    def wake(self) -> None:
        self._hold.wake()


def _patience(milliseconds: int | None) -> int:
    return _FOREVER if milliseconds is None else milliseconds


# ── by key ───────────────────────────────────────────────────────────────────────────────────


def make(key: int, mode: int, capacity: int | None, subject: str, *, for_peers: bool) -> int:
    """A new queue's id; key 0 makes an anonymous one. Raises sysv_ipc.ExistentialError when it exists."""
    mode = marks.sysv_marked(mode) if for_peers else marks.unmarked(mode)
    try:
        queue = sysv_ipc.MessageQueue(key or sysv_ipc.IPC_PRIVATE, sysv_ipc.IPC_CREX, mode)
    except sysv_ipc.ExistentialError:
        raise
    except (sysv_ipc.Error, OSError, ValueError) as error:
        sysv_refused(error, subject)
    number: int = queue.id
    if capacity is not None:
        try:
            queue.max_size = capacity
        except (sysv_ipc.Error, OSError, ValueError, OverflowError):
            queue.remove()
            raise capacity_refused(capacity, subject) from None
    return number


def find(key: int, subject: str, *, receiving: bool) -> int:
    """The id of a queue. Raises NotYet when there is none."""
    try:
        number: int = sysv_ipc.MessageQueue(key, 0, 0o400 if receiving else 0o200).id
    except sysv_ipc.ExistentialError:
        raise NotYet from None
    except (sysv_ipc.Error, OSError, ValueError) as error:
        sysv_refused(error, subject)
    return number


def status_of(number: int, subject: str) -> Status:
    """What the kernel says of a queue. Raises NotYet when it was removed just now, AccessDenied."""
    try:
        return Status(*SysvQueue(number).status())
    except OSError as error:
        if error.errno in {errno.EIDRM, errno.EINVAL}:
            raise NotYet from None
        raise from_os_error(
            error,
            "can't see whose the queue is",
            subject,
            remedy="IPC_STAT needs the right to read: let its owner open it with mode=0666 or 0660",
        ) from error


def clear_stale(key: int, had_members: bool) -> None:
    """The first peer of all removes what killed ones left. Under the lock of the runtime directory.

    What has no presence of ours is nobody's, and loses the mark: it has to stay when this peer leaves, too.
    """
    with contextlib.suppress(NotYet, KinfolkError, sysv_ipc.Error):
        number = find(key, "", receiving=True)
        if had_members:
            _remove_if(number, key)
        elif (status := status_of(number, "")).ours:
            sysv_ipc.MessageQueue(key).mode = marks.unmarked(status.mode)


# ── without a key ────────────────────────────────────────────────────────────────────────────

# The kernel never removes a System V queue by itself. So an anonymous one has a presence with its id
# in the name, and who makes the next one looks for those that nobody is a member of any more.


def private_presence(number: int) -> str:
    """The path of the presence of an anonymous queue."""
    return presence_path("sysv-mq", f"{_private_prefix()}{number}")


def sweep() -> None:
    """Remove the anonymous queues of this user, in this IPC namespace, whose peers were all killed."""
    prefix = presence_path("sysv-mq", _private_prefix())
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(runtime_directory.path_name()):
            path = f"{runtime_directory.path_name()}/{name}"
            number = path.removeprefix(prefix)
            if path.startswith(prefix) and number.isdecimal():
                with contextlib.suppress(NotYet, KinfolkError, OSError):
                    _leave_as_last(path, int(number))


def _leave_as_last(path: str, number: int) -> None:
    def remove() -> None:
        with contextlib.suppress(NotYet, KinfolkError, sysv_ipc.Error):
            _remove_if(number, 0)

    open_end(path, os.O_RDONLY).leave(remove)


def _private_prefix() -> str:
    # Ids are counted in each IPC namespace, and some of them share a /dev/shm.
    return f"private-{os.stat('/proc/self/ns/ipc').st_ino}-"


def _remove_if(number: int, key: int) -> None:
    status = status_of(number, "")
    if status.ours and status.key & 0xFFFFFFFF == key & 0xFFFFFFFF:
        sysv_ipc.remove_message_queue(number)
