"""One thing to be measured once: which subject, in which workload, of which size and shape; and
what came of it.

    runner ── Order ──> stage (a fresh process) ── Outcome ──> runner

Both travel as JSON: the stage is another process.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from kinfolk.bench.placement import Placement

Better = Literal["lower", "higher"]


class Metric(NamedTuple):
    """What a figure is."""

    unit: str
    better: Better
    meaning: str


#: Every figure that there can be, by its key in the results. New ones may come; none changes its
#: meaning.
METRICS: dict[str, Metric] = {
    "each": Metric("µs", "lower", "for each, as there are more"),
    "round_trip": Metric("µs", "lower", "until the answer to a message is there, median"),
    "hand_over": Metric(
        "µs", "lower", "from the wish for memory until the other process has what is in it, median"
    ),
    "answer": Metric("µs", "lower", "from a wake-up to the answer, both asleep"),
    "idle": Metric("%", "lower", "of a CPU, for an end that waits"),
    "rate": Metric("msg/s", "higher", "messages a second, of all senders together"),
    "bytes_rate": Metric("B/s", "higher", "payload a second"),
    "cpu_sender": Metric("µs", "lower", "CPU time of all sending processes, per message"),
    "cpu_receiver": Metric("µs", "lower", "CPU time of all receiving processes, per message"),
    "switches": Metric("", "lower", "context switches of all processes, per message"),
    "faults": Metric("", "lower", "page faults of all processes, per message"),
    "memory": Metric("B", "lower", "memory that all processes gain, shared pages by share"),
    "import": Metric("ms", "lower", "import of the library, in a fresh interpreter"),
    "open": Metric("ms", "lower", "until both ends are open, in processes of their own"),
    "first": Metric("ms", "lower", "from there until the first message has arrived"),
    "total": Metric("ms", "lower", "from the call until the end of the process is known"),
    "start": Metric("ms", "lower", "until the call returns"),
    "call": Metric("ns", "lower", "one call, by one process"),
    "pair": Metric("ns", "lower", "acquire and release"),
    "pairs": Metric("M/s", "higher", "acquire and release, of two processes together"),
    "takeover": Metric("ms", "lower", "from the SIGKILL of the holder until who waits has it"),
}  # fmt: skip


class Case(msgspec.Struct, frozen=True):
    """What is measured. Two with the same fields are the same, in whatever run."""

    workload: str
    subject: str
    #: bytes of a message; 0 where there are no messages
    size: int = 0
    senders: int = 1
    receivers: int = 1
    #: what grows, where something does: messages, ends, channels, bytes
    grows: int = 0
    #: how it differs from another case of the same workload: the parent's size …
    variant: str = ""

    @property
    def key(self) -> str:
        """One word, for people who look for it in a file."""
        parts = [self.workload, self.subject]
        parts += [f"{self.size}B"] if self.size else []
        parts += (
            [f"{self.senders}x{self.receivers}"] if (self.senders, self.receivers) != (1, 1) else []
        )
        parts += [str(self.grows)] if self.grows else []
        parts += [self.variant] if self.variant else []
        return "/".join(parts)


class Order(msgspec.Struct, frozen=True):
    """How a stage is to measure a case."""

    case: Case
    #: seconds that the measured part should take
    seconds: float
    #: messages; None before anybody knows how many take so long
    count: int | None
    placement: Placement
    directory: str
    #: which round it is; no two wirings of a run have the same name
    name: str


#: How many times longer than asked for a case may take whose amount of work is given.
LONGER = 30

Reason = Literal["unsupported", "missing", "hung", "failed"]


class Failure(msgspec.Struct, frozen=True):
    """Why there are no figures."""

    reason: Reason
    text: str


class Outcome(msgspec.Struct):
    """What one stage found."""

    metrics: dict[str, float] = {}
    #: of how many messages
    count: int = 0
    #: each round trip in nanoseconds, where there are such; array of native 64-bit numbers
    samples: bytes = b""
    failure: Failure | None = None
    #: CPU seconds of the stage and its participants, from their start to their end
    cpu: float = 0.0
