"""Stop `exit`: what still runs at the end of a process. The source's chapter exit.

It shows
- the source's program: three handlers by on_exit, three by atexit, last in, first out, in the child and in the parent. What the source
  prints lacks the parent's last line; here are all twelve;
- exit against _exit: handlers and buffers.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import HANG_LIMIT, PATIENCE
from kinfolk.tour.stop import Stop, Walk

#: What each process prints, as the source has it, but for its last line in the parent.
ORDER = [
    "<atexit> func1",
    "<atexit> func2",
    "<atexit> func3",
    "<on_exit> exit_code: 0, arg: on_exit1",
    "<on_exit> exit_code: 0, arg: on_exit2",
    "<on_exit> exit_code: 0, arg: on_exit3",
]


def visit(narrator: Narrator, walk: Walk) -> None:
    """Start both programs at once, each in an interpreter of its own, and hear them."""
    with _started(_program) as program, _started(_exits) as exits:
        _order(narrator, program)
        _buffers(narrator, exits)


def _started(function: Callable[[], None]) -> kin.Process:
    # Python has a buffer to show unless it is told otherwise.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return kin.spawn(
        function, containment="direct", stdout=kin.Redirect.PIPE, encoding="utf-8", env=env
    )


# ── the source's program ─────────────────────────────────────────────────────────────────────


def _order(narrator: Narrator, program: kin.Process) -> None:
    printed = [line.rpartition(" getpid = ") for line in _output(program).splitlines()]
    program.wait(PATIENCE)
    said: dict[int, list[str]] = {}
    for text, _, pid in printed:
        said.setdefault(int(pid), []).append(text)
    child = next((pid for pid in said if pid != program.pid), 0)
    narrator.says("The source's program, in Python; what its two processes printed at their ends:")
    for text, _, pid in printed:
        narrator.says(f"  {text} getpid = {pid}")
    narrator.says(
        "The source's own listing ends one line earlier: the last handler of the parent is not in it. It ran all the same, as here."
    )
    narrator.check("the child inherited all six handlers, and ran them", said.get(child) == ORDER)
    narrator.check("so did the parent: all six, in the same order", said.get(program.pid) == ORDER)
    narrator.check("the child first", list(said) == [child, program.pid], f"{list(said)}")


def _program() -> None:
    signal.alarm(HANG_LIMIT)
    for name in ("on_exit3", "on_exit2", "on_exit1"):
        kin.on_exit(_func, name)
    for name in ("func3", "func2", "func1"):
        kin.at_exit(functools.partial(_func_n, name))
    with kin.fork() as side:
        if side.child is None:
            kin.exit(0)
        side.child.wait(PATIENCE)  # where the source sleeps


def _func(status: kin.ExitStatus, arg: str) -> None:
    sys.stdout.write(f"<on_exit> exit_code: {status.code}, arg: {arg} getpid = {os.getpid()}\n")


def _func_n(name: str) -> None:
    sys.stdout.write(f"<atexit> {name} getpid = {os.getpid()}\n")


# ── exit and _exit ───────────────────────────────────────────────────────────────────────────


def _buffers(narrator: Narrator, exits: kin.Process) -> None:
    written = _output(exits).splitlines()
    ends = [number for number, line in enumerate(written) if line.startswith(_STATUS)]
    orderly, abrupt = written[: ends[0]], written[ends[0] + 1 : ends[1]]
    statuses = [written[end].removeprefix(_STATUS) for end in ends]
    narrator.says(
        "Two processes write a line, which stays in the buffer, and have a handler. "
        f"kin.exit(3): {_shown(orderly)}, {statuses[0]}. "
        f"kin.exit_now(3), which is _exit: {_shown(abrupt)}, {statuses[1]}."
    )
    narrator.check(
        "exit runs handlers and writes the buffer out", orderly == ["line", "handler"], f"{orderly}"
    )
    narrator.check("_exit does neither", not abrupt, f"{abrupt}")
    narrator.check("both end with 3", statuses == ["exited 3", "exited 3"], f"{statuses}")


def _shown(lines: list[str]) -> str:
    return " and ".join(lines) or "nothing"


_STATUS = "status: "


def _exits() -> None:
    signal.alarm(HANG_LIMIT)
    for leave in (kin.exit, kin.exit_now):
        with kin.fork() as side:
            if side.child is None:
                signal.alarm(HANG_LIMIT)
                kin.at_exit(lambda: sys.stdout.write("handler\n"))
                sys.stdout.write("line\n")
                leave(3)
            sys.stdout.write(f"{_STATUS}{side.child.wait(PATIENCE)}\n")


def _output(process: kin.Process) -> str:
    assert process.stdout is not None
    text: str = process.stdout.read()
    return text


STOP = Stop(
    "exit", "handlers and buffers, at the end", "exit(可以注册进程退出的时候的回调函数)", visit
)
