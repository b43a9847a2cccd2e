"""The status of an orphan whose new parent reaps late, or never."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

import kinfolk as kin
from kinfolk import _native
from kinfolk.processes import felling, keeping, lost_status
from kinfolk.processes.lost_status import Orphaned
from tests.conformance.peers import HANG, Peers, readable, until


class Dead:
    """A zombie, and a pidfd of it."""

    def __init__(self) -> None:
        self.pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 9"], {})
        self.pidfd = os.pidfd_open(self.pid)
        self.reaped = False
        assert readable(self.pidfd)

    def reap(self) -> None:
        if not self.reaped:
            os.waitpid(self.pid, 0)
            self.reaped = True


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Dead]]:
    """Makes them, where the kernel remembers."""
    monkeypatch.setattr(lost_status._Adopter, "reaps", True)
    made: list[Dead] = []

    def make() -> Dead:
        made.append(Dead())
        return made[-1]

    if not kernel_remembers(make()):
        pytest.skip("this kernel does not remember how processes ended (Linux 6.15 does)")
    yield make
    for each in made:
        each.reap()
        os.close(each.pidfd)


def kernel_remembers(one: Dead) -> bool:
    if lost_status.remembered(one.pidfd) is not None:
        return False
    one.reap()
    status = lost_status.remembered(one.pidfd)
    return status is not None and status.known


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Seconds that pass for who is patient."""
    clock = [1000.0]
    monkeypatch.setattr(lost_status, "monotonic", lambda: clock[0])

    def passes(seconds: float) -> None:
        clock[0] += seconds

    return passes


def test_a_busy_parent_has_time(dead, pass_time) -> None:
    zombie, orphaned = dead(), Orphaned()
    assert orphaned.status(zombie.pidfd) is None
    pass_time(lost_status._PATIENCE - 0.1)
    assert orphaned.status(zombie.pidfd) is None
    zombie.reap()
    assert orphaned.status(zombie.pidfd) == kin.ExitStatus.from_wait(9 << 8)


def test_one_that_never_reaps_is_waited_for_once(dead, pass_time) -> None:
    zombies, orphans = [dead(), dead()], [Orphaned(), Orphaned()]
    pass_time(lost_status._PATIENCE + 0.1)
    assert "does not reap it" in str(orphans[0].status(zombies[0].pidfd))
    assert "does not reap it" in str(orphans[1].status(zombies[1].pidfd))
    late = Orphaned()
    assert late.status(zombies[1].pidfd) is None
    pass_time(lost_status._LESS + 0.1)
    assert "does not reap it" in str(late.status(zombies[1].pidfd))


def test_one_that_reaps_again_is_trusted_again(dead, pass_time) -> None:
    zombies, orphaned = [dead(), dead()], Orphaned()
    pass_time(lost_status._PATIENCE + 0.1)
    assert "does not reap it" in str(orphaned.status(zombies[0].pidfd))
    zombies[0].reap()
    assert orphaned.status(zombies[0].pidfd) == kin.ExitStatus.from_wait(9 << 8)
    late = Orphaned()
    pass_time(lost_status._LESS + 0.1)
    assert late.status(zombies[1].pidfd) is None


def test_the_children_of_a_keeper_that_was_killed(dead, peers: Peers) -> None:
    """They get an adopter that reaps when it is told to."""

    def adopts(voice) -> None:
        _native.set_child_subreaper(True)
        inner = Peers()
        owner = inner.fork(loses_its_keeper)
        pids = owner.hear()
        until(lambda: all(felling.parent_of(pid) == os.getpid() for pid in pids), "adopted")
        owner.say()
        assert owner.hear() == [None] * len(pids)
        for pid in pids:
            os.waitpid(pid, 0)
        owner.say()
        voice.say(owner.hear())
        inner.end()

    def loses_its_keeper(voice) -> None:
        processes = [kin.spawn(["sleep", "1000"]) for _ in range(5)]
        keeper = keeping.keeping().keeper_pid
        assert keeper is not None
        os.kill(keeper, signal.SIGKILL)
        voice.say([process.pid for process in processes])
        voice.hear()
        voice.say([process.poll() for process in processes])
        voice.hear()
        voice.say([str(process.wait(HANG)) for process in processes])
        keeping.keeping().end(0)

    assert peers.fork(adopts).hear() == ["killed by SIGKILL"] * 5
