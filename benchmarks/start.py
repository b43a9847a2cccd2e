"""How long a program takes to start and end: kinfolk's direct spawn against os.posix_spawn, in one run.

    python benchmarks/start.py [ROUNDS]

Both start /bin/true and wait for it, in turn, so that both meet the same moments of the machine. Only the ratio of the
medians means anything. Three parents: as it is; with 1 GiB resident; and with 50 threads beside that.
"""

from __future__ import annotations

import gc
import mmap
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable

from kinfolk import _native
from kinfolk.processes.direct import Direct
from kinfolk.processes.options import prepared
from kinfolk.processes.process import Process

PROGRAM = "/bin/true"
TARGET = 1.15


def by_kinfolk() -> None:
    """The whole way: options checked, started, contained, watched, waited for."""
    launch, streams = prepared([PROGRAM], {}, "direct")
    process = Process(Direct(launch), PROGRAM, streams)
    streams.started()
    if not process.wait().success:
        raise RuntimeError(process.status)


def by_native() -> None:
    """The bare native call, waited for by pid."""
    launch, _ = prepared([PROGRAM], {}, "direct")
    started: list[int] = []
    _native.spawn(launch, started)
    os.waitpid(started[0], 0)


def by_posix_spawn() -> None:
    """What the standard library has."""
    pid = os.posix_spawn(PROGRAM, [PROGRAM], os.environ)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("it failed")


def by_fork() -> None:
    """fork and exec, as the old texts have it."""
    pid = os.fork()
    if pid == 0:
        os.execv(PROGRAM, [PROGRAM])
    os.waitpid(pid, 0)


def medians(rounds: int, ways: list[Callable[[], None]]) -> list[float]:
    """Milliseconds, a way after the other in each round."""
    times: list[list[float]] = [[] for _ in ways]
    for number in range(rounds):
        for place in range(len(ways)):  # nobody is always first
            which = (place + number) % len(ways)
            before = time.perf_counter()
            ways[which]()
            times[which].append(time.perf_counter() - before)
    return [1000 * statistics.median(each) for each in times]


def report(parent: str, rounds: int) -> bool:
    """One line; whether the target is met."""
    medians(rounds // 10, [by_kinfolk, by_posix_spawn])  # warm
    ours, native, theirs = medians(rounds, [by_kinfolk, by_native, by_posix_spawn])
    (forked,) = medians(max(3, rounds // 20), [by_fork])
    ratio = ours / theirs
    print(
        f"{parent:28} kinfolk {ours:6.3f} ms   posix_spawn {theirs:6.3f} ms   ratio {ratio:5.3f}"
        f"   (native alone {native / theirs:5.3f}, fork and exec {forked / theirs:6.2f})"
    )
    return ratio <= TARGET


def main() -> int:
    """0 if every ratio is within the target."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    met = [report("a small parent", rounds)]
    memory = mmap.mmap(-1, 1 << 30)
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    met.append(report("1 GiB resident", rounds))
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(50)]
    for thread in threads:
        thread.start()
    met.append(report("1 GiB resident, 50 threads", rounds))
    over.set()
    for thread in threads:
        thread.join()
    memory.close()
    gc.collect()
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
