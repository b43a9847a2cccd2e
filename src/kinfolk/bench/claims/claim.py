"""A claim of the source, and how a verdict about it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from kinfolk.bench.results import Verdict

Holds = Literal["holds", "holds in part", "does not hold", "not measured"]


class Found(NamedTuple):
    """What a test has found."""

    holds: Holds
    #: with the figures
    sentence: str
    figures: dict[str, float]


class Claim(NamedTuple):
    """What the source says."""

    name: str
    sentence: str
    #: in its own words
    source: str
    #: how it is put to the test
    how: str
    test: Callable[[], Found]

    def verdict(self, found: Found) -> Verdict:
        """For the document."""
        holds, sentence, figures = found
        return Verdict(self.name, self.sentence, self.source, holds, sentence, self.how, figures)
