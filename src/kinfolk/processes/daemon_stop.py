"""A daemon is stopped: who has locked its pid file, and nobody else, is signalled, and waited for until it is gone."""

from __future__ import annotations

import contextlib
import os
import signal

from kinfolk.deadlines import Deadline, deadline
from kinfolk.descriptors import Descriptor
from kinfolk.errors import KinfolkError, Timeout, UsageError, from_os_error
from kinfolk.identity import is_dead, open_pidfd
from kinfolk.interest import Interest, Steps
from kinfolk.processes.pid_file import PidFile
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run


def stop_daemon(
    pidfile: str | os.PathLike[str], *, grace: float = 10.0, timeout: float | None = None
) -> signal.Signals | None:
    """End the daemon of a pid file: SIGTERM, then SIGKILL after ``grace`` seconds. Returns when it is gone.

    What it took; None when no daemon was running. The file that it left is removed, if it holds a number. Its children are
    its own business. No other process is ever signalled: who holds the lock is asked of the kernel, before and after a pidfd of
    it is opened. Thread-safe.

    Raises Timeout when it is not gone after ``timeout`` seconds, AccessDenied, UntrustedPeer (also for a file that is no pid file: somebody may
    have locked it for reasons of his own), Busy for a daemon in a pid
    namespace where it can't be seen from here, UsageError for oneself.
    """
    pid_file, limit, patience = PidFile(pidfile), deadline(timeout), Deadline(grace, "grace")
    turnstile = Turnstile(pid_file.path, lambda: None)
    try:
        return run(_stopping(pid_file, patience), turnstile, limit, "the daemon does not end")
    except Timeout:
        raise Timeout(
            "the daemon does not end",
            subject=pid_file.path,
            why=f"not within {limit.timeout:g} s",
            remedy="wait longer, or lower its grace",
        ) from None
    except KinfolkError:
        raise
    except OSError as error:
        raise from_os_error(error, "the daemon can't be stopped", pid_file.path) from error


def _stopping(pid_file: PidFile, patience: Deadline) -> Steps[signal.Signals | None]:
    pidfd, last = _open_holder(pid_file), None
    if pidfd is not None:
        with contextlib.closing(pidfd):
            last = signal.SIGTERM
            _send(pidfd, last)
            _send(pidfd, signal.SIGCONT)  # a stopped one has to run to end well
            while not is_dead(pidfd.fileno()):
                if last == signal.SIGTERM and patience.passed():
                    last = signal.SIGKILL
                    _send(pidfd, last)
                again_in = patience.remaining() if last == signal.SIGTERM else None
                yield Interest(readable=(pidfd.fileno(),), again_in=again_in)
    if pid_file.read() is not None:  # what is empty may be somebody's, who is about to write to it
        with contextlib.suppress(
            OSError
        ):  # another one has just started there, or it may not be removed
            pid_file.remove_stale()
    return last


def _open_holder(pid_file: PidFile) -> Descriptor | None:
    """A pidfd of the process that has locked the file; None when none has."""
    while (who := pid_file.holder()) is not None:
        if who.pid == os.getpid():
            raise UsageError(
                "this process is that daemon", subject=pid_file.path, remedy="return, or kin.exit()"
            )
        pid_file.refuse_other_content()
        number = open_pidfd(who.pid)
        if number is None:
            continue
        pidfd = Descriptor(number, f"the pidfd of {who.pid}")
        # The pidfd may be of a later process of that number. Then its holder has died since, and is not it any more.
        with contextlib.ExitStack() as closing:
            closing.callback(pidfd.close)
            if pid_file.holder() == who and not is_dead(number):
                closing.pop_all()
                return pidfd
    pid_file.refuse_other_content()
    return None


def _send(pidfd: Descriptor, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd.fileno(), number)
