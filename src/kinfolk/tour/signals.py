"""Stop `signals`: interrupts from other processes. The source's chapter signal信号.

It shows
- the table: the source's kill -l, and the real-time signals that it does not list;
- the source's program: a handler for SIGINT, and here also who sent it;
- signals that are blocked, and pending until they are not;
- a value that travels with a signal (sigqueue), and its sender;
- many of one kind at a time: ordinary ones become one, real-time ones are queued;
- SIGPIPE, which Python ignores, and which is the default again in its children.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

import kinfolk as kin
from kinfolk.tour.evidence import status_line
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome

#: What kill -l prints in the source.
_LISTED = [
    "HUP",
    "INT",
    "QUIT",
    "ILL",
    "TRAP",
    "ABRT",
    "BUS",
    "FPE",
    "KILL",
    "USR1",
    "SEGV",
    "USR2",
    "PIPE",
    "ALRM",
    "TERM",
    "16",
    "CHLD",
    "CONT",
    "STOP",
    "TSTP",
    "TTIN",
    "TTOU",
    "URG",
    "XCPU",
    "XFSZ",
    "VTALRM",
    "PROF",
    "WINCH",
    "POLL",
    "30",
    "SYS",
]

_MANY = 500
_ORDINARY, _QUEUED = "USR1", "RTMIN+1"


class Pending(NamedTuple):
    """What /proc and a handler saw of a signal that was blocked."""

    pending: bool
    handled_meanwhile: int
    handled_after: int


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the parts."""
    _table(narrator)
    _handled(narrator)
    _blocked(narrator)
    _with_value(narrator)
    _many(narrator)
    _sigpipe(narrator)


# ── the table ────────────────────────────────────────────────────────────────────────────────


def _table(narrator: Narrator) -> None:
    table = kin.signals.table()
    numbers = {entry.number for entry in table}
    real_time = sum(number >= signal.SIGRTMIN for number in numbers)
    found = [name for name in _LISTED if kin.signals.number_of(name) in numbers]
    refused = [entry.name for entry in table if not entry.catchable]
    narrator.says(
        f"kin.signals.table() has {len(table)} signals: the source's {len(found)}, and "
        f"{real_time} real-time ones, "
        f"which it does not list. Nobody can refuse {' and '.join(refused)}: handle raised "
        f"{outcome(lambda: kin.signals.handle(signal.SIGKILL, print).__enter__())}."
    )
    narrator.figure("signals", len(table))
    narrator.check("every signal of the source's kill -l is in it", len(found) == len(_LISTED))
    narrator.check(
        "it has all signals of this machine",
        numbers == set(signal.valid_signals()),
        f"{numbers ^ set(signal.valid_signals())}",
    )


# ── a handler ────────────────────────────────────────────────────────────────────────────────


def _handled(narrator: Narrator) -> None:
    with crew() as hands:
        program = hands.start("program", _handle)
        program.hear()
        kin.signals.send(program.pid, "INT")
        program.tell("sent")
        arrived: kin.signals.Arrived = program.result()
    narrator.says(f"Process {program.pid} has a handler for SIGINT. It received: {arrived}.")
    narrator.check("it was called, and did not die", arrived.signal == signal.SIGINT, str(arrived))
    narrator.check(
        "it was told who sent the signal",
        (arrived.pid, arrived.uid) == (os.getpid(), os.getuid()),
        str(arrived),
    )


def _handle(line: Line) -> kin.signals.Arrived:
    came: list[kin.signals.Arrived] = []
    with kin.signals.handle("INT", came.append):
        line.tell("running ...")
        line.hear()
    return came[0]


# ── blocked and pending ──────────────────────────────────────────────────────────────────────


def _blocked(narrator: Narrator) -> None:
    with crew() as hands:
        program = hands.start("program", _block)
        found: Pending = program.result()
    narrator.says(
        f"Process {program.pid} blocked SIGUSR1 and sent it to itself: pending (SigPnd or ShdPnd "
        "in /proc), handled "
        f"{found.handled_meanwhile} times; when it was blocked no longer, {found.handled_after}."
    )
    narrator.check(
        "while it was blocked it was pending, and not handled",
        found.pending and found.handled_meanwhile == 0,
        f"{found}",
    )
    narrator.check("after that it was handled", found.handled_after == 1, f"{found}")


def _block(line: Line) -> Pending:
    came: list[kin.signals.Arrived] = []
    number = kin.signals.number_of("USR1")
    with kin.signals.handle(number, came.append):
        with kin.signals.blocked(number):
            os.kill(os.getpid(), number)
            masks = [int(status_line("self", name), 16) for name in ("SigPnd", "ShdPnd")]
            pending = bool((masks[0] | masks[1]) >> number - 1 & 1)
            meanwhile = len(came)
        return Pending(pending, meanwhile, len(came))


# ── a value ──────────────────────────────────────────────────────────────────────────────────


def _with_value(narrator: Narrator) -> None:
    with crew() as hands:
        receiver = hands.start("receiver", _receive, _QUEUED, 1)
        receiver.hear()
        kin.signals.send(receiver.pid, _QUEUED, value=42)
        (arrived,) = receiver.result()
    narrator.says(f"Process {receiver.pid} received: {arrived}.")
    narrator.check(
        "it came with its value, and with its sender's pid and uid",
        (arrived.value, arrived.pid, arrived.uid) == (42, os.getpid(), os.getuid()),
        str(arrived),
    )


# ── many at a time ───────────────────────────────────────────────────────────────────────────


def _many(narrator: Narrator) -> None:
    counted: dict[str, list[int | None]] = {}
    with crew() as hands:
        for name in (_ORDINARY, _QUEUED):
            receiver = hands.start("receiver", _receive, name, None)
            receiver.hear()
            for value in range(_MANY):
                _send(receiver.pid, name, value)
            receiver.tell("that was all")
            counted[name] = [arrived.value for arrived in receiver.result()]
    ordinary, queued = counted[_ORDINARY], counted[_QUEUED]
    narrator.says(
        f"{_MANY} were sent while they were blocked: of {kin.signals.name_of(_ORDINARY)} "
        f"{len(ordinary)} arrived, of "
        f"{kin.signals.name_of(_QUEUED)} {len(queued)}, in the order of their values."
    )
    narrator.figure("ordinary_arrived", len(ordinary))
    narrator.figure("real_time_arrived", len(queued))
    narrator.check("ordinary ones became one", len(ordinary) == 1, f"{len(ordinary)}")
    narrator.check(
        "real-time ones were queued: each arrived, in order",
        queued == list(range(_MANY)),
        f"{len(queued)} of {_MANY}",
    )


def _send(pid: int, name: str, value: int) -> None:
    kin.signals.send(pid, name, value, timeout=PATIENCE)


def _receive(line: Line, name: str, count: int | None) -> list[kin.signals.Arrived]:
    """So many, or with None what is there once the tour has sent all."""
    with kin.signals.stream(name) as arriving:
        line.tell("ready")
        if count is not None:
            return [arriving.recv(timeout=PATIENCE) for _ in range(count)]
        line.hear()
        came: list[kin.signals.Arrived] = []
        try:
            while True:
                came.append(arriving.recv(timeout=0))
        except kin.Timeout:
            return came


# ── SIGPIPE ──────────────────────────────────────────────────────────────────────────────────


def _sigpipe(narrator: Narrator) -> None:
    with crew() as hands:
        here, ignored = hands.start("parent", _broken).result()
    narrator.says(
        f"SIGPIPE: a sender whose receiver has gone got {here} and lives. In a program that it "
        "started, SIGPIPE was "
        f"{'ignored' if ignored else 'the default again'}."
    )
    narrator.check("in kinfolk it is BrokenChannel", here == "BrokenChannel", here)
    narrator.check("in a child it kills again, as C programs expect", not ignored)


def _broken(line: Line) -> tuple[str, bool]:
    receiver, sender = kin.channel("pipe:")
    with sender:
        receiver.close()
        error = outcome(lambda: sender.send("hello?", timeout=PATIENCE))
    with kin.popen(["grep", "SigIgn", "/proc/self/status"]) as file:
        mask = int(file.read().split()[1], 16)
    return error, bool(mask >> signal.SIGPIPE - 1 & 1)


STOP = Stop("signals", "interrupts, and what they carry", "signal信号", visit)
