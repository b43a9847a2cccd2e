"""Stop `popen`: a command as a file. The source's chapter system和popen.

It shows
- the source's program: a command's output is read from a file, whose close gives the status;
- the other way: a command that reads what is written;
- what an early close does, and a list in place of a text, which no shell interprets.
"""

from __future__ import annotations

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import Line, crew
from kinfolk.tour.stop import Stop, Walk, scratch_directory

_WORDS = ["pipe", "fifo", "message queue", "socket"]


def visit(narrator: Narrator, walk: Walk) -> None:
    """Read from commands, and write to them."""
    with scratch_directory() as directory:
        _read(narrator, directory)
        _write(narrator, f"{directory}/sorted")
        _early(narrator)
        _list(narrator)


def _read(narrator: Narrator, directory: str) -> None:
    for word in _WORDS:
        with open(f"{directory}/{word}", "x"):
            pass
    with crew() as hands:
        reader = hands.start("reader", _read_from, f"ls '{directory}'; exit 2")
        output, status = reader.result()
    names = output.splitlines()
    narrator.says(
        f"Process {reader.pid} read from ls: {', '.join(names)}. Then close() said: {status}."
    )
    narrator.check("the output was read", names == sorted(_WORDS), f"{names}")
    narrator.check("close gave the command's status", status == "exited 2", status)


def _write(narrator: Narrator, path: str) -> None:
    with crew() as hands:
        writer = hands.start("writer", _write_to, f"sort > '{path}'; exit 3", _WORDS)
        status = writer.result()
    with open(path) as file:
        got = file.read().splitlines()
    narrator.says(f"Process {writer.pid} wrote to sort, which wrote {', '.join(got)}: {status}.")
    narrator.check("the command read all of it, and its end", got == sorted(_WORDS), f"{got}")
    narrator.check("close waited for it, and gave its status", status == "exited 3", status)


def _early(narrator: Narrator) -> None:
    with crew() as hands:
        line, status = hands.start("reader", _read_one_line, ["yes"]).result()
    narrator.says(
        f"Of yes, which never ends, one line was read ({line}); then close() said: {status}."
    )
    narrator.check(
        "a command whose output nobody reads any more is ended by SIGPIPE",
        status == "killed by SIGPIPE",
        status,
    )


def _list(narrator: Narrator) -> None:
    text = "$HOME *"
    with crew() as hands:
        output, status = hands.start("reader", _read_from, ["echo", text]).result()
    narrator.says(f"As a list, echo got {output.rstrip()!r} just as it was: {status}.")
    narrator.check("no shell interprets a list", output == f"{text}\n", output)


def _read_from(line: Line, command: str | list[str]) -> tuple[str, str]:
    file = kin.popen(command, "r")
    output = file.read()
    return output, str(file.close())


def _write_to(line: Line, command: str, words: list[str]) -> str:
    file = kin.popen(command, "w")
    file.writelines(f"{word}\n" for word in words)
    return str(file.close())


def _read_one_line(line: Line, command: list[str]) -> tuple[str, str]:
    file = kin.popen(command, "r")
    first = file.readline().rstrip()
    return first, str(file.close())


STOP = Stop("popen", "a command as a file", "system和popen (popen)", visit)
