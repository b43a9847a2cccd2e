"""What is sent: a file or standard input, as blocks of bytes or as lines of JSON.

Rules:
1. The file is opened before the channel: a missing one lets no receiver through to an empty transfer.
2. Where boundaries arrive, they must not depend on how fast somebody typed or wrote: blocks are filled, except
   from a terminal, where a line is a block. Elsewhere what is there goes out at once.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import kinfolk as kin
from kinfolk.cli.failures import STDIN, file_error, refuse_empty


class Source:
    """A file to read from; a context manager."""

    def __init__(self, path: str | None) -> None:
        """Open ``path``; None or ``-`` is standard input. Raises UsageError, NotFound, AccessDenied, KernelError."""
        refuse_empty(path)
        self.name = STDIN if path in (None, "-") else str(path)
        self._own = self.name is not STDIN
        self._fd = 0
        try:
            if self._own:
                self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
            status = os.fstat(self._fd)
        except OSError as error:
            raise file_error(error, "can't be read", self.name) from error
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise kin.KernelError(
                "can't be read", subject=self.name, why="it is a directory", remedy="name a file"
            )
        self.is_terminal = os.isatty(self._fd)
        #: bytes that are to come; None when nobody knows
        self.size = self._size(status)

    def _size(self, status: os.stat_result) -> int | None:
        # Files under /proc claim to be empty.
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            return None
        return max(0, status.st_size - os.lseek(self._fd, 0, os.SEEK_CUR))

    def blocks(self, size: int, *, filled: bool) -> Iterator[memoryview]:
        """Blocks of at most ``size`` bytes. A block is valid until the next one is asked for."""
        room = memoryview(bytearray(size))
        filled = filled and not self.is_terminal
        while True:
            count = self._read_into(room)
            while filled and 0 < count < size:
                more = self._read_into(room[count:])
                if not more:
                    break
                count += more
            if not count:
                return
            yield room[:count]

    def objects(self) -> Iterator[Any]:
        """The objects of a text with one JSON text a line. Raises CodecError, naming the line."""
        import json

        with open(self._fd, "rb", closefd=False) as lines:
            for number, line in enumerate(self._each(lines), 1):
                if not line.strip():
                    continue
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise kin.CodecError(
                        f"line {number} is no JSON text",
                        subject=self.name,
                        why=str(error),
                        remedy="write one JSON text a line, or send bytes with --codec raw",
                    ) from None

    def _each(self, lines: Any) -> Iterator[bytes]:
        try:
            yield from lines
        except OSError as error:
            raise file_error(error, "can't be read", self.name) from error

    def _read_into(self, room: memoryview) -> int:
        while True:
            try:
                return os.readv(self._fd, [room])
            except BlockingIOError:
                _wait_until_readable(self._fd)  # somebody made our standard input non-blocking
            except OSError as error:
                raise file_error(error, "can't be read", self.name) from error

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._own:
            self._own = False
            with contextlib.suppress(OSError):
                os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _wait_until_readable(fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()
