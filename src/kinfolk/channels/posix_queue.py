"""POSIX message queues as the kernel has them: one end's hold on a queue, and how it is got by name.

posix_ipc makes, opens and unlinks them; from then on the queue is its descriptor, of which posix_ipc knows nothing once it
was inherited, passed or duplicated (`kinfolk._native.mq_send` and its like).

Rules:
1. A queue that kinfolk made for lifetime="peers" has a mark (`marks`) from the moment it exists: only such a one is ever
   removed by its peers, and only if their presence lay beside it from the beginning.
2. A name is removed only while it is that of the same queue, told by the inode; and by peers only under the lock of
   the runtime directory.
3. What was made has exactly the mode that was asked for; in the microseconds before that it has less.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from typing import Any

import posix_ipc

from kinfolk import marks
from kinfolk._native import mq_attributes, mq_receive, mq_send
from kinfolk.channels.address import Address
from kinfolk.channels.contract import Passed
from kinfolk.channels.queue_limits import QueueSize, posix_refused, too_small
from kinfolk.channels.queue_transport import FOOTER_SIZE, Put, Queue
from kinfolk.channels.trust import check_object
from kinfolk.descriptors import Descriptor
from kinfolk.errors import InvalidValue, NotFound, Unsupported
from kinfolk.interest import Interest
from kinfolk.rendezvous import NotYet

_HIGHEST_PRIORITY = os.sysconf("SC_MQ_PRIO_MAX") - 1


class PosixQueue(Queue):
    """A queue by its descriptor."""

    def __init__(self, descriptor: Descriptor, name: str) -> None:
        """Take over a descriptor; ``name`` is empty for an anonymous queue."""
        self._descriptor, self._name = descriptor, name
        self._size = mq_attributes(descriptor.fileno())[1]

    def put(self, data: bytes, priority: int | None) -> Put:
        """A message to be sent. Raises InvalidValue for a priority that there is not."""
        if priority is not None and not 0 <= priority <= _HIGHEST_PRIORITY:
            raise InvalidValue(
                f"priority={priority} makes no sense",
                remedy=f"give a number from 0 to {_HIGHEST_PRIORITY}; higher ones come first",
            )
        return _Put(self._descriptor.fileno(), data, priority or 0, self.hangup)

    def take(self) -> tuple[bytes, int] | None:
        """The message of the highest priority."""
        try:
            return mq_receive(self._descriptor.fileno(), self._size)
        except BlockingIOError:
            return None

    def arrival(self) -> Interest:
        """The descriptor is readable when there is a message."""
        return Interest(readable=(self._descriptor.fileno(),), hangup=self.hangup)

    def messages(self) -> int:
        """mq_curmsgs."""
        return mq_attributes(self._descriptor.fileno())[2]

    def fileno(self) -> int:
        """The queue's descriptor."""
        return self._descriptor.fileno()

    def unlink(self) -> None:
        """Remove the name. Raises NotFound when it has gone."""
        if not self._name:
            raise Unsupported(
                "there is no name to remove", subject="mq:", remedy="close it: that is all"
            )
        try:
            posix_ipc.unlink_message_queue(self._name)
        except posix_ipc.ExistentialError:
            raise NotFound("the name has gone already", subject=f"mq:{self._name}") from None
        except posix_ipc.Error as error:
            posix_refused(error, None, f"mq:{self._name}")

    def remove_if_ours(self) -> None:
        """Remove the name if it still is this queue's, and kinfolk made it for peers."""
        mine = os.fstat(self._descriptor.fileno())
        if marks.is_marked(mine.st_mode) and mine.st_uid == os.geteuid():
            _remove(self._name, mine.st_ino)

    def close(self) -> None:
        """Close the descriptor."""
        self._descriptor.close()

    def passable(self) -> tuple[Callable[..., Queue], tuple[Any, ...]]:
        """By its descriptor."""
        return _passed, (Passed(self._descriptor.fileno()), self._name)


class _Put(Put):
    def __init__(self, fd: int, data: bytes, priority: int, hangup: tuple[int, ...]) -> None:
        self._fd, self._data, self._priority = fd, data, priority
        self._interest = Interest(writable=(fd,), hangup=hangup)

    def attempt(self) -> Interest:
        with contextlib.suppress(BlockingIOError):
            mq_send(self._fd, self._data, self._priority)
            self.done = True
        return self._interest


def _passed(fd: int, name: str) -> PosixQueue:
    return PosixQueue(Descriptor(fd, f"mq:{name}"), name)


# ── by name ──────────────────────────────────────────────────────────────────────────────────


def _open(name: str, *, reading: bool, writing: bool) -> Descriptor:
    return _own(posix_ipc.MessageQueue(name, read=reading, write=writing), name)


def _own(queue: Any, name: str) -> Descriptor:
    # posix_ipc closes by hand only, so that a descriptor of our own is what is kept.
    try:
        return Descriptor.opened(f"mq:{name}", os.dup, queue.mqd)
    finally:
        queue.close()


def _wanted_size(address: Address) -> QueueSize:
    usual, options = QueueSize.usual(), address.options
    footer = 0 if options.framing == "raw" else FOOTER_SIZE
    message = usual.message if options.max_message is None else options.max_message + footer
    return QueueSize(options.depth or usual.depth, message)


def _make(name: str, address: Address, *, for_peers: bool) -> Descriptor:
    mode = 0o600 if address.options.mode is None else address.options.mode
    codec = address.options.codec or "pickle"
    check_object(os.geteuid(), mode, codec, str(address), receiving=True)
    size = _wanted_size(address)
    try:
        queue = posix_ipc.MessageQueue(
            name,
            posix_ipc.O_CREX,
            mode=marks.marked(mode) if for_peers else mode,
            max_messages=size.depth,
            max_message_size=size.message,
        )
    except posix_ipc.ExistentialError:
        raise
    except (posix_ipc.Error, OSError, ValueError, MemoryError, OverflowError) as error:
        posix_refused(error, size, str(address))
    try:
        descriptor = _own(queue, name)
        try:
            give_mode = marks.mark if for_peers else os.fchmod
            give_mode(descriptor.fileno(), mode)  # what the umask took away
        except BaseException:
            descriptor.close()
            raise
    except BaseException:
        posix_ipc.unlink_message_queue(name)
        raise
    return descriptor


def make_or_open(address: Address) -> Descriptor:
    """A receiver's descriptor. Raises NotYet when the queue is being removed just now."""
    try:
        return _make(address.name, address, for_peers=address.options.lifetime == "peers")
    except posix_ipc.ExistentialError:
        pass
    try:
        descriptor = _open(address.name, reading=True, writing=False)
    except posix_ipc.ExistentialError:
        raise NotYet from None  # removed just now
    except (posix_ipc.Error, OSError) as error:
        posix_refused(error, None, str(address))
    return _checked(address, descriptor, receiving=True)


def make_nameless(address: Address) -> Descriptor:
    """A descriptor of a new queue, without a name. Killed in between, it leaves a name with the mark."""
    while True:
        name = f"/kinfolk-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            queue = _make(name, address, for_peers=True)
        except posix_ipc.ExistentialError:
            continue
        posix_ipc.unlink_message_queue(name)
        return queue


class Patience:
    """Opens the queue for a sender, once it is there."""

    def __init__(self, address: Address) -> None:
        """Nothing is opened yet."""
        self._address = address
        self._was_absent = False

    def attempt(self) -> Descriptor:
        """A sender's descriptor. Raises NotYet while there is no queue."""
        try:
            descriptor = _open(self._address.name, reading=False, writing=True)
        except posix_ipc.ExistentialError:
            self._was_absent = True
            raise NotYet from None
        except posix_ipc.PermissionsError as error:
            if self._was_absent:
                # It appeared a moment ago, and its mode may not be what the maker asked for yet: see `_make`.
                self._was_absent = False
                raise NotYet from None
            posix_refused(error, None, str(self._address))
        except (posix_ipc.Error, OSError) as error:
            posix_refused(error, None, str(self._address))
        return _checked(self._address, descriptor, receiving=False)


def _checked(address: Address, descriptor: Descriptor, *, receiving: bool) -> Descriptor:
    """The descriptor, or an error: another user's queue, or one that is smaller than was asked for."""
    try:
        status = os.fstat(descriptor.fileno())
        check_object(
            status.st_uid,
            status.st_mode,
            address.options.codec or "pickle",
            str(address),
            receiving=receiving,
        )
        there, size, options = (
            mq_attributes(descriptor.fileno()),
            _wanted_size(address),
            address.options,
        )
        if options.depth is not None and there[0] < size.depth:
            raise too_small("depth", there[0], options.depth, str(address))
        if options.max_message is not None and there[1] < size.message:
            largest = there[1] - (size.message - options.max_message)
            raise too_small("max_message", largest, options.max_message, str(address))
    except BaseException:
        descriptor.close()
        raise
    return descriptor


def clear_stale(name: str, had_members: bool) -> None:
    """The first peer of all removes what killed ones left. Under the lock of the runtime directory.

    What has no presence of ours is nobody's, and loses the mark: it has to stay when this peer leaves, too.
    """
    with contextlib.suppress(posix_ipc.Error, OSError):
        descriptor = _open(name, reading=True, writing=False)
        try:
            status = os.fstat(descriptor.fileno())
            if not marks.is_marked(status.st_mode) or status.st_uid != os.geteuid():
                return
            if had_members:
                posix_ipc.unlink_message_queue(name)
            else:
                os.fchmod(descriptor.fileno(), marks.unmarked(status.st_mode))
        finally:
            descriptor.close()


def _remove(name: str, inode: int) -> None:
    with contextlib.suppress(posix_ipc.Error, OSError):
        descriptor = _open(name, reading=True, writing=False)
        try:
            still_it = os.fstat(descriptor.fileno()).st_ino == inode
        finally:
            descriptor.close()
        if still_it:
            posix_ipc.unlink_message_queue(name)
