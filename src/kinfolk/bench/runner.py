"""Measures cases in rounds: every case has its turn in every round, and each turn is a fresh
process.

    round 0 (warm-up)   a b c d …     how many messages fill the time; its figures are not kept
    round 1             b c d … a     nobody is always behind the same one
    round 2             c d … a b

Rules:
1. What else the machine does hits all subjects alike, for all have their turn within seconds.
   Figures of different runs may not be compared with each other without a common yardstick.
2. A case that fails or hangs in one round is not tried again: its failure is its result.
3. Whoever interrupts the run keeps what was measured: `Runner.results` is up to date after every
   turn.
4. Where all of it has a limit, no turn begins that would end later, as far as one can tell; the
   cases then have fewer rounds, and each of them says how many.
5. How a case is performed is handed in, and so is the clock: a test has its own.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kinfolk.bench.cases import Case, Outcome
from kinfolk.bench.results import Result, Settings
from kinfolk.bench.statistics import tail

#: Performs one case once; `count` is None while nobody knows how many messages fill the time.
Perform = Callable[[Case, int | None], Outcome]

#: Samples that are kept of each case, of all rounds together.
_MOST_SAMPLES = 2_000_000


class Turn(NamedTuple):
    """What is done next, for who watches."""

    what: str
    #: from 0 to ``of`` - 1
    number: int
    of: int
    #: seconds that all the rest will take, as far as one can tell; None at first
    left: float | None


class Runner:
    """Measures some cases."""

    def __init__(
        self,
        cases: Iterable[Case],
        settings: Settings,
        perform: Perform,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``perform`` does one case once."""
        self._settings, self._perform, self._clock = settings, perform, clock
        self._results = {case: Result(case) for case in cases}
        self._samples: dict[Case, array[int]] = {}
        #: CPU seconds of what was performed
        self.cpu = 0.0

    @property
    def results(self) -> list[Result]:
        """What is known by now; cases that have not had a turn are not there."""
        for case, samples in self._samples.items():
            self._results[case].tail = tail([sample / 1e3 for sample in samples])
        return [result for result in self._results.values() if result.rounds or result.failure]

    @property
    def complete(self) -> bool:
        """Whether each case has a figure, or a reason why it has none."""
        return all(result.rounds or result.failure for result in self._results.values())

    def run(self, *, watch: Callable[[Turn], None] = lambda turn: None) -> None:
        """All rounds; ``watch`` is told before each turn."""
        begun = self._clock()
        turns = list(self._turns())
        within = math.inf if self._settings.within is None else self._settings.within
        for number, (case, counts) in enumerate(turns):
            result = self._results[case]
            spent = self._clock() - begun
            left = spent / number * (len(turns) - number) if number else None
            if result.failure is not None:
                continue
            if number and spent + spent / number > within:
                return
            left = left if left is None else min(left, within - spent)
            watch(Turn(case.key, number, len(turns), left))
            self._take(result, self._perform(case, result.count or None), counts=counts)

    def _turns(self) -> Iterator[tuple[Case, bool]]:
        cases = list(self._results)
        for number in range(self._settings.warmup + self._settings.runs):
            place = number % len(cases) if cases else 0
            for case in cases[place:] + cases[:place]:
                yield case, number >= self._settings.warmup

    def _take(self, result: Result, outcome: Outcome, *, counts: bool) -> None:
        self.cpu += outcome.cpu
        if outcome.failure is not None:
            result.failure = outcome.failure
            return
        result.count = outcome.count // max(1, result.case.senders)
        if not counts:
            return
        result.rounds.append(outcome.metrics)
        if outcome.samples:
            samples = self._samples.setdefault(result.case, array("Q"))
            if len(samples) < _MOST_SAMPLES:
                samples.frombytes(outcome.samples)
