"""Starting processes: programs and Python functions, from parents of several sizes.

    start    until the call returns; the program runs by then with posix_spawn and ours
    total    until its end is known, which is what the comparisons are about

A parent is a fresh process: a small one, one with 1 GiB resident, and that with 50 threads. The
first start of each way (its server, its keeper) is not counted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import kinfolk as kin
from kinfolk.bench.cases import Case, Order, Outcome
from kinfolk.bench.results import About
from kinfolk.bench.statistics import middle

_TRUE = "/bin/true"


class Parent(NamedTuple):
    """From what is started."""

    mebibytes: int
    threads: int


PARENTS = {
    "small": Parent(0, 0),
    "1 GiB": Parent(1024, 0),
    "1 GiB, 50 threads": Parent(1024, 50),
}

#: Starts in a round, at most.
_MOST = 200


class Way(NamedTuple):
    """One way to start a process, and to learn of its end."""

    start: Callable[[], Any]
    finish: Callable[[Any], object]


def nothing() -> None:
    """The function."""


def _succeeded(ended: tuple[int, int]) -> None:
    if ended[1]:
        raise RuntimeError(f"status {ended[1]}")


def _waited(pid: int) -> None:
    _succeeded(os.waitpid(pid, 0))


def _fork_and_exec() -> int:
    """As the old texts have it."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(_TRUE, [_TRUE])
        finally:
            os._exit(127)
    return pid


def _by_multiprocessing(method: str) -> Way:
    """A function, by a start method of multiprocessing."""
    context: Any = multiprocessing.get_context(method)

    def start() -> Any:
        process = context.Process(target=nothing)
        process.start()
        return process

    def joined(process: Any) -> None:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"exit code {process.exitcode}")
        process.close()

    return Way(start, joined)


def _ended_well(process: kin.Process) -> None:
    status = process.wait()
    if not status.success:
        raise RuntimeError(str(status))


def _preloaded() -> Way:
    """A function of ours, in a module that the keeper has loaded: without that, each start is an
    import too.
    """
    kin.preload(__name__)
    return Way(lambda: kin.spawn(nothing), _ended_well)


def _by_forkserver() -> Way:
    """The same advice is in multiprocessing's documentation."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return _by_multiprocessing("forkserver")


_WAYS: dict[str, Callable[[], Way]] = {
    "posix_spawn": lambda: Way(lambda: os.posix_spawn(_TRUE, [_TRUE], os.environ), _waited),
    "kin direct": lambda: Way(lambda: kin.spawn([_TRUE], containment="direct"), _ended_well),
    "kin keeper": lambda: Way(lambda: kin.spawn([_TRUE]), _ended_well),
    "kin function": _preloaded,
    "subprocess": lambda: Way(lambda: subprocess.Popen([_TRUE]), lambda process: process.wait()),
    "fork and exec": lambda: Way(_fork_and_exec, _waited),
    "mp fork": lambda: _by_multiprocessing("fork"),
    "mp forkserver": _by_forkserver,
    "mp spawn": lambda: _by_multiprocessing("spawn"),
}

ABOUT = (
    About("posix_spawn", "kernel", "blocking", "os.posix_spawn and os.waitpid"),
    About("kin direct", "kinfolk", "blocking", "kin.spawn of a program, containment=direct"),
    About("kin keeper", "kinfolk", "blocking", "kin.spawn of a program"),
    About(
        "kin function", "kinfolk", "blocking", "kin.spawn of a function; its module is preloaded"
    ),
    About("subprocess", "peer", "blocking", "subprocess.Popen and wait"),
    About("fork and exec", "kernel", "blocking", "os.fork, os.execv, os.waitpid"),
    About("mp fork", "peer", "blocking", "multiprocessing, start method fork, a function"),
    About(
        "mp forkserver",
        "peer",
        "blocking",
        "start method forkserver, a function of a module that is preloaded",
    ),
    About("mp spawn", "peer", "blocking", "start method spawn, a function"),
)


def cases() -> Iterator[Case]:
    """Every way from every parent."""
    for parent in PARENTS:
        for way in _WAYS:
            yield Case("processes", way, variant=parent)


@contextlib.contextmanager
def _being(parent: Parent) -> Iterator[None]:
    """Have its size and threads."""
    ballast = bytearray(parent.mebibytes << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])  # every page is resident
    over = threading.Event()
    crew = [threading.Thread(target=over.wait) for _ in range(parent.threads)]
    for thread in crew:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in crew:
            thread.join()


def perform(order: Order) -> Outcome:
    """Start and wait, so often."""
    way = _WAYS[order.case.subject]()
    with _being(PARENTS[order.case.variant]):
        way.finish(way.start())
        taken: list[tuple[float, float]] = []
        until = time.monotonic() + order.seconds
        while len(taken) < (order.count or _MOST) and (
            order.count or time.monotonic() < until or not taken
        ):
            begun = time.perf_counter()
            process = way.start()
            started = time.perf_counter()
            way.finish(process)
            taken.append(((started - begun) * 1e3, (time.perf_counter() - begun) * 1e3))
    starts, totals = zip(*taken, strict=True)
    return Outcome({"start": middle(starts), "total": middle(totals)}, len(taken))
