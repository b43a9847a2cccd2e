"""How long a new process takes: programs and Python functions, by kinfolk and by its peers, in one run.

    python benchmarks/processes.py [--rounds 200] [--repeat 3] [--write]

    start    until the call returns: posix_spawn's and ours when the program runs, fork's and multiprocessing's before
    total    until its end is known, which is what the ratios and targets are about

Three parents, each a fresh process: a small one, one with 1 GiB resident, and that with 50 threads. There are three groups of ways,
one after the other: programs, functions, and what forks the parent, which write-protects its memory, so that whoever is next pays for
it. In each round every way of the group has its turn, in another order: what else the machine does hits all alike, and only ratios within
one run mean anything. Ways that take long have fewer rounds. The first start of each (its server, its keeper) is not
counted. Of the repetitions, which take the parents in turn, the medians count.

Ends with 0 if every target is met, else with 1. ``--write`` puts the figures into benchmarks/results/processes.json.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

TRUE = "/bin/true"
RESULTS = Path(__file__).parent / "results" / "processes.json"


class Parent(NamedTuple):
    """From what is started."""

    mebibytes: int
    threads: int


PARENTS = {
    "small": Parent(0, 0),
    "1 GiB": Parent(1024, 0),
    "1 GiB, 50 threads": Parent(1024, 50),
}


class Target(NamedTuple):
    """What the total of a way may be at most."""

    way: str
    most: float
    #: of posix_spawn's total; None: milliseconds
    relative: bool


TARGETS = (
    Target("kin direct", 1.15, relative=True),
    Target("kin keeper", 1.4, relative=True),
    Target("kin function", 5, relative=False),
)


# ── what is measured ─────────────────────────────────────────────────────────────────────────


class Way(NamedTuple):
    """One way to start a process, and to learn of its end."""

    start: Callable[[], Any]
    finish: Callable[[Any], object]
    group: str = "programs"
    #: the part of the rounds that it takes part in
    part: float = 1


def nothing() -> None:
    """The function."""


def succeeded(ended: tuple[int, int]) -> None:
    """What waitpid has given is no failure."""
    if ended[1]:
        raise RuntimeError(f"status {ended[1]}")


def fork_and_exec() -> int:
    """As the old texts have it."""
    pid = os.fork()
    if pid == 0:
        os.execv(TRUE, [TRUE])
    return pid


def by_multiprocessing(method: str) -> Callable[[], Any]:
    """A function, by a start method of multiprocessing."""
    context: Any = multiprocessing.get_context(method)

    def start() -> Any:
        process = context.Process(target=nothing)
        process.start()
        return process

    return start


def joined(process: Any) -> None:
    """Wait as multiprocessing does."""
    process.join()
    if process.exitcode:
        raise RuntimeError(f"exit code {process.exitcode}")
    process.close()


def ended_well(process: Any) -> None:
    """Wait as kinfolk does."""
    if not process.wait().success:
        raise RuntimeError(process.status)


def ways() -> dict[str, Way]:
    """All of them; the yardstick first."""
    import kinfolk as kin  # not above: multiprocessing's spawn imports this file anew each time

    def waited(pid: int) -> None:
        succeeded(os.waitpid(pid, 0))

    return {
        "posix_spawn": Way(lambda: os.posix_spawn(TRUE, [TRUE], os.environ), waited),
        "subprocess": Way(lambda: subprocess.Popen([TRUE]), lambda process: process.wait()),
        "kin direct": Way(lambda: kin.spawn([TRUE], containment="direct"), ended_well),
        "kin keeper": Way(lambda: kin.spawn([TRUE]), ended_well),
        "kin function": Way(lambda: kin.spawn(nothing), ended_well, "functions", part=0.25),
        "mp forkserver": Way(by_multiprocessing("forkserver"), joined, "functions", part=0.05),
        "mp spawn": Way(by_multiprocessing("spawn"), joined, "functions", part=0.05),
        "fork and exec": Way(fork_and_exec, waited, "forks", part=0.05),
        "mp fork": Way(by_multiprocessing("fork"), joined, "forks", part=0.05),
    }


@contextlib.contextmanager
def being(parent: Parent) -> Iterator[None]:
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


Times = dict[str, list[tuple[float, float]]]


def measured(rounds: int) -> Times:
    """Milliseconds until started and until ended, of each way."""
    found: Times = {}
    everything = ways()
    for group in ("programs", "functions", "forks"):
        those = {name: way for name, way in everything.items() if way.group == group}
        for way in those.values():
            way.finish(way.start())
        for number in range(rounds):
            names = list(those)
            for place in range(len(names)):  # nobody is always behind the same one
                name = names[(place + number) % len(names)]
                way = those[name]
                if int(number * way.part) == int((number - 1) * way.part) and number:
                    continue
                begun = time.perf_counter()
                process = way.start()
                started = time.perf_counter()
                way.finish(process)
                ended = time.perf_counter()
                times = (started - begun) * 1e3, (ended - begun) * 1e3
                found.setdefault(name, []).append(times)
    return found


# ── what is made of it ───────────────────────────────────────────────────────────────────────

Row = dict[str, float]


def rows(times: Times) -> dict[str, Row]:
    """Medians, and what they are of the yardstick's."""
    medians = {
        name: [statistics.median(column) for column in zip(*taken, strict=True)]
        for name, taken in times.items()
    }
    yardstick = medians["posix_spawn"]
    return {
        name: {
            "start_ms": start,
            "total_ms": total,
            "start_ratio": start / yardstick[0],
            "total_ratio": total / yardstick[1],
        }
        for name, (start, total) in medians.items()
    }


def combined(repetitions: list[dict[str, Row]]) -> dict[str, Row]:
    """The median of each figure."""
    return {
        name: {
            figure: round(statistics.median(each[name][figure] for each in repetitions), 3)
            for figure in row
        }
        for name, row in repetitions[0].items()
    }


def verdicts(table: dict[str, dict[str, Row]]) -> list[dict[str, Any]]:
    """Each target for each parent, and whether it is met."""
    return [
        {
            "parent": parent,
            "way": target.way,
            "unit": "of posix_spawn" if target.relative else "ms",
            "most": target.most,
            "measured": (value := found[target.way][figure]),
            "met": value <= target.most,
        }
        for target in TARGETS
        for figure in ("total_ratio" if target.relative else "total_ms",)
        for parent, found in table.items()
    ]


def machine() -> dict[str, Any]:
    """Where it ran, and what."""
    import kinfolk as kin

    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30),
        "kernel": platform.release().partition("-")[0],
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "kinfolk": kin.__version__,
    }


def used_by_others(since: tuple[float, float, float]) -> float:
    """The share of all CPUs that others have used since then, of what was there."""
    own, busy, elapsed = (now - then for now, then in zip(clocks(), since, strict=True))
    return round(max(0.0, busy - own) / (elapsed * (os.cpu_count() or 1)), 3)


def clocks() -> tuple[float, float, float]:
    """Seconds: of CPU, of this process and its children that have ended; of all; on the wall."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
    )
    ticks = user + nice + system + irq + softirq + steal
    return own, ticks / os.sysconf("SC_CLK_TCK"), time.monotonic()


def show(table: dict[str, dict[str, Row]], targets: list[dict[str, Any]]) -> None:
    """Print it."""
    for parent, found in table.items():
        print(
            f"\n{parent + ' parent':20} {'start, ms':>10} {'total, ms':>10} {'of posix_spawn':>16}"
        )
        for name, row in found.items():
            print(
                f"  {name:18} {row['start_ms']:10.2f} {row['total_ms']:10.2f} {row['total_ratio']:16.2f}"
            )
    print()
    for each in targets:
        verdict = "met" if each["met"] else "MISSED"
        limit = f"{each['measured']:.2f} {each['unit']}, {each['most']:g} at most"
        print(f"  {each['way']:14} {each['parent']:20} {limit:34} {verdict}")


def in_fresh_process(parent: str, rounds: int) -> dict[str, Row]:
    """The rows of one parent."""
    words = [sys.executable, __file__, f"--rounds={rounds}", f"--parent={parent}"]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> int:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200, help="of each parent")
    parser.add_argument(
        "--repeat", type=int, default=3, help="how often the parents have their turn"
    )
    parser.add_argument("--write", action="store_true", help=f"to {RESULTS.name} as well")
    parser.add_argument("--parent", choices=PARENTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.parent is not None:
        with being(PARENTS[given.parent]):
            print(json.dumps(rows(measured(given.rounds))))
        return 0
    begun = clocks()
    runs: dict[str, list[dict[str, Row]]] = {name: [] for name in PARENTS}
    for _ in range(given.repeat):
        for name, repetitions in runs.items():
            repetitions.append(in_fresh_process(name, given.rounds))
    others = used_by_others(begun)
    table = {name: combined(repetitions) for name, repetitions in runs.items()}
    targets = verdicts(table)
    show(table, targets)
    print(f"\n  others used {100 * others:.0f} % of the CPUs meanwhile")
    if given.write:
        result = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "machine": machine(),
            "used_by_others": others,
            "rounds": given.rounds,
            "repetitions": given.repeat,
            "targets": targets,
            "parents": table,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(each["met"] for each in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
