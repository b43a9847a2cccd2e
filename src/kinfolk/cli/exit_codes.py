"""Exit codes: one table for every command. docs/reference/exit-codes.md shows it and argues for it.

A command that is ended by a signal dies of that signal, which a shell shows as 128 + its number: see
`kinfolk.cli.signals`.
"""

from __future__ import annotations

import errno
from enum import IntEnum

import kinfolk as kin


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    GONE = 3
    CORRUPT = 4
    DENIED = 5
    BUSY = 6
    MISSING = 7
    BUG = 70
    TIMEOUT = 124
    NOT_RUN = 125
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127


#: What each means, as the page says it.
MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "It was done.",
    ExitCode.FAILED: "It failed for a reason that has no number of its own: a full disk, a limit, an error of the kernel.",
    ExitCode.USAGE: "The command line or an address can't work as it was written.",
    ExitCode.GONE: "The other side has gone: nobody receives any more, or no answer came.",
    ExitCode.CORRUPT: "What arrived is not whole, or not what was sent: the checksum says so, or no end came.",
    ExitCode.DENIED: "The kernel, or the rule about foreign users, says no.",
    ExitCode.BUSY: "Another process has what only one can have.",
    ExitCode.MISSING: "There is no such file, name or process.",
    ExitCode.BUG: "An error that nobody foresaw: please report it.",
    ExitCode.TIMEOUT: "Nothing moved for --timeout seconds; `kin run`: the command took longer.",
    ExitCode.NOT_RUN: "`kin run` itself failed, whatever the reason, or nobody knows how the command ended.",
    ExitCode.NOT_EXECUTABLE: "`kin run`: the command is there, and can't be executed.",
    ExitCode.NOT_FOUND: "`kin run`: there is no such command.",
}

# The first class that fits decides.
_BY_ERROR: tuple[tuple[type[kin.KinfolkError], ExitCode], ...] = (
    (kin.UsageError, ExitCode.USAGE),
    (kin.EndOfChannel, ExitCode.GONE),
    (kin.BrokenChannel, ExitCode.GONE),
    (kin.CorruptChannel, ExitCode.CORRUPT),
    (kin.DecodeError, ExitCode.CORRUPT),
    (kin.UntrustedPeer, ExitCode.DENIED),
    (kin.AccessDenied, ExitCode.DENIED),
    (kin.Busy, ExitCode.BUSY),
    (kin.NotFound, ExitCode.MISSING),
    (kin.Timeout, ExitCode.TIMEOUT),
    (kin.KinfolkError, ExitCode.FAILED),
)


def code_of(error: kin.KinfolkError) -> ExitCode:
    """The exit code for an error of kinfolk."""
    return next(code for kind, code in _BY_ERROR if isinstance(error, kind))


def code_of_wrapper(error: kin.KinfolkError) -> ExitCode:
    """The exit code of a command that ends with another program's code: it has to be told from that one's own.

    As of env(1), nohup(1) and timeout(1).
    """
    if isinstance(error, kin.NotFound):
        return ExitCode.NOT_FOUND
    too_big = getattr(error, "errno", None) == errno.E2BIG
    if too_big or isinstance(error, kin.AccessDenied | kin.KernelError):
        return ExitCode.NOT_EXECUTABLE
    return ExitCode.NOT_RUN
