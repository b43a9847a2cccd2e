"""Why execve(2) refused a program: its errno says little, so the file itself is looked at.

ENOENT   not there at all · the interpreter of its #! line · the dynamic loader of a binary
EACCES   a directory · not executable · on a file system mounted noexec · a directory on the way
ENOEXEC  no #! line · a binary of another machine · empty
E2BIG    which size met which limit
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Sequence

from kinfolk.errors import KinfolkError, LimitReached, from_os_error
from kinfolk.process_limit import refused

#: After these, and after EACCES, execvp(3) looks further.
PASSED_OVER = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ETIMEDOUT)

#: What the kernel reads of a file to find out how to execute it (BINPRM_BUF_SIZE).
_HEAD = 256

#: Arguments and environment together never get less, nor more, than this (execve(2)).
_LEAST, _MOST = 128 * 1024, 6 * 1024 * 1024


def explain(
    files: Sequence[bytes],
    item: int,
    argv: Sequence[bytes],
    env: Sequence[bytes] | None,
    code: int,
    directory: bytes = b"",
) -> KinfolkError:
    """The error for an execve(2) that gave ``code`` for ``files[item]``, the others having been tried as well.

    ``env`` None is the environment of this process. ``directory`` is where relative names begin, if that is not the
    working directory.
    """
    if len(files) > 1 and code in (errno.EACCES, *PASSED_OVER):
        # EACCES also comes of a directory of PATH that this user may not search, ENOTDIR of a file among them.
        there = [
            n for n, file in enumerate(files) if os.path.lexists(os.path.join(directory, file))
        ]
        if not there:
            name = os.fsdecode(os.path.basename(files[item]))
            remedy = "install it, add its directory to PATH, or give its path"
            return _error(errno.ENOENT, "no directory of PATH has this program", name, remedy)
        if item not in there:
            item = there[0]
            found = os.path.join(directory, files[item])
            code = errno.ENOENT if os.access(found, os.X_OK) else errno.EACCES
    file = files[item]
    subject = os.fsdecode(file)
    match code:
        case errno.E2BIG:
            ours = [b"%s=%s" % each for each in os.environb.items()]
            what, why, remedy = _too_big(argv, ours if env is None else env)
            # Not from_os_error: "Argument list too long" is said better here.
            return LimitReached(what, subject=subject, why=why, remedy=remedy, code=code)
        case errno.ENOENT:
            what, remedy = _missing(os.path.join(directory, file))
        case errno.EACCES:
            what, remedy = _denied(os.path.join(directory, file))
        case errno.ENOEXEC:
            what, remedy = _no_program(os.path.join(directory, file))
        case errno.ETXTBSY:
            what, remedy = "somebody writes to this program", "try again once it is written"
        case errno.EAGAIN:  # setuid(2) does not fail of it; execve(2) does
            return refused(code, "its user can't have this program", subject)
        case errno.ENOMEM:
            what, remedy = "there is no memory for it", "free memory"
        case _:
            what, remedy = "this program can't be executed", ""
    return _error(code, what, subject, remedy)


def _error(code: int, what: str, subject: str, remedy: str) -> KinfolkError:
    return from_os_error(OSError(code, os.strerror(code)), what, subject, remedy)


def _missing(file: bytes) -> tuple[str, str]:
    head = _head(file)
    if not os.path.lexists(file):
        return "there is no such program", "see how it is spelt"
    if (interpreter := _interpreter(head)) is not None:
        if interpreter.endswith("\r"):
            return (
                f"its first line ends in CR LF, and so names the interpreter {interpreter!r}",
                "end its lines in LF: dos2unix",
            )
        return (
            f"its interpreter {interpreter} is not there",
            "correct its first line, or install it",
        )
    if head.startswith(b"\x7fELF"):
        return "the dynamic loader that it names is not there", "install it: file(1) says which"
    return "it leads nowhere", "see where the symbolic link points"


def _denied(file: bytes) -> tuple[str, str]:
    try:
        mode = os.stat(file).st_mode
    except OSError:
        return "it can't be reached", "see the rights of the directories on the way: namei -l"
    if stat.S_ISDIR(mode):
        return "it is a directory", "name a program in it"
    if not stat.S_ISREG(mode):
        return "it is no regular file", "name a program"
    if not os.access(file, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        return "it is not executable by this user", "chmod +x it, or start it by its interpreter"
    if os.statvfs(file).f_flag & os.ST_NOEXEC:
        return "its file system is mounted noexec", "copy it elsewhere, or remount that with exec"
    return (
        "it, or its interpreter, may not be executed",
        "see the rights of both, and of security modules",
    )


def _no_program(file: bytes) -> tuple[str, str]:
    head = _head(file)
    if head.startswith(b"\x7fELF"):
        return "it is a binary for another machine, or broken", "get one for this machine: uname -m"
    if not head:
        return "it is empty, or can't be read", "see that it was written whole"
    return (
        "it is no binary, and has no #! line that names its interpreter",
        "begin it with a line such as #!/bin/sh, or start it by its interpreter",
    )


def _too_big(argv: Sequence[bytes], env: Sequence[bytes]) -> tuple[str, str, str]:
    remedy = "pass data through a pipe or a file"
    longest = 32 * resource.getpagesize()  # MAX_ARG_STRLEN, with the zero at its end
    for what, words in (("argument", argv), ("variable", env)):
        for number, word in enumerate(words):
            if len(word) >= longest:
                name = os.fsdecode(word.partition(b"=")[0]) if words is env else str(number)
                why = f"{len(word):,} bytes, and {longest - 1:,} is the limit for one"
                return f"{what} {name} is too long", why, remedy
    pointer = 8
    size = [sum(len(word) + 1 + pointer for word in words) for words in (argv, env)]
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    limit = _MOST if soft == resource.RLIM_INFINITY else min(max(soft // 4, _LEAST), _MOST)
    return (
        "arguments and environment are too big",
        f"{size[0]:,} and {size[1]:,} bytes, and {limit:,} is the limit for both",
        f"{remedy}, or raise the limit, a quarter of ulimit -s, at most {_MOST:,}",
    )


def _head(file: bytes) -> bytes:
    """The beginning of a regular file, as far as it may be read."""
    try:
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(number, _HEAD) if stat.S_ISREG(os.fstat(number).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(number)


def _interpreter(head: bytes) -> str | None:
    """What a #! line names; as the kernel reads it, only a space, a tab or the line's end ends it."""
    if not head.startswith(b"#!"):
        return None
    words = head[2:].partition(b"\n")[0].strip(b" \t").replace(b"\t", b" ").split(b" ")
    return os.fsdecode(words[0])
