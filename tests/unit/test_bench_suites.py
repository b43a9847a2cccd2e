"""The suites beside the data, the claims, and subjects that misbehave, in real stages."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest

from kinfolk.bench import growth_cases, lock_cases, waking_cases
from kinfolk.bench.cases import METRICS, Case, Order, Outcome
from kinfolk.bench.claims.claim import Claim, Found
from kinfolk.bench.claims.sampled import TOTAL, copying_time, time_in_copies
from kinfolk.bench.claims.trial import CLAIMS, _tested, verdict_of
from kinfolk.bench.forked import BodyFailed, together
from kinfolk.bench.lock_cases import VARIANTS
from kinfolk.bench.performing import Stages
from kinfolk.bench.results import Verdict
from kinfolk.bench.subjects import ALL, chosen, version_of
from kinfolk.bench.workloads import SUITES, Wish
from tests.unit.keepers import _the_keeper_ends as _the_keeper_ends


def perform(case: Case, **options: object) -> Outcome:
    usual: dict[str, Any] = {"seconds": 0.002, "timeout": 30, "placement": "free"}
    with Stages(**usual | options) as stages:
        return stages.perform(case, None)


@pytest.mark.parametrize("suite", SUITES)
def test_every_subject_of_a_suite_is_described(suite):
    subjects = chosen([], peers=True)
    described = {subject.name for subject in subjects}
    described |= {about.name for about in SUITES[suite].about}
    cases = list(SUITES[suite].cases(subjects, Wish()))
    assert cases
    assert len(set(cases)) == len(cases)
    assert {case.subject for case in cases} <= described


@pytest.mark.parametrize(
    ("case", "metric"),
    [
        *((Case("locks", "kin.Mutex", variant=variant), "") for variant in VARIANTS),
        (Case("locks", "fcntl.lockf", variant="acquire, release"), "pair"),
        (Case("waking", "kin.Event", variant="to and fro"), "answer"),
        (Case("one core", "os.pipe", 48), "round_trip"),
        (Case("one by one", "kin mq", 48), "rate"),
        (Case("batches", "kin pipe", 48), "rate"),
        (Case("arrays", "kin pipe", 1 << 16), "rate"),
        (Case("arrays", "memcpy", 1 << 16), "rate"),
        (Case("arrays", "memcpy, read", 1 << 16), "rate"),
        (Case("idle", "os.pipe", 48), "idle"),
        (Case("processes", "posix_spawn", variant="small"), "total"),
        (Case("processes", "kin direct", variant="small"), "total"),
        (Case("channels", "kin pipe", grows=20), "each"),
        (Case("channels", "os.pipe", grows=20), "each"),
        (Case("segments", "kin memfd", grows=1 << 20), "each"),
        (Case("segments", "kin posix", grows=1 << 20), "each"),
        (Case("messages", "os.pipe", 48, grows=100), "each"),
        (Case("ends", "kin pipe", 48, senders=3, grows=3), "each"),
    ],
    ids=lambda part: part.key if isinstance(part, Case) else None,
)
def test_a_case_of_each_kind(case, metric):
    outcome = perform(case)
    assert outcome.failure is None
    assert set(outcome.metrics) <= set(METRICS)
    assert not metric or metric in outcome.metrics
    assert all(value >= 0 for value in outcome.metrics.values())


def order(case: Case) -> Order:
    return Order(case, 0.001, None, "free", "", "x")


@pytest.mark.parametrize("name", lock_cases._LOCKS)
def test_each_lock_can_be_taken_and_released(name):
    outcome = lock_cases.perform(order(Case("locks", name, variant="acquire, release")))
    assert outcome.metrics.keys() == {"pair"}


@pytest.mark.parametrize("case", list(waking_cases.cases()), ids=lambda case: case.key)
def test_each_that_wakes_does(case):
    assert waking_cases.perform(order(case)).metrics.keys() <= {"answer", "call"}


def test_kills_are_as_many_as_were_asked_for():
    """And each of them has its place in the tail."""
    with Stages(seconds=0.002, timeout=30, placement="free") as stages:
        outcome = stages.perform(Case("locks", "kin.Mutex", variant="next holder"), 3)
    assert outcome.failure is None
    assert (outcome.count, len(outcome.samples)) == (3, 3 * 8)


#: The others are one of these with another address, or another library's.
ONE_OF_EACH = ("kin pipe", "kin unix", "kin ring", "mp.Pipe", "mp.Queue", "posix_ipc mq")


@pytest.mark.parametrize("workload", ["arrays", "hand-over", "batches"])
@pytest.mark.parametrize(
    "subject",
    [each for each in ALL if each.package or each.name in ONE_OF_EACH],
    ids=lambda subject: subject.name,
)
def test_who_says_that_he_can_do_it_can(subject, workload):
    """What a subject declares, and what its ends have, is the same."""
    if version_of(subject) is None:
        pytest.skip(f"{subject.package} is not installed")
    can = {"arrays": subject.objects, "hand-over": subject.in_place}
    if can.get(workload) is False:
        pytest.skip("it says that it can't")
    failure = perform(Case(workload, subject.name, 48)).failure
    if workload == "batches" and failure is not None:
        assert failure.reason == "unsupported"
        assert failure.text.endswith(": a call moves one message")
    else:
        assert failure is None


def test_a_lock_that_its_dead_holder_keeps_is_a_result():
    failure = perform(Case("locks", "multiprocessing.Lock", variant="next holder")).failure
    assert failure is not None
    assert failure.reason == "hung"
    assert "nobody had it" in failure.text


@pytest.mark.parametrize("subject", ["os.pipe", "kin pipe"])
def test_more_channels_than_one_process_may_have_are_held_by_several(subject, monkeypatch):
    limit = len(os.listdir("/proc/self/fd")) + growth_cases._SPARE + 50
    monkeypatch.setattr(growth_cases, "_most_descriptors", lambda: limit)
    outcome = growth_cases.perform(order(Case("channels", subject, grows=60)))
    assert outcome.failure is None
    assert outcome.metrics["each"] > 0


def test_more_channels_than_descriptors_is_said():
    failure = perform(Case("channels", "os.pipe", grows=10**9)).failure
    assert failure is not None
    assert failure.reason == "unsupported"
    assert "descriptors are needed" in failure.text


# ── subjects that misbehave ──────────────────────────────────────────────────────────────────

# The stage's own program, with one more subject in its registry.
STAGE = """
import os, signal, sys
from kinfolk.bench import kernel_subjects, stage, subjects
from kinfolk.bench.subject import Inlet, Outlet, Subject, Wiring

class Wired(kernel_subjects._Pipe):
    def inlet(self, number):
        inlet = super().inlet(number)
        take = inlet.take
        taken = [0]
        def misbehaving():
            taken[0] += 1
            if taken[0] == 3:
                {misbehaviour}
            return take()
        return Inlet(misbehaving)

subjects._BY_NAME["bad"] = Subject("bad", "peer", Wired, "badly")
sys.exit(stage.main())
"""


def misbehaving(misbehaviour: str, **options: object) -> tuple[str, str]:
    program = [sys.executable, "-c", STAGE.format(misbehaviour=misbehaviour)]
    failure = perform(Case("stream", "bad", 48), program=program, **options).failure
    assert failure is not None
    return failure.reason, failure.text


def test_a_well_behaved_one_is_measured():
    """The control: it is not the program that fails."""
    program = [sys.executable, "-c", STAGE.format(misbehaviour="pass")]
    assert perform(Case("stream", "bad", 48), program=program).failure is None


def test_one_that_hangs_is_cut_off_and_the_report_says_where():
    reason, text = misbehaving("signal.pause()", timeout=1.0)
    assert reason == "hung"
    assert "cut off" in text
    assert re.search(r"its processes were in \w+", text)
    assert "nobody knows" not in text


def test_one_that_loses_a_message_is_found_out():
    reason, text = misbehaving("take()", timeout=1.0)
    assert reason == "hung"  # it waits for what never comes
    assert text


def test_one_that_spoils_a_message_is_found_out():
    reason, text = misbehaving("return take()[:-1] + b'!'")
    assert reason == "failed"
    assert "WrongMessage" in text


def test_one_that_crashes_is_named_with_its_signal():
    reason, text = misbehaving("os.kill(os.getpid(), signal.SIGSEGV)")
    assert reason == "failed"
    assert text == "the receiver was killed by SIGSEGV"


def test_one_that_raises_says_what():
    reason, text = misbehaving("raise OSError('no room')")
    assert (reason, text) == ("failed", "receiver: OSError: no room")


# ── claims ───────────────────────────────────────────────────────────────────────────────────


#: What is no matter of speed, and so the same on every machine.
CERTAIN = {
    "pipe-page": "does not hold",
    "queue-copies": "holds",
    "shared-locks": "holds",
    "semaphore-data": "holds",
    "relatives": "does not hold",
    "datagrams": "holds",
}


# The program of a claim, with little of everything: what is looked at here is not how fast
# something is.
LITTLE = """
import sys
from kinfolk.bench.claims import copies, copying, datagrams, forking, sampled, sockets, trial
copies._LARGE, copies._ROUNDS = 1 << 16, 1
copies._FILLINGS = tuple(filling[:copies._LARGE] for filling in copies._FILLINGS)
copying._CALLS, copying._ROUNDS = 5, 2
datagrams._SENT = 2000
forking._SIZES, forking._ROUNDS = (0, 1 << 20), 2
sampled.copying_time = lambda kind: None
sockets._ROUNDS, sockets._TRIPS, sockets._STREAM = 2, 20, 1 << 20
sys.exit(trial.main())
"""


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_each_claim_gets_a_verdict(claim):
    verdict = verdict_of(claim, 100, [sys.executable, "-c", LITTLE])
    check(verdict)


@pytest.mark.soak
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_each_claim_gets_a_verdict_as_it_is(claim):
    check(verdict_of(claim, 300))


def check(verdict: Verdict) -> None:
    assert verdict.holds in ("holds", "holds in part", "does not hold"), verdict.found
    assert verdict.figures
    assert verdict.found.endswith(".")
    assert verdict.how.endswith(".")
    assert verdict.source
    assert verdict.holds == CERTAIN.get(verdict.name, verdict.holds)


def test_a_claim_whose_test_fails_is_not_measured(capfd):
    def test() -> Found:
        raise OSError("no queues here")

    verdict = _tested(Claim("x", "X.", "某", "Somehow.", test))
    assert (verdict.holds, verdict.found) == ("not measured", "OSError: no queues here")
    assert "Traceback" in capfd.readouterr().err


PERF = """
# Samples: 415  of event 'cpu-clock:k'
# Event count (approx.): 100000000
#
    20.00%  [k] rep_movs_alternative
     5.00%  [k] _copy_to_iter
     4.82%  [k] fdget
    70.00%  [.] main
"""


def test_what_perf_says_of_copies():
    assert time_in_copies(PERF) == pytest.approx(0.25 * 100_000_000 / TOTAL)
    assert time_in_copies("no samples") is None


def test_without_perf_nothing_is_guessed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert copying_time("POSIX") is None


def test_a_body_that_fails_is_heard(capfd):
    def body() -> int:
        raise ValueError("bad")

    with pytest.raises(BodyFailed):
        together(body)
    assert "ValueError: bad" in capfd.readouterr().err
    assert together(lambda: 1, lambda: {"a": [2]}) == [1, {"a": [2]}]
