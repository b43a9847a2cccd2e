"""Stop `wait`: how a child ended. The source's chapter wait和waitpid函数.

It shows
- the source's program: asked without blocking (WNOHANG) until the child ends, whose exit code is 5;
- wait(2) for any child: which one it was;
- every kind of status: exited, killed, stopped, continued;
- a status that somebody else took: unknown, if the kernel does not remember it, and never 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
from typing import Any

import kinfolk as kin
from kinfolk.tour.narrator import Column, Narrator
from kinfolk.tour.processes import HANG_LIMIT, PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome

_SLEEP = ["sleep", str(HANG_LIMIT)]

_COLUMNS = (
    Column("happened", "what happened to it", number=False),
    Column("status", "ExitStatus", number=False),
    Column("code", "code"),
    Column("signal", "signal"),
    Column("shell", "$?"),
)


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the four parts."""
    _not_blocking(narrator)
    _any(narrator)
    _kinds(narrator)
    _taken(narrator)


# ── the source's program ─────────────────────────────────────────────────────────────────────


def _not_blocking(narrator: Narrator) -> None:
    with crew() as hands:
        program = hands.start("program", _program)
        pid = program.hear()
        asked, early, status = program.result()
    narrator.says(
        f"Process {program.pid} asked {asked} times for child {pid} without blocking: nothing "
        "yet. Then: "
        f"child_proc({pid}): {status}."
    )
    narrator.check("WNOHANG: a living child gives None, at once", asked == 3)
    narrator.check("wait(timeout=0) says Timeout", early == "Timeout", early)
    narrator.check("exit_code 5, as in the source", status.code == 5, str(status))


def _program(line: Line) -> tuple[int, str, kin.ExitStatus]:
    reading, writing = os.pipe()
    with open(reading, "rb") as word, open(writing, "wb") as give_word:
        side = kin.fork()
        if side.child is None:
            give_word.close()
            word.read()  # where the source sleeps 5 s
            kin.exit_now(5)
        child = side.child
        line.tell(child.pid)
        asked = [child.poll() for _ in range(3)].count(None)
        early = outcome(lambda: child.wait(timeout=0))
        give_word.close()
        return asked, early, _bare(child.wait(PATIENCE))


# ── any child ────────────────────────────────────────────────────────────────────────────────


def _any(narrator: Narrator) -> None:
    with crew() as hands:
        pids, first, statuses = hands.start("parent", _several).result()
    narrator.says(
        f"kin.wait_any: of children {', '.join(map(str, pids))} the second ended, and {first} "
        "was named; "
        f"kin.wait_all gave {', '.join(map(str, statuses))}."
    )
    narrator.check("any child: the one that ended was named", first == pids[1], f"{first}")
    narrator.check(
        "all children: each has its own status",
        [status.code for status in statuses] == [0, 1, 2],
        ", ".join(map(str, statuses)),
    )


def _several(line: Line) -> tuple[list[int], int, list[kin.ExitStatus]]:
    with contextlib.ExitStack() as stack:
        several = [
            stack.enter_context(
                kin.spawn(
                    ["/bin/sh", "-c", f"read word; exit {code}"],
                    stdin=kin.Redirect.PIPE,
                    containment="direct",
                )
            )
            for code in range(3)
        ]
        _end(several[1])
        first = kin.wait_any(several, PATIENCE)
        _end(several[0])
        _end(several[2])
        statuses = [_bare(status) for status in kin.wait_all(several, PATIENCE)]
        return [each.pid for each in several], first.pid, statuses


def _end(process: kin.Process) -> None:
    """It reads, and so is told."""
    assert process.stdin is not None
    process.stdin.close()


# ── all kinds ────────────────────────────────────────────────────────────────────────────────


def _kinds(narrator: Narrator) -> None:
    with crew() as hands:
        found: list[tuple[str, kin.ExitStatus]] = hands.start("parent", _all_kinds).result()
    rows: list[dict[str, Any]] = [
        {
            "happened": happened,
            "status": str(status),
            "code": status.code,
            "signal": status.signal,
            "shell": status.shell_code if status.ended else None,
        }
        for happened, status in found
    ]
    narrator.table("kinds", _COLUMNS, rows)
    kinds = [status.kind for _, status in found]
    narrator.check(
        "each kind was told apart",
        kinds == ["exited", "exited", "stopped", "continued", "signaled"],
        ", ".join(kinds),
    )
    narrator.check(
        "a shell's code: 128 and the signal",
        found[-1][1].shell_code == 128 + signal.SIGTERM,
        str(found[-1][1].shell_code),
    )


def _all_kinds(line: Line) -> list[tuple[str, kin.ExitStatus]]:
    found = [
        (f"exit {code}", kin.spawn(["/bin/sh", "-c", f"exit {code}"], containment="direct"))
        for code in (0, 255)
    ]
    statuses = [(happened, _bare(process.wait(PATIENCE))) for happened, process in found]
    with kin.spawn(_SLEEP, containment="direct") as process:
        for number in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTERM):
            process.signal(number)
            statuses.append((number.name, _bare(process.wait_change(PATIENCE))))
    return statuses


# ── taken by somebody else ───────────────────────────────────────────────────────────────────


def _taken(narrator: Narrator) -> None:
    with crew() as hands:
        ours, others = hands.start("parent", _unseen).result()
    narrator.says(
        "SIGCHLD was ignored, so the kernel took the status of a child that exited with 5. kin: "
        f"{ours}"
        f"{' (this kernel remembers it, PIDFD_GET_INFO)' if ours.known else ''}. Python's "
        f"subprocess: {others}."
    )
    narrator.figure("subprocess_says", others)
    narrator.check(
        "a status that somebody else took is unknown, or what it was, but never success",
        not ours.success and ours.shell_code in (5, 125) and ours.code in (5, None),
        str(ours),
    )


def _unseen(line: Line) -> tuple[kin.ExitStatus, int]:
    with kin.signals.ignore("CHLD"):
        command = ["/bin/sh", "-c", "exit 5"]
        ours = kin.spawn(command, containment="direct").wait(PATIENCE)
        return _bare(ours), subprocess.run(command, check=False).returncode


def _bare(status: kin.ExitStatus) -> kin.ExitStatus:
    """Without its usage, which a message to the tour has no need of."""
    return dataclasses.replace(status, usage=None)


STOP = Stop("wait", "how a child ended, and who is told", "wait和waitpid函数", visit)
