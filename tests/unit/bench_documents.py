"""Results of runs that never were, for what is made of results."""

from __future__ import annotations

from typing import Any

from kinfolk.bench.cases import Case, Failure
from kinfolk.bench.machine import Machine
from kinfolk.bench.results import About, Document, Result, Settings, Verdict

MACHINE = Machine(
    cpu="Abacus 3000", cpus=2, cores=2, memory_bytes=8 << 30, kernel="6.18.1",
    architecture="x86_64", libc="glibc 2.36", python="3.11.7", kinfolk="0.1.0",
)  # fmt: skip
SETTINGS = Settings(runs=3, warmup=1, seconds=0.1, timeout=20, placement="apart")


def trip(subject: str, *microseconds: float, size: int = 48) -> Result:
    """A round trip, of so many rounds."""
    rounds = [
        {
            "round_trip": us,
            "cpu_sender": us / 2,
            "cpu_receiver": us / 3,
            "switches": 2.0,
            "memory": 4096.0,
        }
        for us in microseconds
    ]
    tail = {"p50": min(microseconds), "p99": max(microseconds), "max": 10 * max(microseconds)}
    return Result(Case("round trip", subject, size), rounds, 1000, tail)


def stream(
    subject: str, *rates: float, size: int = 48, senders: int = 1, receivers: int = 1
) -> Result:
    """A stream, of so many rounds."""
    rounds = [
        {"rate": rate, "bytes_rate": rate * size, "cpu_sender": 1.0, "cpu_receiver": 2.0}
        for rate in rates
    ]
    return Result(Case("stream", subject, size, senders, receivers), rounds, 1000)


def about(name: str, family: str = "kinfolk", waiting: str = "blocking", *meets: str) -> About:
    """A subject."""
    return About(name, family, waiting, "as it is documented", "", meets)


def document(*results: Result, **fields: Any) -> Document:
    """A run."""
    subjects = [
        about("kin pipe", "kinfolk", "blocking", "crash-safe"),
        about("kin mq", "kinfolk", "blocking", "crash-safe", "unrelated"),
        about("os.pipe", "kernel"),
        about("racer", "peer", "spinning"),
    ]
    return Document(
        MACHINE, SETTINGS, "2026-01-02T03:04:05+00:00", subjects, list(results), **fields
    )


def full() -> Document:
    """Something for every section of the report."""
    hung = Result(
        Case("stream", "racer", 48),
        failure=Failure("hung", "asleep </script><b>in</b> futex_do_wait"),
    )
    grown = [
        Result(Case("channels", "kin pipe", 48, grows=count), [{"each": cost}])
        for count, cost in ((1, 1.0), (100, 1.0), (10_000, 9.0))
    ]
    sizes = (48, 4096, 1 << 20)
    trips = [
        trip(name, 10, 11, 12, size=size)
        for name in ("kin pipe", "os.pipe", "racer")
        for size in sizes
    ]
    streams = [
        stream(name, 1e5, 2e5, size=size) for name in ("kin pipe", "os.pipe") for size in sizes
    ]
    shaped = [stream("kin pipe", 1e4, senders=4), stream("kin mq", 2e4, senders=4, receivers=4)]
    start = Result(Case("start-up", "kin pipe", 48), [{"import": 30.0, "open": 4.0, "first": 0.1}])
    verdict = Verdict("x", "A <claim>.", "原文", "holds", "It was so: 3 & 4.", "Counted.")
    return document(
        *trips,
        *streams,
        *shaped,
        start,
        hung,
        *grown,
        verdicts=[verdict],
        missing=["pynng"],
        others=0.25,
    )
