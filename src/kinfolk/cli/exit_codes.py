"""Exit codes: one table for every command. docs/reference/exit-codes.md shows it and argues for it.

A command that is ended by a signal dies of that signal, which a shell shows as 128 + its number: see
`kinfolk.cli.signals`.
"""

from __future__ import annotations

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


#: What each means, as the page says it.
MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "It was done.",
    ExitCode.FAILED: "It failed for a reason that has no number of its own: a full disk, a limit, an error of the kernel.",
    ExitCode.USAGE: "The command line or an address can't work as it was written.",
    ExitCode.GONE: "The other side has gone: nobody receives any more, or no answer came.",
    ExitCode.CORRUPT: "What arrived is not whole, or not what was sent: the checksum says so, or no end came.",
    ExitCode.DENIED: "The kernel, or the rule about foreign users, says no.",
    ExitCode.BUSY: "Another process has what only one can have.",
    ExitCode.MISSING: "There is no such file or name.",
    ExitCode.BUG: "An error that nobody foresaw: please report it.",
    ExitCode.TIMEOUT: "Nothing moved for --timeout seconds.",
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
