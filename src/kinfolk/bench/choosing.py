"""Which mechanism to choose, computed from what was measured: for a message size, a number of ends,
and what one needs.

Rules:
1. The best is the best of this run, on this machine. What lies within a tenth of it is named beside
   it: another day it may win.
2. An end that spins is no answer to who did not ask for one: it has a line of its own.
3. What a mechanism meets is a fact of its own (`kinfolk.bench.subject.NEEDS`), not of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kinfolk.bench.cases import METRICS, Case
from kinfolk.bench.results import Document, Result

#: How much worse is as good.
_AS_GOOD = 1.1


class Need(NamedTuple):
    """What somebody asks for."""

    words: str
    meets: frozenset[str]
    waiting: str = "blocking"


NEEDS = (
    Need("nothing more", frozenset()),
    Need("crash-safe", frozenset({"crash-safe"})),
    Need("crash-safe, unrelated processes", frozenset({"crash-safe", "unrelated"})),
    Need("C programs take part", frozenset({"c-peers"})),
    Need("another machine, later", frozenset({"network"})),
    Need("a CPU may be burnt (spinning)", frozenset(), "spinning"),
)


class Choice(NamedTuple):
    """The answer to one question."""

    #: the best, and what is as good
    best: tuple[str, ...]
    metric: str
    value: float


class Advice(NamedTuple):
    """A row: a need, and the answer for each question."""

    need: Need
    choices: dict[Case, Choice]


def questions(document: Document) -> list[Case]:
    """The cases that are asked about, without a subject: workload, size, shape."""
    asked = [
        Case(case.workload, "", case.size, case.senders, case.receivers)
        for result in document.measured()
        if (case := result.case).workload in ("round trip", "stream")
    ]
    return sorted(
        dict.fromkeys(asked),
        key=lambda case: (case.size, case.senders, case.receivers, case.workload),
    )


def advice(document: Document) -> Iterator[Advice]:
    """For each need that something meets."""
    for need in NEEDS:
        choices = {
            question: choice
            for question in questions(document)
            if (choice := _choice(document, question, need)) is not None
        }
        if choices:
            yield Advice(need, choices)


def _choice(document: Document, question: Case, need: Need) -> Choice | None:
    those = [result for result in document.measured() if _answers(document, result, question, need)]
    metric = those[0].main if those else ""
    found = [(value, each.case.subject) for each in those if (value := each.figure(metric))]
    if not found:
        return None
    lower = METRICS[metric].better == "lower"
    ranked = sorted(found, reverse=not lower)
    best = ranked[0][0]
    as_good = [
        name for value, name in ranked if (value / best if lower else best / value) <= _AS_GOOD
    ]
    return Choice(tuple(as_good), metric, best)


def _answers(document: Document, result: Result, question: Case, need: Need) -> bool:
    case, about = result.case, document.about(result.case.subject)
    alike = Case(case.workload, "", case.size, case.senders, case.receivers) == question
    return (
        alike
        and about is not None
        and about.waiting == need.waiting
        and need.meets <= set(about.meets)
    )
