"""A program is started as a daemon: what the command `kin daemon` does.

The original returns once the daemon is ready; the daemon locks its pid file and executes the program, which keeps the lock
(record locks stay through execve(2)). How the program says that it is ready: `kinfolk.processes.daemon_signs`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Literal, NoReturn

from kinfolk.deadlines import Deadline, deadline
from kinfolk.errors import InvalidValue, from_os_error
from kinfolk.identity import Identity
from kinfolk.processes import daemon_shape
from kinfolk.processes.absolute_path import absolute
from kinfolk.processes.daemon_birth import Newborn, refuse_threads, reset_signals, start
from kinfolk.processes.daemon_guard import NO_LOG
from kinfolk.processes.daemon_shape import Shape
from kinfolk.processes.daemon_signs import (
    Alive,
    Newline,
    Notification,
    ProgramsSign,
    move_above,
)
from kinfolk.processes.execute import execute
from kinfolk.processes.pid_file import PidFile
from kinfolk.processes.program import Word, encode_environment, encode_words

Path = str | os.PathLike[str]


def start_daemon(
    command: Sequence[Word],
    *,
    chdir: Path | None = "/",
    pidfile: Path | None = None,
    umask: int | None = 0o027,
    log: Path | None = None,
    env: Mapping[str, str] | Mapping[bytes, bytes] | None = None,
    name: str | None = None,
    ready: int | Literal["alive", "notify"] = "alive",
    settle: float = 0.1,
    timeout: float | None = 60.0,
) -> Identity:
    """Start a program as a daemon, and return who it is once it is ready. The command `kin daemon` does this.

    ``command`` is the program, looked up in PATH, and its arguments. It is ready when it has lived for ``settle``
    seconds (``ready="alive"``), when it has written a newline to descriptor ``ready``, or when it has sent
    READY=1 to $NOTIFY_SOCKET (``ready="notify"``, sd_notify(3)). The other options are those of `daemonize`; ``env`` None is
    our environment. The lock of the pid file stays with the program as long as that does not close the descriptor. Nothing
    removes the file when it ends, unless it failed to start; the next start replaces it.

    Raises NotFound or AccessDenied for a program that can't be executed, SystemProblem when it ended before it was
    ready (and says how), Timeout when it was not ready in time (it is ended), and what `daemonize` raises. Forks, so
    it must be called before other threads start; an exception of a signal handler calls the start off.
    """
    refuse_threads("call it before they start, or run the command: kin daemon -- CMD")
    limit = deadline(timeout)
    argv = encode_words(command)
    lines = encode_environment(os.environb if env is None else env)
    program = os.fsencode(absolute(os.fsdecode(argv[0]))) if b"/" in argv[0] else argv[0]
    pid_file = None if pidfile is None else PidFile(pidfile)
    if pid_file is not None:
        pid_file.refuse_if_held()
    sign = _sign(ready, settle)
    if log is None:
        sign.look = NO_LOG
    with contextlib.closing(sign):
        directory = False if chdir is None else chdir
        shape = daemon_shape.checked(directory, umask, True, log, name or os.fsdecode(argv[0]))
        try:
            side = start(sign, limit)
            if isinstance(side, Newborn):
                variables = dict(line.split(b"=", 1) for line in lines)
                _become(program, argv, variables, side, shape, sign, pid_file)
        finally:
            shape.close_log()
    if side.failure is not None:
        if pid_file is not None:
            side.remove_left(pid_file)
        error = side.failure.error()
        error.subject = error.subject or shape.name
        raise error
    assert side.daemon is not None  # what is ready has begun
    return side.daemon


def _become(
    program: bytes,
    argv: list[bytes],
    env: dict[bytes, bytes],
    side: Newborn,
    shape: Shape,
    sign: ProgramsSign,
    pid_file: PidFile | None,
) -> NoReturn:
    """In the daemon: be the program."""
    try:
        shape.settle()
        kept = []
        if sign.number is not None:
            side.line = move_above(side.line, sign.number)
            kept.append(sign.number)
        sign.give(env)
        if pid_file is not None:
            pid_file.lock()  # under a number that is free, so not that of the sign
            kept.append(pid_file.fileno())
        reset_signals()
        execute(program, argv, env, pass_fds=kept)
    except BaseException as error:
        if pid_file is not None:
            pid_file.release()
        side.die(error)


def _sign(ready: int | str, settle: float) -> ProgramsSign:
    try:
        if ready == "alive":
            return Alive(Deadline(settle, "settle").timeout or 0.0)
        if ready == "notify":
            return Notification()
        if isinstance(ready, int):
            return Newline(ready)
    except OSError as error:
        raise from_os_error(error, "there is no way to say that it is ready") from error
    raise InvalidValue(
        f"ready={ready!r} makes no sense", remedy='give "alive", "notify" or a number'
    )
