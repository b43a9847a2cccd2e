"""The end of a process that is one block of Python code: as a script ends.

    returned            0
    SystemExit          its code; a text is printed, and 1
    KeyboardInterrupt   a traceback, and death by SIGINT
    another exception   a traceback, and 1

Threads that are no daemons are waited for, exit handlers run, standard streams are flushed; 120 when they can't be. Then the
process ends by _exit(2): objects are not deleted, for many of them are copies of the parent's.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import NoReturn

from kinfolk.processes import exit_handlers, standard_streams
from kinfolk.processes.exit_status import ExitStatus

#: How Python ends a script whose output could not be written.
_NOT_FLUSHED = 120

#: Made ahead: most end so, and many in a fork that copies what it touches.
_RETURNED = ExitStatus("exited", code=0)


def outcome(error: BaseException | None, own_frames: int = 0) -> ExitStatus:
    """What a block ends with that raised ``error``; it is shown, without its ``own_frames`` outermost ones."""
    if error is None:
        return _RETURNED
    if isinstance(error, SystemExit):
        return ExitStatus("exited", code=_code_of(error.code))
    trace = error.__traceback__
    for _ in range(own_frames):
        trace = trace.tb_next if trace is not None and trace.tb_next is not None else trace
    with contextlib.suppress(Exception):
        sys.excepthook(type(error), error.with_traceback(trace), trace)  # it prints the error's own
    if isinstance(error, KeyboardInterrupt):
        return ExitStatus("signaled", signal=signal.SIGINT)
    return ExitStatus("exited", code=1)


def _code_of(code: object) -> int:
    """As Python takes the argument of sys.exit."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(Exception):
        if sys.stderr is not None:
            sys.stderr.write(f"{code}\n")
    return 1


def end(status: ExitStatus) -> NoReturn:
    """End this process like that. To be called in its main thread."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        try:
            standard_streams.flush()
        except OSError:
            if status.success:
                status = ExitStatus("exited", code=_NOT_FLUSHED)
    except BaseException as error:  # interrupted while it waited for threads
        outcome(error)
    finally:
        exit_handlers.finish(status)
