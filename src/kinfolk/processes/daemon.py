"""This process becomes a daemon.

    with kin.daemonize(until_ready=True, pidfile="/run/app.pid", log="journal") as daemon:
        …                           # an exception here: the original says it, and exits with 1
        daemon.ready()              # the original exits with 0
        …

Rules:
1. What can be refused is refused before there is a daemon, by an exception in the caller: arguments, the log, a pid file
   that a daemon has locked, other threads.
2. From then on the original never returns. Its exit code is the story: 0 when the daemon is ready, else why it is not, in a line.
3. The pid file is locked by the daemon itself, after everything was closed that is to be closed: closing any descriptor of
   it would end the lock.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import NoReturn, Self

from kinfolk.deadlines import deadline
from kinfolk.errors import BrokenChannel, KinfolkError
from kinfolk.processes import daemon_shape, exit_handlers
from kinfolk.processes.daemon_birth import Newborn, Outcome, refuse_threads, start
from kinfolk.processes.daemon_guard import NO_LOG, Sign
from kinfolk.processes.daemon_line import Failed, Ready
from kinfolk.processes.daemon_shape import HasFileno
from kinfolk.processes.pid_file import PidFile

Path = str | os.PathLike[str]

_ANOTHER_WAY = "start it as a program of its own: kin daemon -- CMD, or kin.spawn(…, detach=True)"


class _OwnWord(Sign):
    """It says so itself, on its line to the guard."""

    remedy = "say that it is ready with ready(), or give it more time: timeout="


class Daemon:
    """This process, which is a daemon. Made by `daemonize`. As a context manager it ends with its block.

    A block that is left before `ready` by an exception, or by its end, is a start that failed: the original says so.
    """

    def __init__(self, newborn: Newborn, pid_file: PidFile | None) -> None:
        """Made by `daemonize`."""
        self._newborn, self._pid_file, self._pid = newborn, pid_file, os.getpid()

    @property
    def pid_file(self) -> PidFile | None:
        """Its pid file, locked; None when it has none."""
        return self._pid_file

    def ready(self) -> None:
        """Let the original exit with 0: this daemon does its work from now on. Once told, this does nothing.

        Raises BrokenChannel when nobody waits any more, because the start was called off: then end.
        """
        if not self._newborn.told and not self._newborn.tell(Ready()):
            raise BrokenChannel(
                "nobody waits for this daemon",
                why="its start was called off: the processes that started it were killed",
                remedy="end, and start it again",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pid != os.getpid():
            return  # a forked copy of the block
        if self._pid_file is not None:
            self._pid_file.release()
        if not self._newborn.told:
            self._newborn.tell(_failure(error))


def daemonize(
    *,
    chdir: bool | Path = True,
    close: bool = True,
    pidfile: Path | None = None,
    umask: int | None = 0o027,
    log: Path | None = None,
    keep: Iterable[int | HasFileno] = (),
    name: str | None = None,
    until_ready: bool = False,
    timeout: float | None = 60.0,
) -> Daemon:
    """Make this process a daemon. Returns in the daemon alone; the original exits. daemon(3), daemon(7).

    ``chdir`` goes to /, or to the directory given. ``close`` leads standard streams to /dev/null, or output and error
    to ``log``: a file, or "journal", where lines stand under ``name``; without it they stay. All other descriptors
    are closed, so flush what is open, but for those of the logging module and what ``keep`` names. ``pidfile`` is locked as long as the daemon lives, and removed at
    its end. ``umask`` None leaves it. Signals that were ignored have their default action again; handlers stay.

    The original waits for the daemon and exits with 0 when it is ready: when this returns there, or with
    ``until_ready`` when the daemon says so:

        with kin.daemonize(until_ready=True, pidfile="/run/app.pid") as daemon:
            listener = kin.listen("unix:/run/app.sock")
            daemon.ready()

    Else it says why in one line, and exits with 124 after ``timeout`` seconds (the daemon is ended), with the status of a
    daemon that has ended before (128 + signal), with 1 after an exception. A daemon that fails has 5 seconds for its clean-up, then
    SIGTERM, and 5 seconds later SIGKILL. The original runs no exit handlers: they are the
    daemon's, like all that is in memory. Processes that it has spawned end with it, unless they are detached.

    Raises, with no daemon there: Busy when the pid file's daemon is running, UsageError with other threads or
    in an asyncio loop, UntrustedPeer, NotFound, AccessDenied, InvalidValue, LimitReached.
    """
    refuse_threads(_ANOTHER_WAY)
    limit = deadline(timeout)
    kept = daemon_shape.numbers_of(keep)
    pid_file = None if pidfile is None else PidFile(pidfile)
    if pid_file is not None:
        pid_file.refuse_if_held()
    program = sys.argv[0] if sys.argv else ""
    shape = daemon_shape.checked(chdir, umask, close, log, name or program)
    sign = _OwnWord()
    if log is None:
        sign.look = NO_LOG if close else "see what it has printed"
    try:
        side = start(sign, limit)
    except BaseException:
        shape.close_log()
        raise
    if isinstance(side, Outcome):
        if pid_file is not None:
            side.remove_left(pid_file)
        _end_original(side, shape.name)
    try:
        shape.settle()
        line = side.line.fileno()
        daemon_shape.bury_descriptors({line, *kept, *daemon_shape.logging_descriptors()})
        daemon_shape.mend_python_streams(logged=log is not None)
        if pid_file is not None:
            pid_file.lock()
            exit_handlers.at_exit(pid_file.release)  # in a forked child this does nothing
        daemon_shape.free_signals()
        if not until_ready and not side.tell(Ready()):
            if pid_file is not None:
                pid_file.release()
            os._exit(1)  # the start was called off
    except BaseException as error:
        if pid_file is not None:
            pid_file.release()
        side.die(error)
    return Daemon(side, pid_file)


def _end_original(outcome: Outcome, name: str) -> NoReturn:
    """Exit as the daemon fared. Nothing else is run or written: all that is left is the daemon's."""
    code = 0
    try:
        if outcome.failure is not None:
            code = outcome.failure.code
            line = f"{name}: {outcome.failure.error().explain()}"
            # No character that a terminal would obey.
            shown = (c if c.isprintable() else ascii(c)[1:-1] for c in line)
            os.write(2, "".join((*shown, "\n")).encode(errors="backslashreplace"))
    except OSError:  # standard error is closed
        pass
    finally:
        os._exit(code)


def _failure(error: BaseException | None) -> Failed:
    """Why a block was left before its daemon was ready."""
    what = "the daemon did not start"
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        why = "it left its block without saying that it is ready"
        return Failed("SystemProblem", what, why=why, remedy="call ready() once it can work")
    if isinstance(error, KinfolkError):
        return Failed.by(error)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else 1
        why = f"exit {code}" if isinstance(error.code, int) else str(error.code)
        return Failed("SystemProblem", what, why=why, code=code & 0xFF or 1)
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failed("SystemProblem", what, why=why)
