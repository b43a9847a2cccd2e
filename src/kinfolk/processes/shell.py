"""Commands: run one and learn how it ended (system(3)), or read from it, write to it, as from a file (popen(3)).

    "a | b"       /bin/sh runs it; what goes into the text is the shell's to interpret
    ["a", "b"]    the program itself, found on PATH; no shell, and nothing is interpreted

While `system` waits, as system(3) has it:

                      here                                     in the command
    SIGINT, SIGQUIT   ignored, in every thread                 as here before: Ctrl-C is for the command
    SIGCHLD           blocked in the calling thread, so that a handler of the program's own can't collect the status
    all others        unchanged                                default, or ignored as here; nothing is blocked

Rules:
1. A program that can't be started raises; a shell that can't find one exits with 127.
2. The command ends with this process (containment "direct"), and what it would inherit beside its standard streams is closed.
3. What was printed here is written out first.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
from collections.abc import Sequence
from typing import Any, Literal, overload

from kinfolk.descriptors import Descriptor
from kinfolk.errors import InvalidValue, from_os_error
from kinfolk.processes import standard_streams
from kinfolk.processes.direct import Direct
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.handover import Handover
from kinfolk.processes.ignored_signals import InterruptsIgnored
from kinfolk.processes.kernel_actions import masked, undisturbed
from kinfolk.processes.options import Options, prepared
from kinfolk.processes.process import Process
from kinfolk.processes.program import Word, encode

#: A text for the shell, or a program and its arguments.
Command = str | bytes | Sequence[Word]


def system(command: Command) -> ExitStatus:
    """Run a command and wait for its end; how it ended.

    As system(3). Callable from any thread, also by several at a time. When a handler of another signal raises meanwhile, the command and
    everything below it are killed. Raises NotFound, AccessDenied, LimitReached, … for a program that can't be
    started, InvalidValue.
    """
    standard_streams.flush()
    with InterruptsIgnored(), masked(signal.SIG_BLOCK, {signal.SIGCHLD}):
        process: Process | None = None
        try:
            with undisturbed():
                process = _start(command, Options())
            return process.wait()
        except BaseException:
            if process is not None:
                process.kill()
                process.wait()
            raise


@overload
def popen(
    command: Command,
    mode: Literal["r", "w"] = "r",
    *,
    encoding: str | None = None,
    errors: str | None = None,
) -> CommandText: ...
@overload
def popen(command: Command, mode: Literal["rb"]) -> CommandReader: ...
@overload
def popen(command: Command, mode: Literal["wb"]) -> CommandWriter: ...
def popen(
    command: Command,
    mode: Literal["r", "w", "rb", "wb"] = "r",
    *,
    encoding: str | None = None,
    errors: str | None = None,
) -> CommandText | CommandReader | CommandWriter:
    """Start a command and return a file: what it writes to its standard output (``"r"``), or reads from its standard input (``"w"``).

    ``"rb"`` and ``"wb"`` take bytes; text has ``encoding`` and ``errors`` as in `open`. Its ``close()`` waits for the end of the
    command and gives its `ExitStatus`; as a context manager it closes. ``process`` is the `Process`. No other child
    inherits the file. Raises what `system` raises, and LimitReached when no descriptor is left.
    """
    if mode not in ("r", "w", "rb", "wb"):
        raise InvalidValue(f"mode={mode!r} makes no sense", remedy='give "r", "w", "rb" or "wb"')
    encoding = io.text_encoding(encoding)
    _check_text(mode, encoding, errors)
    standard_streams.flush()
    file: CommandText | CommandReader | CommandWriter | None = None
    try:
        with undisturbed():
            file = _opened(command, mode, encoding, errors)
    except BaseException:
        if file is not None:  # a handler that had to wait has raised
            file.process.kill()
            file.close()
        raise
    return file


def _opened(
    command: Command, mode: str, encoding: str, errors: str | None
) -> CommandText | CommandReader | CommandWriter:
    try:
        reading, writing = Descriptor.pipe("a pipe to a command")
    except OSError as error:
        raise from_os_error(error, "no pipe to a command can be made") from error
    reads = mode[0] == "r"
    ours, theirs = (reading, writing) if reads else (writing, reading)
    try:
        number = theirs.fileno()
        process = _start(command, Options(stdout=number) if reads else Options(stdin=number))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    raw = _Pipe(ours.detach(), mode[0], process.name)
    if mode == "rb":
        return CommandReader(raw, process)
    if mode == "wb":
        return CommandWriter(raw, process)
    return CommandText(raw, process, mode, encoding, errors)


class _Pipe(io.FileIO):
    """Our end of the pipe."""

    def __init__(self, fd: int, mode: str, name: str) -> None:
        super().__init__(fd, mode)
        self.name = name

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError as error:
            what, remedy = "the command reads no more", "close this file: its status says why"
            raise from_os_error(error, what, str(self.name), remedy) from error


class _CommandFile(io.IOBase):
    """What all files of `popen` have: a command at the other end. Thread-safe where the file of that kind is."""

    #: the command
    process: Process

    def close(self) -> ExitStatus:  # type: ignore[override]
        """Close the file, then wait for the end of the command; how it ended. Again, the same. pclose(3).

        One that still writes gets SIGPIPE. What was left for one that reads no more is dropped, as its status tells
        how far it got; `flush` first to hear of it.
        """
        with contextlib.suppress(BrokenPipeError):
            super().close()
        return self.process.wait()

    def __exit__(self, *exception: object) -> None:
        self.close()  # whose value must not be returned: it would swallow the exception

    def __del__(self) -> None:
        if hasattr(self, "process") and not self.closed:
            with contextlib.suppress(OSError):
                super().close()  # and no wait: the process warns, and is reaped at its end


class CommandText(_CommandFile, io.TextIOWrapper):  # type: ignore[misc] # close gives a status
    """What a command writes or reads, as text."""

    def __init__(
        self, raw: _Pipe, process: Process, mode: str, encoding: str, errors: str | None
    ) -> None:
        buffer = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        super().__init__(buffer, encoding, errors)
        self.mode = mode  # type: ignore[misc] # as open() does
        self.process = process


class CommandReader(_CommandFile, io.BufferedReader):  # type: ignore[misc]
    """What a command writes, as bytes."""

    def __init__(self, raw: _Pipe, process: Process) -> None:
        super().__init__(raw)
        self.process = process


class CommandWriter(_CommandFile, io.BufferedWriter):  # type: ignore[misc]
    """What a command reads, as bytes."""

    def __init__(self, raw: _Pipe, process: Process) -> None:
        super().__init__(raw)
        self.process = process


def _check_text(mode: str, encoding: str, errors: str | None) -> None:
    if mode[1:] and (encoding != io.text_encoding(None) or errors is not None):
        raise InvalidValue(
            f"mode={mode!r} has no encoding and no errors",
            why="it moves bytes",
            remedy=f'leave them out, or give mode="{mode[0]}"',
        )
    try:
        codecs.lookup(encoding if encoding != "locale" else "utf-8")
        codecs.lookup_error(errors or "strict")
    except (LookupError, TypeError, ValueError) as error:
        raise InvalidValue(
            f"encoding={encoding!r}, errors={errors!r} make no sense",
            why=str(error),
            remedy='give names that Python knows, such as "utf-8" and "replace"',
        ) from error


def _start(command: Command, options: Options) -> Process:
    if isinstance(command, str | bytes):
        argv: Sequence[Word] = ["/bin/sh", "-c", "--", encode(command, "the command")]
        name = os.fsdecode(command)
    else:
        argv, name = command, ""
    launch, streams = prepared(argv, options, "direct")
    handover = Handover()
    try:
        custody = Direct(launch, handover=handover)
        process = Process(custody, name or os.fsdecode(b" ".join(launch.argv)))
        streams.started()
        return handover.taken(process)
    except BaseException:
        handover.give_up()
        streams.failed()
        raise
