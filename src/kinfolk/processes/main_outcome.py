"""How this process is about to end, as far as Python lets anybody know at the time of atexit.

Python hands its status from the main thread's end to exit(3) in a local variable in C. What can be seen from outside:

    the main thread …                          seen by                                            status
    was ended by `Leaving` (kin.exit)          the interpreter itself has read its ``code``       exited n
    returned                                   its first frame stands at a return instruction     exited 0
    was ended by an uncaught exception         sys.last_value was raised in that very frame       exited 1
    … which is a KeyboardInterrupt             the same; Python then dies of the signal           killed by SIGINT
    was ended by a bare SystemExit             nothing: it is freed before atexit                 unknown

Rules:
1. Unknown rather than wrong: whatever does not fit exactly is unknown, and says why.
2. Nothing of Python is replaced for it: no hook, no sys.exit.

Rejected: a wrapper around sys.exit (it would miss ``raise SystemExit``, and belongs to nobody), sys.excepthook (others chain it
or replace it), monitoring of raised exceptions (it costs each of them).
"""

from __future__ import annotations

import dis
import os
import signal
import sys
import threading
from types import FrameType

from kinfolk.processes.exit_status import ExitStatus

_main_thread = threading.main_thread().ident  # of the interpreter; stays so in a forked child

#: the first frame of the main thread, once it was seen
_first: FrameType | None = None

#: what ended the main thread, once the interpreter has asked
_left_with: int | None = None


class Leaving(SystemExit):
    """What `kin.exit` raises in the main thread: a SystemExit that learns whether it ended the process.

    It may be caught on its way, and something else may end the process. But the interpreter alone reads ``code``
    with no frame of Python below: when nobody has caught it, just before the exit.
    """

    @property
    def code(self) -> int:  # type: ignore[override]
        """The status, 0 to 255."""
        global _left_with  # noqa: PLW0603
        number: int = self.args[0]
        if sys._getframe().f_back is None:
            _left_with = number
        return number


def in_main_thread() -> bool:
    """Whether the calling thread ends the process by ending: not in what a thread has forked, where Python would
    take the only thread for the main one, but ends it as a thread, with the status 0 and without atexit.
    """
    return threading.get_ident() == _main_thread


def watch() -> None:
    """Remember the first frame of the main thread, to see later how it ended. Callable from any thread."""
    global _first  # noqa: PLW0603
    if _first is None:
        current = sys._getframe() if in_main_thread() else _frame_of_main_thread()
        if current is not None and _is_programs(first := _outermost(current)):
            _first = first


def status() -> ExitStatus:
    """The status that this process is about to end with; for Python's atexit."""
    if _left_with is not None:
        return ExitStatus("exited", code=_left_with)
    if _first is None or _is_interactive():
        return ExitStatus.unknown("this interpreter does not run one program to its end")
    if _outermost(sys._getframe()) is _first:
        return ExitStatus.unknown("the exit handlers were run before the end of the process")
    instruction = dis.opname[_first.f_code.co_code[_first.f_lasti]]
    if instruction in ("RETURN_VALUE", "RETURN_CONST"):
        return ExitStatus("exited", code=0)
    uncaught = getattr(sys, "last_value", None)
    trace = getattr(uncaught, "__traceback__", None)
    if trace is None or trace.tb_frame is not _first or trace.tb_lasti != _first.f_lasti:
        return ExitStatus.unknown("a SystemExit that kin.exit has not raised")
    if sys.excepthook is not sys.__excepthook__:
        return ExitStatus.unknown("sys.excepthook was replaced, and may choose another status")
    if isinstance(uncaught, KeyboardInterrupt):
        return ExitStatus("signaled", signal=signal.SIGINT)
    return ExitStatus("exited", code=1)


def _frame_of_main_thread() -> FrameType | None:
    return sys._current_frames().get(_main_thread or 0)


def _outermost(frame: FrameType) -> FrameType:
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_programs(frame: FrameType) -> bool:
    """Whether a first frame lasts as long as the program: not that of an import by `site`, of a greenlet, or of an
    interpreter inside of another program, whose status is that program's business.
    """
    main = sys.modules.get("__main__")
    in_main = main is not None and frame.f_globals is vars(main)
    as_module = frame.f_globals.get("__name__") == "runpy"  # python -m, a zip, a directory
    return bool(sys.orig_argv) and (in_main or as_module)


def _is_interactive() -> bool:
    """Whether a prompt has run, or is to: it has a first frame for each line."""
    asked = sys.flags.interactive or sys.flags.inspect or os.environ.get("PYTHONINSPECT")
    return bool(asked) or hasattr(sys, "ps1")
