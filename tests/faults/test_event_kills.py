"""kill -9 in the middle of an event: at every instruction of what is done to it, and at random moments.

who is killed                          who waits
setting it, before it is set           waits on, for another who sets it
… after that                           goes: the kernel wakes one of them, who wakes the others
waiting, asleep or woken               goes, whoever was to wake the others
clearing it, or setting it again       goes, though a setter was stopped in the middle, and dies later
"""

from __future__ import annotations

import pytest

from tests.faults.harness import Build, broken

SOURCES = ("event", "mutex", "mutex_wait", "robust", "sync_object")

#: Every so many instructions, in the short run; the long one takes each.
CASES = {
    "set": 1,
    "set-and-clear": 2,
    "wait": 4,
    "relay": 2,
    "time-out": 4,
    "interrupt": 4,
    "clear": 1,
    "set-again": 2,
    "make": 200,
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    return Build(c_compiler, tmp_path_factory.mktemp("event_kills"))


@pytest.fixture(scope="module")
def event(build):
    return build("event", "event_cases.c", SOURCES)


@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_wherever_one_is_killed(case, event):
    assert event.steps(case, every=CASES[case]).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_nobody_is_stuck_at_any_instruction(case, event):
    assert event.steps(case).flawless


def test_the_waiter_is_killed_asleep_and_awake(event):
    outcome = event.steps("relay", every=4)
    assert 0 < outcome.asleep < outcome.points


@pytest.mark.parametrize("case", ["set", "set-and-clear", "relay", "clear"])
def test_kills_at_random(case, event):
    assert event.storm(case, 150, longest=100).flawless


@pytest.mark.soak
@pytest.mark.parametrize("case", ["set", "set-and-clear", "relay", "clear"])
def test_two_thousand_kills_at_random(case, event):
    assert event.storm(case, 2000, longest=100).flawless


WAKING = "    kin_futex_wake(&event->word, INT_MAX);\n    change(event, word, word & ~WAKING);\n"


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        # Each takes away something that keeps those who wait from sleeping for ever.
        ("set", [("    begin(thread, event);\n    do {\n", "    do {\n")]),
        ("relay", [("    begin(thread, event);\n    int result", "    int result")]),
        ("relay", [("        wake_all(event, word); /* rule 2 */", "        {}")]),
        ("clear", [("            wake_all(event, word); /* rule 3 */", "            {}"), ("word & ~WAKING, cleared", "word, cleared")]),
        ("set", [(WAKING, "".join(reversed(WAKING.splitlines(keepends=True))))]),
        ("set", [(" : 0);\n    } while", " : 0) | CLEAR >> 1;\n    } while")]),
    ],
    ids=["alone", "woken alone", "silent", "clears", "too early", "owned"],
)  # fmt: skip
def test_a_broken_one_is_caught(case, changes, build, tmp_path, request):
    path = broken(tmp_path, "event.c", *changes)
    name = request.node.callspec.id.replace(" ", "-")
    harness = build(f"broken-{name}", "event_cases.c", SOURCES, event=path)
    assert not harness.steps(case, broken=True).flawless
