"""Errors as lines for people: ``kin send: fifo:/x: what: why (remedy)``.

Rules:
1. One error is one line, whatever a file name, an address or a peer put into it: control characters are shown as
   escapes, so that none reaches the terminal.
2. What goes wrong with a file of the user's is an error of kinfolk too, so that one table gives the exit codes.
"""

from __future__ import annotations

import errno
import os
import sys

import kinfolk as kin

STDIN, STDOUT = "standard input", "standard output"

_BY_ERRNO: dict[int, type[kin.SystemProblem] | type[kin.UntrustedPeer]] = {
    errno.ENOENT: kin.NotFound,
    errno.EACCES: kin.AccessDenied,
    errno.EPERM: kin.AccessDenied,
    errno.EROFS: kin.AccessDenied,
    errno.ENOSPC: kin.NoSpace,
    errno.EDQUOT: kin.NoSpace,
    errno.EMFILE: kin.LimitReached,
    errno.ENFILE: kin.LimitReached,
}


def file_error(error: OSError, what: str, path: str) -> kin.KinfolkError:
    """The error of kinfolk for an OSError on a file that the user named: ``what`` could not be done to it."""
    kind = _BY_ERRNO.get(error.errno or 0, kin.KernelError)
    why = os.strerror(error.errno) if error.errno else str(error)
    return kind(what, subject=path, why=why, code=error.errno)


def refuse_empty(path: str | None) -> None:
    """Raise UsageError for a FILE of no characters: an unset variable, which must not cost a transfer."""
    if path == "":
        raise kin.UsageError(
            "FILE is empty",
            why="it is no name",
            remedy="name a file, or give - for standard streams",
        )


def complain(program: str, text: str) -> None:
    """Write one line to standard error, in one piece; nobody may be there to read it."""
    say(f"{program}: {text}")


def say(text: str) -> None:
    """Write a line to standard error, escaped by rule 1 and in one piece."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.flush()
        os.write(2, f"{printable(text)}\n".encode(errors="backslashreplace"))
    except OSError:
        return


def printable(text: str) -> str:
    """The text on one line, without characters that a terminal would obey."""
    return "".join(
        _escaped(c) if (not c.isprintable() and not c.isspace()) or c in _BREAKS else c
        for c in text
    )


_BREAKS = "\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is no UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def say_all(text: str) -> None:
    """Write several lines, such as a help, to standard error."""
    for line in text.splitlines():
        say(line)
