"""A run of the bench: what is wished for becomes cases, the cases results, the results a document.

session = Session(names, suites, …)
try:     session.run(watch=…)
finally: session.document()         whatever was measured by then
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence

from kinfolk.bench import machine
from kinfolk.bench.claims.trial import CLAIM_PATIENCE, CLAIMS, verdict_of
from kinfolk.bench.performing import Stages
from kinfolk.bench.placement import Placement
from kinfolk.bench.results import About, Document, Settings, Verdict
from kinfolk.bench.runner import Runner, Turn
from kinfolk.bench.subject import Subject
from kinfolk.bench.subjects import chosen, version_of
from kinfolk.bench.workloads import SUITES, Wish
from kinfolk.errors import NotFound


class Session:
    """One run. Single use."""

    def __init__(
        self,
        names: Sequence[str],
        suites: Sequence[str],
        wish: Wish,
        *,
        peers: bool,
        runs: int,
        warmup: int,
        seconds: float,
        timeout: float,
        placement: Placement,
        within: float | None = None,
        verify_claims: bool = False,
    ) -> None:
        """With ``verify_claims`` the source's claims are put to the test at the end. Raises
        InvalidValue for a name that is none, NotFound when nothing that was named is installed.
        """
        wanted = chosen(names, peers=peers)
        versions = {subject.name: version_of(subject) for subject in wanted}
        self._subjects = [each for each in wanted if versions[each.name] is not None]
        missing = dict.fromkeys(each.package for each in wanted if versions[each.name] is None)
        self._missing = list(missing)
        if not self._subjects:
            raise NotFound(
                f"{', '.join(missing)} is not installed", remedy="pip install kinfolk[peers]"
            )
        self._settings = Settings(runs, warmup, seconds, timeout, placement, within)
        self._stages = Stages(seconds=seconds, timeout=timeout, placement=placement)
        cases = dict.fromkeys(
            case for name in suites for case in SUITES[name].cases(self._subjects, wish)
        )
        own = [about for name in suites for about in SUITES[name].about]
        measured = {case.subject for case in cases}
        self._about = [
            about
            for about in [*(_about(each, versions[each.name]) for each in self._subjects), *own]
            if about.name in measured
        ]
        self._runner = Runner(cases, self._settings, self._stages.perform)
        self._begun = datetime.datetime.now(datetime.UTC)
        self._clocks = machine.Clocks.now()
        self._started = time.monotonic()
        self._whole = False
        self._verify, self._verdicts = verify_claims, list[Verdict]()

    def run(self, *, watch: Callable[[Turn], None] = lambda turn: None) -> None:
        """Measure all of it; ``watch`` is told before each turn. Whatever ends it, the document has
        what was found.
        """
        with self._stages:
            self._runner.run(watch=watch)
        if self._verify:
            for number, claim in enumerate(CLAIMS):
                watch(Turn(claim.name, number, len(CLAIMS), None))
                patience = max(self._settings.timeout, CLAIM_PATIENCE)
                self._verdicts.append(verdict_of(claim, patience))
        self._whole = True

    def document(self) -> Document:
        """What is known by now."""
        return Document(
            machine=machine.describe(),
            settings=self._settings,
            begun=self._begun.isoformat(timespec="seconds"),
            subjects=self._about,
            results=self._runner.results,
            verdicts=self._verdicts,
            missing=self._missing,
            interrupted=not (self._whole and self._runner.complete),
            others=machine.used_by_others(self._clocks, self._runner.cpu),
            seconds=round(time.monotonic() - self._started, 3),
        )


def _about(subject: Subject, version: str | None) -> About:
    """As it is written into the document."""
    return About(
        subject.name,
        subject.family,
        subject.waiting,
        subject.why,
        version or "",
        tuple(sorted(subject.meets)),
    )
