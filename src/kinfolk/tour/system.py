"""Stop `system`: a command, and how it ended. The source's chapter system和popen.

It shows
- the source's three steps: a child, which executes a shell, and is waited for;
- the status in full, which in C is a number to be taken apart; without a shell a missing program is an error;
- Ctrl-C: it is for the command, and the one who waits ignores it.
"""

from __future__ import annotations

import os
import signal

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import ChildFailed, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, scratch_directory


def visit(narrator: Narrator, walk: Walk) -> None:
    """Run commands."""
    with scratch_directory() as directory:
        _three_steps(narrator, f"{directory}/steps")
        _statuses(narrator, f"{directory}/none")
        _interrupt(narrator)


def _three_steps(narrator: Narrator, path: str) -> None:
    with crew() as hands:
        caller = hands.start("caller", _run, f"echo $PPID $$ > {path}")
        status = caller.result()
    with open(path) as file:
        parent, shell = file.read().split()
    narrator.says(
        f"Process {caller.pid} ran a command: its child {shell} was /bin/sh, and had ended when "
        f"kin.system returned: {status}."
    )
    narrator.check(
        "the shell was a child of the caller", parent == str(caller.pid) != shell, f"of {parent}"
    )
    narrator.check(
        "it was waited for, and is gone",
        status == "exited 0" and not os.path.exists(f"/proc/{shell}"),
    )


def _statuses(narrator: Narrator, missing: str) -> None:
    with crew() as hands:
        found = {
            command: hands.start("caller", _run, command).result()
            for command in ("exit 3", "kill -TERM $$", f"{missing} 2>&-")
        }
        without_shell = hands.start("caller", _run_program, missing).result()
    said = ", ".join(f"{command!r}: {status}" for command, status in found.items())
    narrator.says(f"{said}; the last as a list, without a shell: {without_shell}.")
    narrator.check(
        "the status says exited, killed, and the shell's 127",
        list(found.values()) == ["exited 3", "killed by SIGTERM", "exited 127"],
        said,
    )
    narrator.check(
        "without a shell, a missing program raises", without_shell == "NotFound", without_shell
    )


def _interrupt(narrator: Narrator) -> None:
    with crew() as hands:
        caller = hands.start("caller", _run, "kill -INT $PPID; kill -INT $$; exit 1")
        try:
            status = caller.result()
        except ChildFailed as failure:
            status = str(failure)
    narrator.says(f"A command sent SIGINT to its caller and to itself, as Ctrl-C does: {status}.")
    narrator.check(
        "SIGINT ended the command, and not who waited for it",
        status == f"killed by {signal.SIGINT.name}",
        status,
    )


def _run(line: Line, command: str) -> str:
    return str(kin.system(command))


def _run_program(line: Line, path: str) -> str:
    return outcome(lambda: kin.system([path]))


STOP = Stop("system", "a command, and how it ended", "system和popen (system)", visit)
