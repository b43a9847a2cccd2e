"""Stop `exec`: another program in the same process. The source's chapter exec系列函数.

It shows
- that the pid stays and the program changes: the source's other body with the same name;
- what goes along: what was printed before, and of the environment only what is given;
- that a program that can't be executed is an error, after which this one goes on.
"""

from __future__ import annotations

import os
import sys

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, scratch_directory

#: What the new program says: its pid, what it is, when it started, its environment.
_SAYS = "echo $$; readlink /proc/$$/exe; cat /proc/$$/stat; echo $KIN_TOUR; echo ${HOME-unset}"


def visit(narrator: Narrator, walk: Walk) -> None:
    """Execute, and try to."""
    _same_process(narrator)
    _refused(narrator)


def _same_process(narrator: Narrator) -> None:
    reading, writing = os.pipe()
    with open(reading) as output, crew() as hands:
        process = hands.start("program", _become, writing, closes=[output])
        os.close(writing)
        before = process.hear()
        text = output.read()
        process.reap()
    printed, pid, program, stat, given, home = text.splitlines()
    started = _start_time(stat)
    narrator.says(
        f"Process {process.pid} ran {before[0]} and called kin.execute. Now process {pid} ran "
        f"{program}."
    )
    narrator.check("the pid is the same", pid == str(process.pid), f"{pid}")
    narrator.check("it is the same process: it started when it did", started == before[1])
    narrator.check(
        "its program is another",
        os.path.realpath(before[0]) != os.path.realpath(program),
        program,
    )
    narrator.check(
        "what was printed before came first, from the buffer", printed == "before", printed
    )
    narrator.check(
        "its environment is what was given, and no more",
        (given, home) == ("given", "unset"),
        f"{given!r}, HOME {home}",
    )


def _become(line: Line, writing: int) -> None:
    os.dup2(writing, 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - until the end of this program
    with open("/proc/self/stat") as file:
        line.tell((os.readlink("/proc/self/exe"), _start_time(file.read())))
    sys.stdout.write("before\n")  # into the buffer
    kin.execute("/bin/sh", ["sh", "-c", _SAYS], {"KIN_TOUR": "given", "PATH": os.defpath})


def _start_time(stat: str) -> int:
    """The 22nd field of /proc/PID/stat, behind a name that may hold anything."""
    return int(stat.rpartition(")")[2].split()[19])


def _refused(narrator: Narrator) -> None:
    with scratch_directory() as directory, crew() as hands:
        path = f"{directory}/none"
        refused, pid = hands.start("program", _try, path).result()
    narrator.says(f"kin.execute of a path where nothing is: {refused}, and process {pid} went on.")
    narrator.check("it never returns in silence: NotFound", refused == "NotFound", refused)


def _try(line: Line, path: str) -> tuple[str, int]:
    return outcome(lambda: kin.execute(path)), os.getpid()


STOP = Stop("exec", "the same process, another program", "exec系列函数", visit)
