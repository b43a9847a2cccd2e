"""What a run has found, and the file that keeps it.

    Document
    ├── machine, settings, subjects     on what, how, and what with
    ├── results: [Result]               each case: every round's figures, the tail of all samples
    ├── verdicts: [Verdict]             --verify-claims
    └── missing, interrupted, others    what was not measured, and what else the machine did

Rules:
1. ``version`` is raised when a field changes its meaning or goes; a file of another version is
   refused, with a sentence. Fields may come without: a reader passes over those that it does not
   know.
2. Every round is kept: who doubts a median can look.
3. A case that could not be measured stands there too, with the reason. Nothing is left out in
   silence.
4. Nothing in the file names the machine, its user, or a path on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from kinfolk.bench.cases import METRICS, Case, Failure
from kinfolk.bench.machine import Machine
from kinfolk.bench.statistics import middle, spread
from kinfolk.errors import InvalidValue, from_os_error

FORMAT = "kinfolk-bench"
VERSION = 1


class About(msgspec.Struct, frozen=True):
    """A subject, as it was."""

    name: str
    family: str
    waiting: str
    why: str
    #: of its package; empty where it has none
    version: str = ""
    meets: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True):
    """How it was measured."""

    runs: int
    warmup: int
    seconds: float
    timeout: float
    placement: str
    #: seconds after which no turn begins; None: all rounds are whole
    within: float | None = None


class Result(msgspec.Struct):
    """A case, and what its rounds have found."""

    case: Case
    rounds: list[dict[str, float]] = []
    #: messages of a round
    count: int = 0
    #: of all samples of all rounds, in µs: p50 … max
    tail: dict[str, float] = {}
    failure: Failure | None = None

    def values(self, metric: str) -> list[float]:
        """A figure of each round."""
        return [found[metric] for found in self.rounds if metric in found]

    def figure(self, metric: str) -> float | None:
        """The median of the rounds."""
        values = self.values(metric)
        return middle(values) if values else None

    def spread(self, metric: str) -> float | None:
        """How far apart they lie, as a part of the median."""
        values = self.values(metric)
        return spread(values) if values else None

    @property
    def figures(self) -> tuple[str, ...]:
        """What every round has found."""
        return tuple(self.rounds[0]) if self.rounds else ()

    @property
    def main(self) -> str:
        """The figure that the case is about: the first of METRICS that it has."""
        found = self.rounds[0] if self.rounds else {}
        return next((metric for metric in METRICS if metric in found), "")


class Verdict(msgspec.Struct, frozen=True):
    """What became of a claim of the source."""

    name: str
    #: the claim, in a sentence
    claim: str
    #: the source's own words
    source: str
    #: holds, holds in part, does not hold, not measured
    holds: str
    #: what was found, with its figures
    found: str
    #: how they were got
    how: str
    figures: dict[str, float] = {}


class Document(msgspec.Struct):
    """All of a run."""

    machine: Machine
    settings: Settings
    #: UTC, to the second
    begun: str
    subjects: list[About] = []
    results: list[Result] = []
    verdicts: list[Verdict] = []
    #: peers that are not installed, and what to install
    missing: list[str] = []
    interrupted: bool = False
    #: the share of all CPUs that other programs used meanwhile
    others: float = 0.0
    seconds: float = 0.0
    format: str = FORMAT
    version: int = VERSION

    def find(self, case: Case) -> Result | None:
        """The result of a case."""
        return next((result for result in self.results if result.case == case), None)

    def measured(self, workload: str | None = None) -> list[Result]:
        """Results with figures, of one workload or of all."""
        return [
            result
            for result in self.results
            if result.rounds and workload in (None, result.case.workload)
        ]

    def about(self, subject: str) -> About | None:
        """The subject of that name."""
        return next((about for about in self.subjects if about.name == subject), None)


class _Header(msgspec.Struct):
    format: str = ""
    version: int = 0


def encode(document: Document) -> bytes:
    """The file."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def decode(data: bytes, name: str) -> Document:
    """Read it. Raises InvalidValue for what is none, or of another version."""
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.format != FORMAT:
            raise InvalidValue("these are no results of kin bench", subject=name)
        if header.version != VERSION:
            raise InvalidValue(
                f"its results are of version {header.version}",
                subject=name,
                why=f"this kinfolk reads version {VERSION}",
                remedy="measure again, or read it with the kinfolk that wrote it",
            )
        return msgspec.json.decode(data, type=Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(
            "these are no results of kin bench", subject=name, why=str(error)
        ) from None


def read(path: str) -> Document:
    """Read a file. Raises InvalidValue, NotFound, AccessDenied, …"""
    try:
        return decode(Path(path).read_bytes(), path)
    except OSError as error:
        raise from_os_error(error, "can't be read", path) from error


def in_order(results: Iterable[Result]) -> list[Result]:
    """By workload, variant, shape, size; in each the subjects; all as they come first."""
    workloads: dict[str, int] = {}
    variants: dict[str, int] = {}
    subjects: dict[str, int] = {}
    results = list(results)
    for result in results:
        workloads.setdefault(result.case.workload, len(workloads))
        variants.setdefault(result.case.variant, len(variants))
        subjects.setdefault(result.case.subject, len(subjects))
    return sorted(
        results,
        key=lambda result: (
            workloads[result.case.workload],
            variants[result.case.variant],
            result.case.senders,
            result.case.receivers,
            result.case.size,
            result.case.grows,
            subjects[result.case.subject],
        ),
    )
