"""Requests that go wrong, and what the keeper imports: no reason for it to end, or to lose sight of its children."""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.processes import keeper_messages, keeping
from kinfolk.processes.interpreter import import_path
from kinfolk.processes.keeper_messages import Preload, Refused, SetLimit, StartFunction
from kinfolk.processes.launch import Launch
from tests.conformance.peers import HANG, Peers, Voice, open_descriptors, state, until
from tests.unit.keepers import _the_keeper_ends, output_of, peers

__all__ = ["_the_keeper_ends", "peers"]

SLEEP = ["sleep", "1000"]

CONTAINMENTS = ["keeper", "direct"]


def keeper_pid() -> int:
    pid = keeping.keeping().keeper_pid
    assert pid is not None
    return pid


# ── requests that nobody should make ─────────────────────────────────────────────────────────


def function_at(place: int) -> Callable[[int], StartFunction]:
    launch = Launch(argv=[b"x"], executables=[], descriptors=[(place, 5)])
    return lambda n: StartFunction(n, launch, b"", -1, [], -1, [], [], "x")


@pytest.mark.parametrize(
    ("request_of", "why"),
    [
        (lambda n: Preload(n, [3], []), "Expected `str`"),  # type: ignore[list-item]
        (lambda n: Preload(n, ["x" * 40_000, 3], []), "Expected `str`"),  # type: ignore[list-item]
        (lambda n: Preload(n, ["\0"], import_path()), "\0"),
        (lambda n: SetLimit(n, 99, 1, 1), "invalid resource"),
        (function_at(0), "Protocol error"),
        (function_at(-2), "Protocol error"),
    ],
)
def test_one_that_makes_no_sense_is_refused(request_of: Any, why: str) -> None:
    with kin.spawn(SLEEP) as running:
        pid = keeper_pid()
        reply, _ = keeping.keeping().run(keeping.keeping()._ask(request_of))
        assert isinstance(reply, Refused)
        assert why in reply.why
        assert output_of(["echo", "next"]) == "next\n"
        assert keeper_pid() == pid
        assert running.poll() is None


def test_what_no_request_can_hold_is_told_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (3, "a\0b", "caf\udce9"):
        with pytest.raises(kin.InvalidValue, match="no module is called"):
            kin.preload(name)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["x", 5])
    before = open_descriptors()
    for containment in CONTAINMENTS:
        with pytest.raises(kin.InvalidValue, match=r"sys.argv\[1\] is 5"):
            kin.spawn(print, containment=containment)  # type: ignore[arg-type]
    assert open_descriptors() == before


def test_words_that_are_no_text_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    def tells() -> None:
        print(sys.argv == argv, path in sys.path)

    argv, path = ["x", "caf\udce9"], "/no/caf\udce9"
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "path", [*sys.path, path, "no\0file", "\ud800", 7])
    for containment in CONTAINMENTS:
        assert output_of(tells, containment=containment) == "True True\n"
    kin.preload("json")


# ── where descriptors run out in the keeper ──────────────────────────────────────────────────


def fill_the_keeper() -> None:
    """Children whom this process has forgotten: each takes a descriptor there, and none here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with suppress(kin.LimitReached):
            while True:
                kin.spawn(SLEEP)


def limit_descriptors(soft: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(7)[1]))


def test_a_request_that_loses_its_descriptors_is_refused_and_nobody_ends(peers: Peers) -> None:
    def fills(voice: Voice) -> None:
        limit_descriptors(open_descriptors() + 40)
        first = kin.spawn(SLEEP)
        pid = keeper_pid()
        fill_the_keeper()
        passed = [os.dup(0) for _ in range(6)]
        for what in (SLEEP, os.getpid):
            for env in (None, {"LARGE": "x" * 40_000}):  # in a packet, and in memory
                with pytest.raises(kin.LimitReached, match="Too many open files"):
                    kin.spawn(what, pass_fds=passed, env=env)
        voice.say((keeper_pid() == pid, first.poll()))
        keeping.keeping().end(0)

    assert peers.fork(fills).hear() == (True, None)


def test_the_keeper_gets_as_many_as_its_owner(peers: Peers) -> None:
    def fills(voice: Voice) -> None:
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit_descriptors(low := open_descriptors() + 40)
        fill_the_keeper()
        limit_descriptors(usual)
        children = [kin.spawn(SLEEP) for _ in range(5)]
        limit_descriptors(low)
        voice.say([process.poll() for process in children])
        voice.say((low, output_of(["sh", "-c", "ulimit -Sn"])))
        keeping.keeping().end(0)

    owner = peers.fork(fills)
    assert owner.hear() == [None] * 5
    low, told = owner.hear()
    assert int(told) == low


def test_it_may_make_as_many_processes_as_its_owner(peers: Peers) -> None:
    def lowers(voice: Voice) -> None:
        kin.spawn(["true"]).wait(HANG)
        soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        most = 12_345 if soft in (-1, 12_345) or soft > 12_345 else soft - 1
        resource.setrlimit(resource.RLIMIT_NPROC, (most, hard))
        kin.spawn(["true"]).wait(HANG)
        voice.say((most, hard, resource.prlimit(keeper_pid(), resource.RLIMIT_NPROC)))
        keeping.keeping().end(0)

    most, hard, has = peers.fork(lowers).hear()
    assert has == (most, hard)


# ── modules that change what the keeper needs ────────────────────────────────────────────────


@pytest.mark.parametrize(
    "line",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, print)",
        "signal.pthread_sigmask(signal.SIG_SETMASK, ())",
        "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())",
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_module_that_takes_the_ends_of_children_away(
    peers: Peers, short_directory: Path, line: str, fails: bool
) -> None:
    def preloads(voice: Voice) -> None:
        lived, ends = kin.spawn(SLEEP), kin.spawn(SLEEP)
        (short_directory / "kinfolk_test_takes.py").write_text(
            textwrap.dedent(f"""
                import os, select, signal
                {line}
                pidfd = os.pidfd_open({ends.pid})
                os.kill({ends.pid}, signal.SIGKILL)
                select.select([pidfd], [], [])
                os.close(pidfd)
                assert not {fails}
            """)
        )
        sys.path.append(str(short_directory))
        with pytest.raises(kin.InvalidValue) if fails else nullcontext():
            kin.preload("kinfolk_test_takes")
        voice.say(ends.wait(HANG).success)
        lived.signal(signal.SIGTERM)
        voice.say(lived.wait(HANG).signal)
        voice.say(kin.spawn(["sh", "-c", "exit 3"]).wait(HANG).code)
        voice.say(output_of(lambda: print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
        keeping.keeping().end(0)

    owner = peers.fork(preloads)
    assert owner.hear() is False
    assert owner.hear() == signal.SIGTERM
    assert owner.hear() == 3
    assert owner.hear() == "set()\n"


# ── signals ──────────────────────────────────────────────────────────────────────────────────


def test_no_signal_but_two_does_anything_to_it() -> None:
    kin.spawn(["true"]).wait(HANG)
    pid = keeper_pid()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        os.kill(pid, number)
    assert kin.spawn(["true"]).wait(HANG).success
    assert keeper_pid() == pid
    assert {signal.SIGABRT, signal.SIGSEGV} <= set(keeper_messages.DEAF_TO)


@pytest.mark.parametrize(
    ("fault", "number"),
    [
        ("import os; os.abort()", signal.SIGABRT),
        ("import ctypes; ctypes.string_at(0)", signal.SIGSEGV),
    ],
)
def test_a_fault_of_its_own_ends_it(
    peers: Peers, short_directory: Path, fault: str, number: signal.Signals
) -> None:
    (short_directory / "kinfolk_test_fault.py").write_text(fault)

    def preloads(voice: Voice) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.path.append(str(short_directory))
        running = kin.spawn(SLEEP)
        with pytest.raises(kin.KeeperDied, match=number.name):
            kin.preload("kinfolk_test_fault")
        until(lambda: state(running.pid) in "ZX", "the end of what it kept")
        voice.say(kin.spawn(["true"]).wait(HANG).code)
        keeping.keeping().end(0)

    assert peers.fork(preloads).hear() == 0


# ── what a function's process is called ──────────────────────────────────────────────────────


@pytest.mark.parametrize("containment", CONTAINMENTS)
def test_a_functions_process_has_its_name(containment: Any) -> None:
    def a_name_of_many_letters() -> None:
        print(Path("/proc/self/comm").read_text(), end="")

    assert output_of(a_name_of_many_letters, containment=containment) == "a_name_of_many_\n"
    partial = functools.partial(a_name_of_many_letters)
    assert output_of(partial, containment=containment) == "partial\n"
    a_name_of_many_letters.__qualname__ = "größer_als_fünf"  # a letter of two bytes at the end
    assert output_of(a_name_of_many_letters, containment=containment) == "größer_als_f\n"
