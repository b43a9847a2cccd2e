"""Rounds: their order, what is kept when one fails, when somebody interrupts, how long it still
takes; and the stages themselves.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kinfolk.bench import performing
from kinfolk.bench.cases import Case, Failure, Outcome
from kinfolk.bench.channel_subjects import SUBJECTS as CHANNELS
from kinfolk.bench.channel_subjects import address_of
from kinfolk.bench.performing import Stages
from kinfolk.bench.placement import order_of
from kinfolk.bench.results import Settings
from kinfolk.bench.runner import Runner, Turn
from kinfolk.bench.sizes import Shape
from kinfolk.bench.subject import Terms
from kinfolk.bench.subjects import ALL, version_of
from kinfolk.channels.mechanisms import SCHEMES
from tests.unit.keepers import _the_keeper_ends as _the_keeper_ends

SETTINGS = Settings(runs=3, warmup=1, seconds=0.01, timeout=20, placement="free")
CASES = [Case("stream", name, 48) for name in "abc"]


def test_every_case_has_its_turn_in_every_round_and_nobody_is_always_first():
    done = []

    def perform(case: Case, count: int | None) -> Outcome:
        done.append((case.subject, count))
        return Outcome({"rate": 1.0}, count=7)

    runner = Runner(CASES, SETTINGS, perform)
    runner.run()
    assert [subject for subject, _ in done] == list("abcbcacababc")
    assert [count for _, count in done] == [None] * 3 + [7] * 9  # found out once, then the same
    assert [len(result.rounds) for result in runner.results] == [3, 3, 3]


def test_a_failure_is_a_result_and_is_not_tried_again():
    done = []

    def perform(case: Case, count: int | None) -> Outcome:
        done.append(case.subject)
        failure = Failure("hung", "asleep") if case.subject == "b" else None
        return Outcome({"rate": 1.0}, count=1, failure=failure)

    runner = Runner(CASES, SETTINGS, perform)
    runner.run()
    assert done.count("b") == 1
    assert {r.case.subject: r.failure for r in runner.results}["b"] == Failure("hung", "asleep")


def test_who_interrupts_keeps_what_was_measured():
    def perform(case: Case, count: int | None) -> Outcome:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(case)
        return Outcome({"rate": 1.0}, count=1)

    done: list[Case] = []
    runner = Runner(CASES, SETTINGS, perform)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert [result.case.subject for result in runner.results] == ["b", "c"]


def test_the_time_that_is_left():
    now = [0.0]

    def perform(case: Case, count: int | None) -> Outcome:
        now[0] += 2.0
        return Outcome({"rate": 1.0}, count=1)

    turns = []
    Runner(CASES, SETTINGS, perform, lambda: now[0]).run(watch=turns.append)
    assert [turn.number for turn in turns] == list(range(12))
    assert turns[0].left is None
    assert [turn.left for turn in turns[1:]] == [2.0 * (12 - number) for number in range(1, 12)]


def within(seconds: float, cost: float = 2.0) -> tuple[Runner, list[Turn]]:
    """A run of 12 turns, each of so many seconds by its clock."""
    now, turns = [0.0], list[Turn]()

    def perform(case: Case, count: int | None) -> Outcome:
        now[0] += cost
        return Outcome({"rate": 1.0}, count=1)

    settings = msgspec.structs.replace(SETTINGS, within=seconds)
    runner = Runner(CASES, settings, perform, lambda: now[0])
    runner.run(watch=turns.append)
    return runner, turns


def test_what_has_to_be_over_in_time_has_fewer_rounds():
    runner, turns = within(15.0)
    assert len(turns) == 7  # the eighth would end at 16 s
    assert [len(result.rounds) for result in runner.results] == [1, 1, 2]
    assert runner.complete
    assert turns[-1].left == 3.0


def test_with_time_enough_nothing_is_left_out():
    runner, turns = within(24.0)
    assert (len(turns), runner.complete) == (12, True)


def test_a_case_that_had_no_turn_in_time_is_no_secret():
    runner, _ = within(9.0)  # one round of warm-up, and a case
    assert [result.case.subject for result in runner.results] == ["b"]
    assert not runner.complete


def test_placement_takes_one_cpu_of_each_core_first(monkeypatch):
    monkeypatch.setattr("kinfolk.bench.placement.core_of", lambda cpu: ("0", str(cpu // 2)))
    assert order_of({0, 1, 2, 3, 5}) == [0, 2, 5, 1, 3]


# ── stages ───────────────────────────────────────────────────────────────────────────────────


def perform(case: Case, **options: object) -> Outcome:
    usual: dict[str, Any] = {"seconds": 0.002, "timeout": 30, "placement": "free"}
    with Stages(**usual | options) as stages:
        return stages.perform(case, None)


@pytest.mark.parametrize("workload", ["round trip", "stream", "start-up"])
@pytest.mark.parametrize("subject", ["os.pipe", "kin pipe"])
def test_a_stage_measures(subject, workload):
    outcome = perform(Case(workload, subject, 48))
    assert outcome.failure is None
    assert outcome.count >= 1
    assert all(value >= 0 for value in outcome.metrics.values())
    main = {"round trip": "round_trip", "stream": "rate", "start-up": "first"}[workload]
    assert outcome.metrics[main] > 0


def test_many_to_many():
    outcome = perform(Case("stream", "posix_ipc mq", 48, 3, 3))
    assert outcome.failure is None
    assert outcome.count % 3 == 0


@pytest.mark.parametrize(
    "subject", [s for s in ALL if s.family == "peer" and s.package], ids=lambda s: s.name
)
def test_peers_that_are_installed(subject):
    if version_of(subject) is None:
        pytest.skip(f"{subject.package} is not installed")
    for workload in ("round trip", "stream"):
        assert perform(Case(workload, subject.name, 48)).failure is None


def test_every_mechanism_of_the_registry_takes_part():
    assert [subject.name for subject in CHANNELS] == [f"kin {scheme}" for scheme in SCHEMES]
    for scheme in SCHEMES:
        assert address_of(scheme, Terms(48, Shape(), "/tmp", "x")).startswith(f"{scheme}:")


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case("stream", "os.pipe", 48, 4, 1), "one process sends"),
        (Case("stream", "kin pipe", 48, 1, 4), "one process receives"),
        (Case("arrays", "socketpair", 48), "it moves bytes"),
        (Case("stream", "sysv_ipc mq", 64 << 20), "a message has"),
    ],
)
def test_what_a_subject_cannot_do_is_said(case, why):
    failure = perform(case).failure
    assert failure is not None
    assert failure.reason == "unsupported"
    assert why in failure.text


def test_one_that_hangs_is_cut_off_with_all_that_it_has_started(tmp_path):
    """And the report says where it slept. The program stands for a peer whose receiver is dead."""
    note = tmp_path / "pid"
    program = [
        sys.executable, "-c",
        f"import os, signal; pid = os.fork(); pid or open({str(note)!r}, "
        "'w').write(str(os.getpid())); signal.pause()",
    ]  # fmt: skip
    outcome = perform(Case("stream", "os.pipe", 48), program=program, timeout=0.5)
    assert outcome.failure is not None
    assert outcome.failure.reason == "hung"
    assert "silent for" in outcome.failure.text
    pid = int(note.read_text() or 0) if note.exists() else 0
    assert pid, "the test's own program did not get there"
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_one_that_dies_is_a_failure_that_says_how():
    program = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    failure = perform(Case("stream", "os.pipe", 48), program=program).failure
    assert failure is not None
    assert "SIGKILL" in failure.text


def test_the_last_words_of_one_that_fails():
    program = [sys.executable, "-c", "raise RuntimeError('no such peer')"]
    failure = perform(Case("stream", "os.pipe", 48), program=program).failure
    assert failure is not None
    assert "RuntimeError: no such peer" in failure.text


def test_a_line_that_comes_in_pieces():
    reading, writing = os.pipe()
    os.write(writing, b'{"a":')
    os.write(writing, b"1}\n")
    with contextlib.closing(os.fdopen(reading, "rb", buffering=0)):
        assert performing._line(reading, time.monotonic() + 10) == b'{"a":1}\n'
        os.write(writing, b"half")
        os.close(writing)
        assert performing._line(reading, time.monotonic() + 10) == b""


def until(holds: object, limit: float = 20.0) -> None:
    """Poll for what the kernel announces to nobody."""
    deadline = time.monotonic() + limit
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.002)
