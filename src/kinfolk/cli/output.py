"""What is received: standard output, a device, or a file that appears whole or not at all.

    O_TMPFILE in the file's directory ── write … fsync ──> linkat to the name (or to a spare name, then
    rename over what is there) ──> fsync of the directory

Until the last step the file has no name: a kill at any instruction before it leaves nothing, and what had the
name before stays. Where a file system has no O_TMPFILE, a hidden file beside it is written and renamed; of
those, a SIGKILL leaves one behind. What is no regular file (a device, a FIFO, /dev/stdout) can't be
replaced: it is opened and written to. A symbolic link to a regular file is replaced, not followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import stat
from types import TracebackType
from typing import Protocol, Self

import kinfolk as kin
from kinfolk.cli.failures import STDOUT, file_error, refuse_empty
from kinfolk.cli.signals import StandardOutputClosed

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR)  # of the file system, of the kernel (open(2))


class Output(Protocol):
    """Where received bytes go."""

    name: str

    @property
    def is_data_stream(self) -> bool:
        """Whether this is standard output: then reports go elsewhere."""
        ...

    def write(self, data: bytes) -> None:
        """Write all of it."""

    def commit(self) -> None:
        """Everything came: show it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def output_to(path: str | None) -> Output:
    """The output for a FILE argument; None or ``-`` is standard output. Raises what the kernel says of the name."""
    if path in (None, "-"):
        return Stream(1, STDOUT, own=False)
    assert path is not None
    refuse_empty(path)
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return WholeFile(path, None)
    except OSError as error:
        raise file_error(error, "can't be written", path) from error
    if stat.S_ISDIR(there.st_mode):
        raise kin.KernelError(
            "can't be written", subject=path, why="it is a directory", remedy="name a file in it"
        )
    if stat.S_ISREG(there.st_mode):
        return WholeFile(path, stat.S_IMODE(there.st_mode))
    try:
        return Stream(os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY), path, own=True)
    except OSError as error:
        raise file_error(error, "can't be written", path) from error


class _Writing:
    """Writes all of it to a descriptor."""

    def __init__(self, fd: int, name: str, own: bool) -> None:
        self._fd, self.name, self._own = fd, name, own

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                poll = select.poll()  # somebody made our standard output non-blocking
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except BrokenPipeError:
                raise StandardOutputClosed from None
            except OSError as error:
                raise file_error(error, "can't be written", self.name) from error

    def _close(self) -> None:
        if self._own:
            self._own = False
            os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._close()


class Stream(_Writing):
    """Standard output or a device: what is written is out."""

    @property
    def is_data_stream(self) -> bool:
        """Whether this is standard output."""
        return self._fd == 1

    def commit(self) -> None:
        """Close what was opened, for some devices report errors only then."""
        try:
            self._close()
        except OSError as error:
            raise file_error(error, "can't be written", self.name) from error


class WholeFile(_Writing):
    """A file that nobody sees before `commit`."""

    def __init__(self, path: str, mode: int | None) -> None:
        """Begin a file for ``path``; ``mode`` is that of the file which it replaces, None if there is none."""
        self._directory, self._base = os.path.split(path)
        self._directory = self._directory or "."
        self._spare: str | None = None  # the name of a file that has one
        try:
            super().__init__(self._begin(), path, own=True)
            if mode is not None:
                os.fchmod(self._fd, mode)
        except OSError as error:
            raise file_error(error, "can't be written", path) from error

    @property
    def is_data_stream(self) -> bool:
        """A file is not standard output."""
        return False

    def _begin(self) -> int:
        # 0666 and the umask, as every program that writes a file for its user.
        try:
            return os.open(self._directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        spare = self._new_spare()
        fd = os.open(
            spare, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
        )
        self._spare = spare
        return fd

    def _new_spare(self) -> str:
        return os.path.join(self._directory, f".kin-{secrets.token_hex(8)}")

    def commit(self) -> None:
        """Make it durable, then give it its name in one step."""
        try:
            os.fsync(self._fd)
            if self._spare is None:
                self._link()
            if self._spare is not None:
                os.rename(self._spare, self.name)
                self._spare = None
            self._close()
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise file_error(error, "can't be written", self.name) from error

    def _link(self) -> None:
        """Give the nameless file its name, or a spare one when the name is taken: linkat(2) replaces nothing."""
        try:
            self._link_as(self.name)
        except FileExistsError:
            spare = self._new_spare()
            self._spare = spare  # before it is there: an exception in between removes it, if it is
            self._link_as(spare)

    def _link_as(self, name: str) -> None:
        # With a directory given, Python calls linkat(2) and says AT_SYMLINK_FOLLOW; without, link(2),
        # which does not follow. The path is absolute: the directory itself plays no part.
        os.link(f"/proc/self/fd/{self._fd}", name, src_dir_fd=self._fd, follow_symlinks=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._spare is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._spare)
        super().__exit__(kind, error, trace)
