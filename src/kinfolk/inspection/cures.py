"""What to type against a zombie: commands, each with what it does and who may do it.

None of them is about the zombie: it is dead, and takes no signal. All of them make its reaper collect it, or make somebody else the reaper.
"""

from __future__ import annotations

import os
import shlex
import signal
from typing import NamedTuple

from kinfolk.inspection.process_info import ProcessInfo
from kinfolk.inspection.reaper import SIGCHLD, Reaper

#: Children of clone(2) are found by wait(2) only with it (__WALL).
_WAIT_ALL = 0x40000000


class Cure(NamedTuple):
    """A command for a shell."""

    command: str
    #: what happens then
    effect: str
    #: what is lost by it; empty for what does no harm
    caution: str = ""
    #: who may do it, when this user may not
    needs: str = ""


def named(process: ProcessInfo) -> str:
    """A process for people: number and name."""
    return f"process {process.pid} ({process.name})"


def for_halted(reaper: Reaper) -> list[Cure]:
    """Let it run again."""
    pid = reaper.process.pid
    if reaper.traced and reaper.process.tracer:
        tracer = reaper.process.tracer
        return [
            Cure(
                f"kill {tracer}",
                f"ends the tracer, which lets process {pid} go on",
                "better continue it there; a debugger may have asked the kernel to kill it too",
                "" if reaper.may_be_signalled() else _who(reaper),
            )
        ]
    return [
        _signal(
            reaper,
            signal.SIGCONT,
            "lets it go on, so that it can wait; fg does the same in the shell that stopped it",
        )
    ]


def thaw(order: str) -> Cure:
    """Let a control group go on."""
    return Cure(
        f"echo 0 > {shlex.quote(order)}",
        "lets the whole control group go on",
        needs="" if os.access(order, os.W_OK) else "root",
    )


def nudge(reaper: Reaper) -> Cure:
    """Run its handler once more."""
    return _signal(
        reaper, signal.SIGCHLD, "runs its handler once more; does nothing if that is no help"
    )


def end(reaper: Reaper, then: str) -> Cure:
    """End the reaper, asking first where it listens."""
    number = signal.SIGTERM
    if reaper.halted or reaper.uninterruptible or reaper.deaf_to(number):
        number = signal.SIGKILL
    verb = "ends" if number == signal.SIGKILL else "asks it to end"
    return _signal(reaper, number, f"{verb}; {then}", "all that it does ends with it")


def debugger(reaper: Reaper, zombie: ProcessInfo) -> Cure:
    """Call waitpid inside the reaper."""
    flags = 0 if zombie.exit_signal == SIGCHLD else _WAIT_ALL
    return Cure(
        f"gdb -p {reaper.process.pid} -batch -ex 'call (int)waitpid({zombie.pid}, 0, {flags:#x})'",
        f"the last resort: collects {zombie.pid} from inside of its reaper, which goes on",
        "the reaper never learns the exit status: its own wait for this child fails (ECHILD)",
        "" if reaper.may_be_signalled() else _who(reaper),
    )


def _signal(reaper: Reaper, number: signal.Signals, effect: str, caution: str = "") -> Cure:
    option = "" if number == signal.SIGTERM else f"-{number.name.removeprefix('SIG')} "
    return Cure(
        f"kill {option}{reaper.process.pid}",
        effect,
        caution,
        "" if reaper.may_be_signalled() else _who(reaper),
    )


def _who(reaper: Reaper) -> str:
    process = reaper.process
    owner = process.user or (None if process.uid is None else f"user {process.uid}")
    return "root" if owner in (None, "root") else f"root or {owner}"
