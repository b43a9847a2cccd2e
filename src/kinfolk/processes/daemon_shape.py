"""What a process is made of once it is a daemon: directory, umask, standard streams, descriptors, signals.

Rules:
1. Standard streams lead to /dev/null, a file or the journal, never to what the starter has: a pipe of his would not end
   while the daemon lives. They are always open, so that no other file gets their numbers.
2. Any other descriptor is let go unless it is kept: those of the logging module are, by themselves. In a
   daemon that goes on in Python a *tombstone* takes its number: an O_PATH descriptor, which fails with EBADF like a closed one.
   Closing would give the number to the next file, while a Python object that was opened before still believes that it
   owns it, writes there, and closes it in the end.
3. A signal that was ignored (nohup, a shell's background) has its default action again, and none is blocked. Handlers
   of this program stay: they are the daemon's code, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import sys
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from io import TextIOWrapper
from typing import Any, Literal, Protocol

from kinfolk.descriptors import Descriptor, above_standard
from kinfolk.errors import InvalidValue, KernelError, NotFound, from_os_error
from kinfolk.processes.absolute_path import absolute

#: Where journald takes streams, each line of which is an entry (systemd-cat(1), sd_journal_stream_fd(3)).
JOURNAL = "/run/systemd/journal/stdout"

_INFORMATION = 6  # the priority of lines without one of their own, <3> in front (sd-daemon(3))


class HasFileno(Protocol):
    """Whatever stands for a descriptor."""

    def fileno(self) -> int:
        """Its number."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a daemon is to be."""

    #: to change to; None: it stays where it is
    directory: str | None
    #: None: it stays as it is
    umask: int | None
    #: whether standard streams lead elsewhere
    close: bool
    #: where standard output and error lead: a descriptor, "journal", or None for /dev/null
    log: Descriptor | Literal["journal"] | None
    #: for the journal and for messages
    name: str

    def settle(self) -> None:
        """Directory, umask and streams. Raises OSError, KinfolkError."""
        if self.umask is not None:
            os.umask(self.umask)
        if self.directory is not None:
            try:
                os.chdir(self.directory)
            except OSError as error:
                raise from_os_error(error, "a daemon can't change to it", self.directory) from error
        self._lead_streams()

    def _lead_streams(self) -> None:
        null = Descriptor.opened("/dev/null", os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.closing(null):
            if not self.close:
                for number in range(3):
                    if not _is_open(number):
                        os.dup2(null.fileno(), number)
                return
            log = connect_to_journal(self.name) if self.log == "journal" else self.log
            output = null if log is None else log
            for number, source in enumerate((null, output, output)):
                os.dup2(source.fileno(), number)
            if log is not None:
                log.close()

    def close_log(self) -> None:
        """There is no daemon that could use it."""
        if isinstance(self.log, Descriptor):
            self.log.close()


def bury_descriptors(kept: Set[int]) -> None:
    """Put a tombstone over each descriptor that is not kept (rule 2)."""
    tomb = os.open("/", os.O_PATH | os.O_CLOEXEC)
    for number in _open_descriptors():
        if number > 2 and number != tomb and number not in kept:
            try:
                os.dup2(tomb, number, inheritable=False)
            except OSError:  # above a limit that was lowered since
                os.close(number)
    os.close(tomb)


def free_signals() -> None:
    """Rule 3, for a daemon that goes on in Python, which has to ignore SIGPIPE and SIGXFSZ."""
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _PYTHONS.get(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


_PYTHONS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}


def checked(
    chdir: bool | str | os.PathLike[str],
    umask: int | None,
    close: bool,
    log: str | os.PathLike[str] | None,
    name: str,
) -> Shape:
    """The shape that a caller asks for; all that can be refused before there is a daemon is. Opens the log.

    Raises InvalidValue, NotFound, AccessDenied, KernelError, …
    """
    if umask is not None and not (isinstance(umask, int) and 0 <= umask <= 0o777):
        raise InvalidValue(f"umask={umask!r} makes no sense", remedy="give 0 to 0o777")
    if log is not None and not close:
        raise InvalidValue("log= needs close=True", remedy="leave out one of them")
    directory = "/" if chdir is True else None if chdir is False else _directory(os.fspath(chdir))
    return Shape(directory, umask, close, open_log(log), os.path.basename(name) or "daemon")


def _directory(path: str) -> str:
    """As an absolute path, so that it is the same one when something else has changed the present directory."""
    try:
        os.close(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return absolute(path)
    except ValueError as error:
        raise InvalidValue(
            f"chdir={path!r} is no directory's name", why=str(error), remedy="name one"
        ) from error
    except OSError as error:
        raise from_os_error(error, "a daemon can't change to it", path) from error


def open_log(log: str | os.PathLike[str] | None) -> Descriptor | Literal["journal"] | None:
    """The log that a caller names, opened to append to. Made with mode 0600. Raises NotFound, AccessDenied, …"""
    if log is None:
        return None
    path = os.fspath(log)
    if path == "journal":
        connect_to_journal("kinfolk").close()  # refused before there is a daemon
        return "journal"
    if not path or "\0" in path:
        raise InvalidValue(f"log={path!r} is no file name", remedy='name a file, or "journal"')
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # Not blocking: a FIFO that nobody reads is refused, and not waited for.
        log_fd = Descriptor.opened("log of a daemon", os.open, path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise from_os_error(error, "the log can't be opened", path) from error
    if stat.S_ISFIFO(os.fstat(log_fd.fileno()).st_mode):
        os.set_blocking(log_fd.fileno(), True)
    return log_fd


def connect_to_journal(name: str) -> Descriptor:
    """A stream into the journal, where lines stand under ``name``. Raises NotFound, KernelError."""
    import socket

    remedy = "give a file instead, such as /var/log/app.log"
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with line:
        try:
            line.connect(JOURNAL)
            line.shutdown(socket.SHUT_RD)
            # Name, unit (only for systemd), priority, whether lines have one, copies to syslog, kernel log, console.
            header = (" ".join(name.split()), "", _INFORMATION, 1, 0, 0, 0)
            line.sendall("".join(f"{each}\n" for each in header).encode(errors="replace"))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotFound(
                "there is no journal", subject=JOURNAL, why="journald does not run", remedy=remedy
            ) from error
        except OSError as error:
            raise KernelError(
                "can't write to the journal", subject=JOURNAL, why=str(error), remedy=remedy
            ) from error
        return Descriptor(above_standard(line.detach()), "journal")


def mend_python_streams(logged: bool) -> None:
    """Give Python back the streams that were closed when it started; a log gets each line when it is complete."""
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            made = os.fdopen(
                number, mode, encoding="utf-8", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, made)
            setattr(sys, f"__{name}__", made)
    if logged and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def numbers_of(keep: Iterable[int | HasFileno]) -> frozenset[int]:
    """The descriptors that a caller wants to keep. Raises InvalidValue for what is none, or is closed."""
    numbers = set()
    for each in keep:
        try:
            number = each if isinstance(each, int) else each.fileno()
        except (AttributeError, ValueError, OSError):
            number = -1
        if number < 0 or not _is_open(number):
            raise InvalidValue(
                f"keep={each!r} can't be kept",
                why="it is no open descriptor",
                remedy="give numbers, or objects with fileno()",
            )
        numbers.add(number)
    return frozenset(numbers)


def logging_descriptors() -> Iterator[int]:
    """Those that handlers of the logging module write to, and that Python would not open again."""
    logging = sys.modules.get("logging")
    if logging is None:
        return
    loggers = [logging.root, *logging.Logger.manager.loggerDict.values()]
    handlers = [handler for logger in loggers for handler in getattr(logger, "handlers", ())]
    while handlers:
        handler = handlers.pop()
        for name in ("stream", "socket", "sock"):  # of files; of syslog; of sockets
            with contextlib.suppress(AttributeError, ValueError, OSError):
                number = getattr(handler, name).fileno()
                if isinstance(number, int) and number > 2:
                    yield number
        if (target := getattr(handler, "target", None)) is not None:  # of one that buffers
            handlers.append(target)


def _open_descriptors() -> list[int]:
    return [number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        fcntl.fcntl(number, fcntl.F_GETFD)
    except (OSError, OverflowError):
        return False
    return True
