"""A supervisor that is killed: what dies with it, what escapes, and what that takes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import msgspec
import pytest

import kinfolk as kin
from kinfolk.processes import init, init_setup
from tests.conformance.peers import Peers, Voice, readable, until
from tests.unit.supervised import (
    Gate,
    Line,
    Supervised,
    enter_pid_namespace,
    escaped,
    lives,
    need_pid_namespaces,
    shell,
)


@pytest.fixture
def out() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture
def start(peers: Peers, out: Line) -> Iterator[Supervised]:
    gate = Gate()
    yield Supervised(peers, out, gate)
    gate.close()


def test_the_command_dies_with_it(start, out):
    peer = start(*shell("echo $$; exec sleep 1000"))
    command = os.pidfd_open(out.hear_pid())
    peer.kill()
    assert readable(command)
    os.close(command)


def test_without_a_death_signal_it_lives_on(start, out, monkeypatch):
    """The negative control."""

    def before() -> None:
        def without(*args):
            return msgspec.structs.replace(real(*args), death_signal=None)

        real = init_setup.launch_of
        monkeypatch.setattr(init, "launch_of", without)

    peer = start(*shell("echo $$; exec sleep 1000"), before=before)
    pid = out.hear_pid()
    with escaped(pid):
        peer.kill()
        assert lives(pid)


def test_what_the_command_had_started_escapes(start, out):
    """Not a promise but its limit, as the page says."""
    peer = start(*shell("sleep 1000 & echo $!; wait"))
    pid = out.hear_pid()
    with escaped(pid):
        peer.kill()
        until(lambda: not lives(peer.pid), "killed")
        assert lives(pid)


def test_as_pid_1_nothing_escapes(start, out):
    need_pid_namespaces()

    def outside(voice: Voice) -> int:
        enter_pid_namespace()
        pid = os.fork()
        if pid == 0:
            kin.run_as_init(shell("setsid sleep 1000 & echo ready; wait"))
            os._exit(0)
        voice.say(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    peer = start.fork(outside)
    pid = peer.hear()
    assert out.hear() == "ready"
    os.kill(pid, signal.SIGKILL)
    assert peer.result() == -signal.SIGKILL
    assert out.everything() == []  # the end of all who had the line


def test_killed_at_any_moment_of_the_start(peers):
    """Whether the command was started already, or is just being, or not: none is left."""
    chance = random.Random(4711)
    for _ in range(40):
        line, gate = Line(), Gate()
        peer = Supervised(peers, line, gate)("sleep", "1000")
        until_moment = time.monotonic() + chance.random() * 0.02
        while time.monotonic() < until_moment:
            os.sched_yield()
        peer.kill()
        assert line.everything() == []  # ends when the last one who has it has ended
        line.close()
        gate.close()
