"""What the kernel allows for message queues, and what to do when it says no.

posix_ipc and sysv_ipc tell an error by its class and a sentence, without an errno; here it gets the limit, its value, and the
command that raises it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from typing import NamedTuple, NoReturn

import posix_ipc
import sysv_ipc

from kinfolk.errors import AccessDenied, AddressError, KernelError, LimitReached, NoSpace
from kinfolk.sysctl import kernel_number

#: RLIMIT_MSGQUEUE, which the resource module has no name for: bytes in all POSIX queues of a user.
RLIMIT_MSGQUEUE = 12

# Above these nobody may go, CAP_SYS_RESOURCE or not (mq_overview(7)).
_HARD_MESSAGES, _HARD_SIZE = 65536, 16 << 20


class QueueSize(NamedTuple):
    """What a POSIX queue is to hold: so many messages, each of so many bytes (footer included)."""

    depth: int
    message: int

    @classmethod
    def usual(cls) -> QueueSize:
        """What mq_open gives when nothing is asked (mq_overview(7))."""
        return cls(
            min(kernel_number("fs.mqueue.msg_default"), kernel_number("fs.mqueue.msg_max")),
            min(kernel_number("fs.mqueue.msgsize_default"), kernel_number("fs.mqueue.msgsize_max")),
        )


# ── POSIX ────────────────────────────────────────────────────────────────────────────────────


def posix_refused(error: Exception, size: QueueSize | None, subject: str) -> NoReturn:
    """Raise what an error of mq_open means; ``size`` is what was to be made, None for opening."""
    if isinstance(error, posix_ipc.PermissionsError):
        raise AccessDenied(
            "the queue can't be opened",
            subject=subject,
            why=f"it belongs to another user, and its mode does not let user {os.geteuid()} in",
            remedy="let its owner open it with another mode=, or choose another name",
        ) from error
    if size is None or isinstance(error, MemoryError):
        raise _unexpected(error, subject) from error
    if isinstance(error, ValueError):
        raise _too_large(size, subject) from error
    if "Insufficient space" in str(error) or getattr(error, "errno", 0) == errno.ENOSPC:
        limit = kernel_number("fs.mqueue.queues_max")
        raise NoSpace(
            "no more POSIX queues can be made",
            subject=subject,
            why=f"fs.mqueue.queues_max is {limit}",
            remedy=f"unlink queues that nobody needs, or raise it: sysctl fs.mqueue.queues_max={2 * limit}",
        ) from error
    if isinstance(error, OSError) and _descriptor_is_free():
        raise _too_many_bytes(size, subject) from error
    raise _unexpected(error, subject) from error


def _too_large(size: QueueSize, subject: str) -> LimitReached:
    allowed = QueueSize(kernel_number("fs.mqueue.msg_max"), kernel_number("fs.mqueue.msgsize_max"))
    rows = (
        ("messages", "depth", "msg_max", size.depth, allowed.depth, _HARD_MESSAGES),
        (
            "bytes a message",
            "max_message",
            "msgsize_max",
            size.message,
            allowed.message,
            _HARD_SIZE,
        ),
    )
    why, remedy = [], []
    for unit, option, sysctl, wanted, most, hard in rows:
        if wanted > most:
            why.append(f"{wanted} {unit} were asked for, and fs.mqueue.{sysctl} is {most}")
            raised = f"sysctl fs.mqueue.{sysctl}={wanted}"
            remedy.append(
                f"lower {option}=, or raise it: {raised}"
                if wanted <= hard
                else f"lower {option}=: nothing goes above {hard}"
            )
    return LimitReached(
        "a queue of this size can't be made",
        subject=subject,
        why="; ".join(why),
        remedy="; ".join(remedy),
        code=errno.EINVAL,
    )


def _too_many_bytes(size: QueueSize, subject: str) -> LimitReached:
    limit = resource.getrlimit(RLIMIT_MSGQUEUE)[0]
    needed = queue_bytes(size)
    return LimitReached(
        f"a queue of {needed} bytes can't be made",
        subject=subject,
        why=f"all POSIX queues of a user together may have {limit} bytes (RLIMIT_MSGQUEUE)",
        remedy="lower depth= or max_message=, unlink queues that nobody needs,"
        f" or raise it: ulimit -q {2 * max(limit, needed)}",
        code=errno.EMFILE,
    )


def queue_bytes(size: QueueSize) -> int:
    """What the kernel counts for a queue (getrlimit(2), RLIMIT_MSGQUEUE; 64-bit sizes)."""
    return size.depth * (size.message + 8) + size.depth * 48


def _descriptor_is_free() -> bool:
    with contextlib.suppress(OSError):
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
        return True
    return False


# ── System V ─────────────────────────────────────────────────────────────────────────────────


def sysv_refused(error: Exception, subject: str) -> NoReturn:
    """Raise what an error of msgget means."""
    if isinstance(error, sysv_ipc.PermissionsError):
        raise AccessDenied(
            "the queue can't be opened",
            subject=subject,
            why=f"it belongs to another user, and its mode does not let user {os.geteuid()} in",
            remedy="let its owner open it with another mode=, or choose another key",
        ) from error
    if isinstance(error, OSError) and "limit" in str(error):
        limit = kernel_number("kernel.msgmni")
        raise NoSpace(
            "no more System V queues can be made",
            subject=subject,
            why=f"kernel.msgmni is {limit}",
            remedy="remove queues that nobody needs (ipcs -q, ipcrm -q ID),"
            f" or raise it: sysctl kernel.msgmni={2 * limit}",
        ) from error
    raise _unexpected(error, subject) from error


def capacity_refused(wanted: int, subject: str) -> LimitReached:
    """The error for a capacity (msg_qbytes) that the kernel does not give."""
    limit = kernel_number("kernel.msgmnb")
    return LimitReached(
        f"the queue can't be made to hold {wanted} bytes",
        subject=subject,
        why=f"only root goes above kernel.msgmnb, which is {limit}",
        remedy=f"ask for less, or raise it: sysctl kernel.msgmnb={wanted}",
        code=errno.EPERM,
    )


def message_refused(wanted: int, most: int, capacity: int, subject: str) -> LimitReached:
    """The error for a max_message that no message of this queue can have."""
    by_capacity = capacity < wanted
    return LimitReached(
        f"messages of {wanted} bytes can't be sent here",
        subject=subject,
        why=f"the queue holds {capacity} bytes" if by_capacity else f"kernel.msgmax is {most}",
        remedy="ask for less, or "
        + (
            f"open it with capacity={wanted}"
            if by_capacity
            else f"raise it: sysctl kernel.msgmax={wanted}"
        ),
        code=errno.EINVAL,
    )


# ── both ─────────────────────────────────────────────────────────────────────────────────────


def too_small(what: str, there: int, wanted: int, subject: str) -> AddressError:
    """The error for a queue that exists already, and is smaller than was asked for."""
    return AddressError(
        f"the queue exists already, with {what}={there}",
        subject=subject,
        why=f"{what}={wanted} was asked for, and a queue that exists is joined as it is",
        remedy=f"leave {what} out to join it as it is, or unlink() it first",
    )


def _unexpected(error: Exception, subject: str) -> Exception:
    code = getattr(error, "errno", None)
    if isinstance(error, OSError) and code is None and not _descriptor_is_free():
        return LimitReached(
            "the queue can't be opened",
            subject=subject,
            why=os.strerror(errno.EMFILE),
            remedy="close descriptors, or raise the limit: ulimit -n",
        )
    if isinstance(error, OSError) and code is not None:
        return error
    return KernelError("the queue can't be opened", subject=subject, why=str(error))
