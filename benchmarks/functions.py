"""How long a new process takes, from its start to its known end: programs, and Python functions.

    python benchmarks/functions.py [--rounds 100] [--threads 0]

Two runs, each in a fresh process: a small parent, and one with 1 GiB resident. In each round every way has its turn, so that
what else the machine does hits all alike. Medians in milliseconds; only ratios within one run mean anything. The first start
of each way (its server, its keeper) is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import kinfolk as kin

TRUE = "/bin/true"


def nothing() -> None:
    """The function."""


def posix_spawn() -> None:
    """The yardstick for programs."""
    os.waitpid(os.posix_spawn(TRUE, [TRUE], os.environ), 0)


def by_multiprocessing(method: str) -> Callable[[], None]:
    """A function, by a start method of multiprocessing."""
    context = multiprocessing.get_context(method)

    def start() -> None:
        process = context.Process(target=nothing)  # type: ignore[attr-defined]
        process.start()
        process.join()
        process.close()

    return start


WAYS: dict[str, Callable[[], object]] = {
    "os.posix_spawn": posix_spawn,
    "subprocess.run": lambda: subprocess.run([TRUE], check=True),
    "kin direct": lambda: kin.spawn([TRUE], containment="direct").wait(),
    "kin keeper": lambda: kin.spawn([TRUE]).wait(),
    "mp fork": by_multiprocessing("fork"),
    "mp forkserver": by_multiprocessing("forkserver"),
    "mp spawn": by_multiprocessing("spawn"),
    "kin function": lambda: kin.spawn(nothing).wait(),
}
SLOW = ("mp forkserver", "mp spawn")


def measure(rounds: int, mebibytes: int, threads: int) -> None:
    """One run in this process: print a table."""
    ballast = bytearray(mebibytes << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])  # every page is resident
    stop = threading.Event()
    crew = [threading.Thread(target=stop.wait) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for start in WAYS.values():
        start()
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds):
        for name, start in WAYS.items():
            if name in SLOW and number % 10:
                continue
            begin = time.perf_counter()
            start()
            times[name].append((time.perf_counter() - begin) * 1e3)
    stop.set()
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    yardstick = medians["os.posix_spawn"]
    print(f"\nparent: {mebibytes} MiB of ballast, {threads + 1} threads")
    for name, median in medians.items():
        quickest = min(times[name])
        print(f"  {name:16} {median:8.2f} ms  {median / yardstick:6.2f}  quickest {quickest:6.2f}")


def main() -> None:
    """Run for both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--mebibytes", type=int)
    given = parser.parse_args()
    if given.mebibytes is not None:
        measure(given.rounds, given.mebibytes, given.threads)
        return
    for mebibytes in (0, 1024):
        arguments = [
            f"--{name}={value}" for name, value in vars(given).items() if value is not None
        ]
        subprocess.run(
            [sys.executable, __file__, *arguments, f"--mebibytes={mebibytes}"], check=True
        )


if __name__ == "__main__":
    main()
