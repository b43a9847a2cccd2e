"""Another program in this process: execve(2). The pid stays, everything else of this program is gone.

What the new program finds:

    descriptors     0, 1, 2 and what is in ``pass_fds``; not what was inherited otherwise (a shell's ``9<file``)
    signal actions  what Python ignores for itself (SIGPIPE, SIGXFSZ) is default again; what was ignored otherwise stays so
                    (nohup); what was handled is default, by execve(2)
    signal mask     empty
    the rest        unchanged: pid, parent, session, directory, umask, limits, user; children stay children

Rules:
1. It never returns: either the other program runs, or an error says why not, and everything is as before.
2. What was printed is written out first. Exit handlers, ``finally`` and other threads do not run any more.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from kinfolk.errors import InvalidValue, from_os_error
from kinfolk.processes import ignored_signals, kernel_actions, standard_streams
from kinfolk.processes.not_executed import PASSED_OVER, explain
from kinfolk.processes.program import (
    USUAL_PATH,
    Word,
    candidates,
    encode,
    encode_environment,
    encode_words,
)
from kinfolk.processes.streams import HasDescriptor


def execute(
    path: Word,
    argv: Sequence[Word] | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    *,
    pass_fds: Iterable[int | HasDescriptor] = (),
) -> NoReturn:
    """Replace the program of this process by the one at ``path``, which is searched for on PATH when it has no slash.

    As execve(2) and execvpe(3). ``argv`` begins with the name that the program is called by; without it there is only that name. ``env`` is its
    whole environment; None keeps this one. ``pass_fds`` stay open there, under the same numbers; nothing else does but 0, 1 and 2. Standard output
    and error are flushed first; exit handlers do not run; all other threads end. Callable from any thread.

    Raises NotFound, AccessDenied, KernelError (ENOEXEC: it has no #! line), LimitReached (E2BIG, or no descriptor is left), InvalidValue, and, when what
    was printed can't be written, NoSpace, BrokenChannel, … In each case nothing has changed, and the program goes on.
    """
    words = encode_words([path] if argv is None else argv)
    lines = encode_environment(os.environb if env is None else env)
    variables = dict(line.split(b"=", 1) for line in lines)
    files = candidates(encode(path, "the program"), variables.get(b"PATH", USUAL_PATH))
    numbers = [_number_of(each) for each in pass_fds]
    standard_streams.flush()
    with contextlib.ExitStack() as undo:
        for number in {*numbers, *_inherited()}:
            undo.enter_context(_inheritable(number, number in numbers))
        undo.enter_context(_default_actions())
        undo.enter_context(kernel_actions.masked(signal.SIG_SETMASK, ()))
        item, code = _execute(files, words, variables)
    raise explain(files, item, words, lines, code)


def _execute(files: Sequence[bytes], argv: list[bytes], env: dict[bytes, bytes]) -> tuple[int, int]:
    """Try the files as execvp(3) would; which one decides, and its errno."""
    denied: tuple[int, int] | None = None
    item, code = 0, 0
    for item, file in enumerate(files):
        try:
            os.execve(file, argv, env)
        except OSError as error:
            code = error.errno or 0
            if code == errno.EACCES:
                denied = denied or (item, code)
            elif code not in PASSED_OVER:
                return item, code
    return denied or (item, code)


def _number_of(thing: int | HasDescriptor) -> int:
    try:
        number = thing if isinstance(thing, int) else thing.fileno()
        os.get_inheritable(number)
    except (OSError, OverflowError, AttributeError, ValueError) as error:
        raise InvalidValue(
            f"{thing!r} can't be passed",
            why="it is no open descriptor",
            remedy="pass numbers of open descriptors, or objects with a fileno()",
        ) from error
    return number


def _inherited() -> list[int]:
    """What would pass to another program, beside the standard streams. What other threads open in Python meanwhile would not."""
    try:
        there = map(int, os.listdir("/proc/self/fd"))
    except OSError as error:
        raise from_os_error(error, "can't see which descriptors are open") from error
    found = []
    for number in there:
        if number > 2:
            with contextlib.suppress(OSError, OverflowError):  # the directory's own, closed by now
                if not fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                    found.append(number)
    return found


@contextlib.contextmanager
def _inheritable(number: int, wanted: bool) -> Iterator[None]:
    try:
        before = os.get_inheritable(number)
        os.set_inheritable(number, wanted)
    except OSError:  # another thread has closed it
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.set_inheritable(number, before)


@contextlib.contextmanager
def _default_actions() -> Iterator[None]:
    """Inside, signals that Python ignores for itself have their default."""
    with contextlib.ExitStack() as undo:
        for number in ignored_signals.BY_PYTHON:
            if kernel_actions.is_ignored(number):
                undo.callback(kernel_actions.put_back, number, kernel_actions.action(number))
                kernel_actions.to_default(number)
        yield
