"""The route: which stops there are, in which order, and how they are walked.

Rules:
1. A stop is a file of this package with a `STOP`, and its line in `STOPS`.
2. A stop that fails does not end the tour: the others are still visited, and the tour is False.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

import kinfolk as kin
from kinfolk.tour.counter import STOP as COUNTER
from kinfolk.tour.daemon import STOP as DAEMON
from kinfolk.tour.ends import STOP as ENDS
from kinfolk.tour.exec import STOP as EXEC
from kinfolk.tour.exit import STOP as EXIT
from kinfolk.tour.fifo import STOP as FIFO
from kinfolk.tour.file import STOP as FILE
from kinfolk.tour.file import file_to_move
from kinfolk.tour.file_lock import STOP as FILE_LOCK
from kinfolk.tour.fork import STOP as FORK
from kinfolk.tour.mapped_file import STOP as MMAP
from kinfolk.tour.mq import STOP as MQ
from kinfolk.tour.narrator import Account, Narrator
from kinfolk.tour.orphan import STOP as ORPHAN
from kinfolk.tour.pipe import STOP as PIPE
from kinfolk.tour.popen import STOP as POPEN
from kinfolk.tour.semaphores import STOP as SEMAPHORES
from kinfolk.tour.shm import STOP as SHM
from kinfolk.tour.signals import STOP as SIGNALS
from kinfolk.tour.stop import Stop, Walk
from kinfolk.tour.system import STOP as SYSTEM
from kinfolk.tour.sysv_mq import STOP as SYSV_MQ
from kinfolk.tour.tcp import STOP as TCP
from kinfolk.tour.unix import STOP as UNIX
from kinfolk.tour.unix_dgram import STOP as UNIX_DGRAM
from kinfolk.tour.unix_seqpacket import STOP as UNIX_SEQPACKET
from kinfolk.tour.vfork import STOP as VFORK
from kinfolk.tour.wait import STOP as WAIT
from kinfolk.tour.zombie import STOP as ZOMBIE

STOPS: tuple[Stop, ...] = (
    FILE,
    FORK,
    VFORK,
    ORPHAN,
    ZOMBIE,
    WAIT,
    EXEC,
    EXIT,
    DAEMON,
    SYSTEM,
    POPEN,
    SIGNALS,
    PIPE,
    FIFO,
    SHM,
    MMAP,
    COUNTER,
    UNIX,
    UNIX_DGRAM,
    UNIX_SEQPACKET,
    MQ,
    SYSV_MQ,
    TCP,
    SEMAPHORES,
    FILE_LOCK,
    ENDS,
)

#: Columns for the tables where no terminal says how many there are.
_WIDTH_OF_A_PIPE = 100


def stops() -> list[tuple[str, str, str]]:
    """Every stop in the order of the tour: its name, its title, its chapter in the source."""
    return [(stop.name, stop.title, stop.chapter) for stop in STOPS]


def run(stops: Sequence[str], file: str | None, as_json: bool) -> bool:
    """Visit the named stops in the order of the tour, or all of them; whether every check held.

    ``file`` is what the first stop moves, None for one that every machine has. Prints to standard
    output: text for people, or with ``as_json`` one JSON object. It forks, so call it in the only
    thread. Raises InvalidValue for a stop that is none, NotFound, AccessDenied and InvalidValue for
    a file that can't be moved; nothing was printed then.
    """
    chosen = _chosen(stops)
    walk = Walk(file_to_move(file))
    console = Console(quiet=as_json, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_OF_A_PIPE)
    with _signals_unwind():
        accounts = [
            _visit(stop, walk, console, number, len(chosen))
            for number, stop in enumerate(chosen, 1)
        ]
    ok = all(account.ok for account in accounts)
    if as_json:
        report = {"kinfolk": kin.__version__, "kernel": os.uname().release, "ok": ok}
        report["stops"] = [dataclasses.asdict(account) for account in accounts]
        json.dump(report, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        console.print(_sum(accounts), soft_wrap=True)
    sys.stdout.flush()
    return ok


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the tour like Ctrl-C: children reaped, names removed.

    A handler that somebody installed before keeps its work.
    """
    ours = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
        and threading.current_thread() is threading.main_thread()
    ]
    for number in ours:
        signal.signal(number, _unwind)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _unwind(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _chosen(names: Sequence[str]) -> list[Stop]:
    known = {stop.name: stop for stop in STOPS}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise kin.InvalidValue(
                f"the tour has no stop {name!r}",
                remedy=f"did you mean {close[0]}?"
                if close
                else "the stops are " + ", ".join(known),
            )
    return [stop for stop in STOPS if not names or stop.name in names]


def _visit(stop: Stop, walk: Walk, console: Console, number: int, of: int) -> Account:
    account = Account(stop.name, stop.title, stop.chapter)
    narrator = Narrator(console, account)
    narrator.heading(number, of)
    started = time.monotonic()
    try:
        stop.visit(narrator, walk)
    except Exception as error:  # whatever it is, the next stop can still be shown
        narrator.broke_off(error)
    narrator.finish(time.monotonic() - started)
    return account


def _sum(accounts: Sequence[Account]) -> Text:
    checks = [check for account in accounts for check in account.checks]
    held = sum(check.ok for check in checks)
    seconds = sum(account.seconds for account in accounts)
    failed = [account.name for account in accounts if not account.ok]
    where = "1 stop" if len(accounts) == 1 else f"{len(accounts)} stops"
    line = f"{held} of {len(checks)} checks held at {where}, in {seconds:.1f} s."
    if failed:
        return Text(f"{line} Failed: {', '.join(failed)}.", style="bold red")
    return Text(line, style="bold green")
