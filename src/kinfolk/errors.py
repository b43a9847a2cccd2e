"""Every exception of kinfolk, sorted by whose fault it is.

    KinfolkError
    ├── UsageError                    yours: the call can't work like this
    │   ├── Closed          ValueError       this end is closed already
    │   ├── AddressError    ValueError       the address or one of its options is wrong
    │   ├── InvalidValue    ValueError       an argument makes no sense
    │   ├── Unsupported     ValueError       this mechanism can't do that
    │   ├── MessageTooBig   ValueError       larger than the channel's limit
    │   ├── BufferTooSmall  ValueError       the buffer you gave can't hold the message
    │   ├── CodecError      ValueError       the codec can't encode this object
    │   ├── StillInUse      BufferError      arrays or views of yours look into it
    │   ├── NotOwner        RuntimeError     this thread does not hold what it would release
    │   ├── Deadlock        RuntimeError     this thread would wait for itself
    │   └── ForkedCopy      RuntimeError     this end was in use by another process at fork
    ├── PeerError                     the other side's
    │   ├── EndOfChannel    EOFError         every sender has gone, all was received
    │   ├── BrokenChannel   BrokenPipeError  every receiver has gone
    │   ├── CorruptChannel  ValueError       what arrived is not what kinfolk writes
    │   ├── CorruptObject   ValueError       what lies there is not what kinfolk writes
    │   ├── OwnerDied       OSError          whoever held it died, or it was given up for good
    │   ├── DecodeError     ValueError       a whole message, but its object can't be made here
    │   └── UntrustedPeer   PermissionError  the peer may not do this (send pickles, own the name)
    └── SystemProblem                 the machine's, or the moment's
        ├── Timeout         TimeoutError     not ready within timeout=
        ├── Busy            OSError          somebody else has it just now
        ├── NotFound        FileNotFoundError  no such name
        ├── AlreadyExists   FileExistsError  the name is taken
        ├── AccessDenied    PermissionError  the kernel says no
        ├── NoSpace         OSError          a disk, a table or a quota is full
        ├── LimitReached    OSError          a limit on descriptors, queues, … is reached
        ├── KeeperDied      ChildProcessError  what starts and reaps children for us was killed
        └── KernelError     OSError          anything else that a system call reports

Rules:
1. Each error says what happened, on which object, why, and what to do, on one line.
2. Each is also what Python people catch already (EOFError, TimeoutError, …).
3. An OSError never leaves the public interface bare: `from_os_error` translates, in one place.
4. The line shows the beginning and the end of what is too long to read; the attributes have it whole.
"""

from __future__ import annotations

import errno
import os


class KinfolkError(Exception):
    """Base of every error that kinfolk raises.

    ``what`` happened, on which ``subject``, ``why``, and the ``remedy``; all of them are strings,
    the last two may be empty.
    """

    #: the errno that the OSError side of a subclass carries when no other is known
    default_errno: int | None = None
    #: what to do when whoever raised it knew nothing better
    default_remedy = ""

    errno: int | None
    strerror: str | None
    filename: str | None

    def __init__(
        self,
        what: str,
        *,
        subject: str = "",
        why: str = "",
        remedy: str = "",
        code: int | None = None,
    ) -> None:
        """Compose the line; ``code`` is an errno for the subclasses that are OSErrors too."""
        self.what, self.subject, self.why = what, subject, why
        self.remedy = remedy or self.default_remedy
        super().__init__(what)
        if isinstance(self, OSError):
            self.errno = code if code is not None else self.default_errno
            self.strerror = self.explain()
            self.filename = subject or None

    def explain(self) -> str:
        """The whole error as one line: what, on which object, why, what to do."""
        subject = self.subject.removesuffix(":")  # the address of an anonymous channel ends in one
        line = _with_short_words(self.what)
        if subject:
            line = f"{_shortened(subject)}: {line}"
        if self.why:
            line += f": {_with_short_words(self.why)}"
        if self.remedy:
            line += f" ({self.remedy})"
        return " ".join(line.splitlines())

    def __str__(self) -> str:
        return self.explain()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (
            type(self),
            self.what,
            self.subject,
            self.why,
            self.remedy,
            getattr(self, "errno", None),
        )


#: Characters of an object's name, or of a word, that the line of an error shows.
_LONGEST = 500


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 2 :]}"


def _with_short_words(text: str) -> str:
    return text if len(text) <= _LONGEST else " ".join(map(_shortened, text.split(" ")))


def _rebuild(
    kind: type[KinfolkError], what: str, subject: str, why: str, remedy: str, code: int | None
) -> KinfolkError:
    return kind(what, subject=subject, why=why, remedy=remedy, code=code)


# ── yours ────────────────────────────────────────────────────────────────────────────────────


class UsageError(KinfolkError):
    """The call can't work as it was made."""


class Closed(UsageError, ValueError):
    """This end was closed, here or by another thread during the call."""

    default_remedy = "open a new one"


class AddressError(UsageError, ValueError):
    """The address can't be parsed, or an option in it is unknown or has a wrong value."""


class InvalidValue(UsageError, ValueError):
    """An argument makes no sense, such as a negative timeout."""


class Unsupported(UsageError, ValueError):
    """The mechanism can't do this; the remedy names one that can."""


class MessageTooBig(UsageError, ValueError):
    """The message is larger than the channel can carry; nothing of it was sent."""


class BufferTooSmall(UsageError, ValueError):
    """The buffer given can't hold the message; the message waits for the next call."""


class CodecError(UsageError, ValueError):
    """The object can't be encoded by the codec of this end; nothing of it was sent."""


class StillInUse(UsageError, BufferError):
    """Arrays, views or records that were made of it are alive, and would look into nothing; nothing was closed."""

    default_remedy = "drop them first (del), or leave the closing to the end of a with block"


class NotOwner(UsageError, RuntimeError):
    """This thread does not hold what it was to release; nothing was released."""


class Deadlock(UsageError, RuntimeError):
    """This thread holds it already, and would wait for itself for ever."""


class ForkedCopy(UsageError, RuntimeError):
    """A forked copy may not be used: another process was using this end when it forked."""


# ── the other side's ─────────────────────────────────────────────────────────────────────────


class PeerError(KinfolkError):
    """The other side has gone, broke the protocol, or may not do what it did."""


class EndOfChannel(PeerError, EOFError):
    """Every sender has gone, and everything that they sent was received."""


class BrokenChannel(PeerError, BrokenPipeError):
    """Every receiver has gone; what is sent now would reach nobody."""

    default_errno = errno.EPIPE
    default_remedy = "open a new channel once a receiver is there"


class CorruptChannel(PeerError, ValueError):
    """What arrived is not what kinfolk writes: an alien, hostile or broken peer."""

    default_remedy = "see who sends there: another program, or another version"


class CorruptObject(PeerError, ValueError):
    """What lies in the shared memory is not what kinfolk writes, or was overwritten."""

    default_remedy = "see who else writes there; then zero it, or choose another place"


class OwnerDied(PeerError, OSError):
    """Whoever held the mutex died holding it, or it was given up for good; it was not taken."""

    default_errno = errno.EOWNERDEAD


class DecodeError(PeerError, ValueError):
    """The message came whole, but the object in it can't be made here; the message is consumed."""

    default_remedy = "make what it is made of known here too, or send plainer objects"


class UntrustedPeer(PeerError, PermissionError):
    """The peer, or the owner of the name, is another user, and may not do this."""

    default_errno = errno.EPERM


# ── the machine's, or the moment's ───────────────────────────────────────────────────────────


class SystemProblem(KinfolkError):
    """The machine or the moment stands against it; the same call may work later."""


class Timeout(SystemProblem, TimeoutError):
    """Not ready within ``timeout`` seconds; nothing was received, nothing will be delivered."""

    default_errno = errno.ETIMEDOUT


class Busy(SystemProblem, OSError):
    """Another process holds what only one can hold."""

    default_errno = errno.EBUSY


class NotFound(SystemProblem, FileNotFoundError):
    """No object has this name."""

    default_errno = errno.ENOENT


class AlreadyExists(SystemProblem, FileExistsError):
    """Another object has this name; it was left as it is."""

    default_errno = errno.EEXIST
    default_remedy = "attach to it, unlink it first, or choose another name"


class AccessDenied(SystemProblem, PermissionError):
    """The kernel does not let this user do that."""

    default_errno = errno.EACCES


class NoSpace(SystemProblem, OSError):
    """A file system, a kernel table or a quota is full."""

    default_errno = errno.ENOSPC


class LimitReached(SystemProblem, OSError):
    """A limit of the process, the user or the kernel is reached; the remedy names it."""

    default_errno = errno.EMFILE


class KeeperDied(SystemProblem, ChildProcessError):
    """The keeper ended in the middle of a request; the next one starts another keeper."""

    default_errno = errno.ECHILD
    default_remedy = "do it again: another keeper is started"


class KernelError(SystemProblem, OSError):
    """A system call failed in a way that has no better name here."""


_BY_ERRNO: dict[int, tuple[type[KinfolkError], str]] = {
    errno.EPIPE: (BrokenChannel, ""),
    errno.ECONNRESET: (BrokenChannel, "connect again"),
    errno.ENOENT: (NotFound, ""),
    errno.EEXIST: (AlreadyExists, ""),
    errno.EACCES: (AccessDenied, ""),
    errno.EPERM: (AccessDenied, ""),
    errno.ENOSPC: (NoSpace, "free some space, or raise the quota"),
    errno.EDQUOT: (NoSpace, "free some space, or raise the quota"),
    errno.EMFILE: (LimitReached, "close descriptors, or raise the limit: ulimit -n"),
    errno.ENFILE: (LimitReached, "raise the kernel's limit: sysctl fs.file-max"),
    errno.ENOMEM: (LimitReached, "free memory, or raise the limit that the call met"),
    errno.ENOBUFS: (LimitReached, "wait until the peer has read, or send smaller messages"),
    errno.EADDRINUSE: (Busy, "choose another name, or end the process that has it"),
    errno.EBUSY: (Busy, ""),
    errno.EMSGSIZE: (
        MessageTooBig,
        "send a smaller message, or choose a mechanism that carries it",
    ),
    errno.ETIMEDOUT: (Timeout, ""),
    errno.EOPNOTSUPP: (Unsupported, ""),
}


def from_os_error(error: OSError, what: str, subject: str = "", remedy: str = "") -> KinfolkError:
    """The error of kinfolk that says what an OSError means for its user.

    ``what`` was being done, on which ``subject``. A ``remedy`` given here wins over the one that
    the errno suggests. An error of kinfolk's own is returned as it is.
    """
    if isinstance(error, KinfolkError):
        return error
    code = error.errno or 0
    kind, usual_remedy = _BY_ERRNO.get(code, (KernelError, ""))
    why = os.strerror(code) if code > 0 else str(error)  # getaddrinfo(3) counts below zero
    filename = "" if error.filename is None else str(error.filename)
    # A descriptor that was opened anew by its number says nothing to people.
    if filename not in subject and not filename.startswith("/proc/self/fd/"):
        why += f" [{filename}]"
    return kind(what, subject=subject, why=why, remedy=remedy or usual_remedy, code=code)


def is_bare(error: OSError) -> bool:
    """Whether it is what a system call of kinfolk's own raised, so that it has to be put into words.

    Not what a signal handler raised that Python ran meanwhile: that has passed through a frame of the handler's.
    """
    if isinstance(error, KinfolkError):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return str(name).startswith(f"{__package__}.")
