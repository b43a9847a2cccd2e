"""Waiting for a name: woken by what happens there, never by looking again and again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import rendezvous
from kinfolk.deadlines import Deadline
from kinfolk.interest import Steps
from kinfolk.rendezvous import NotYet, retry, wait_for_path
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run
from tests.conformance.peers import HANG, Call, Peers, Voice, open_descriptors, readable, until
from tests.other_user import User


class Attempts:
    """An attempt that counts, and succeeds once its condition holds."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.count = 0
        self._condition = condition

    def __call__(self) -> str:
        self.count += 1
        if not self._condition():
            raise NotYet
        return "here"


def finish(steps: Steps[Any], timeout: float | None = HANG) -> Any:
    return run(steps, Turnstile("x", lambda: None), Deadline(timeout), "x: open")


class Waiting:
    """A thread that waits for a path."""

    def __init__(self, path: Path, condition: Callable[[], bool] | None = None) -> None:
        self.attempts = Attempts(condition or path.exists)
        self.turn = Turnstile("x", lambda: None)
        steps = wait_for_path(str(path), self.attempts)
        self.call = Call(run, steps, self.turn, Deadline(HANG), "x: open")
        until(lambda: self.turn.waits >= 1, "asleep")

    def seen(self) -> int:
        """How many attempts it made until it slept again."""
        assert self.call.result() == "here"
        return self.attempts.count


def until_it_has_seen_everything(waiting: Waiting, directory: Path) -> None:
    """Events come in order: after the attempt that an event of our own led to, all earlier ones were seen."""
    before = waiting.attempts.count
    (directory / f"mark-{before}").touch()
    until(lambda: waiting.attempts.count > before, "seen the mark")
    until(lambda: waiting.turn._sleeper is not None, "asleep again")


def test_what_is_there_needs_no_wait(tmp_path: Path) -> None:
    before = open_descriptors()
    assert finish(wait_for_path(str(tmp_path / "no" / "matter"), lambda: "here"), 0) == "here"
    assert open_descriptors() == before


def create(path: Path) -> None:
    path.touch()


def move_into_place(path: Path) -> None:
    aside = path.parent.parent / "aside"
    aside.touch()
    aside.rename(path)


def link_into_place(path: Path) -> None:
    aside = path.parent.parent / "aside"
    aside.touch()
    os.link(aside, path)
    aside.unlink()


@pytest.mark.parametrize("appear", [create, move_into_place, link_into_place])
def test_a_name_that_appears_is_seen(tmp_path: Path, appear: Callable[[Path], None]) -> None:
    (tmp_path / "d").mkdir()
    waiting = Waiting(tmp_path / "d" / "name")
    appear(tmp_path / "d" / "name")
    assert waiting.seen() <= 5


def test_somebody_who_opens_the_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "name"
    os.mkfifo(path)
    opened: list[int] = []
    waiting = Waiting(path, lambda: bool(opened))
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    until(lambda: waiting.turn.waits >= 2, "woken by the opening")
    opened.append(end)
    other = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    waiting.seen()
    os.close(end)
    os.close(other)
    path.unlink()


def test_a_mode_that_changes_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.touch(0o600)
    waiting = Waiting(path, lambda: path.stat().st_mode & 0o777 == 0o640)
    path.chmod(0o640)
    waiting.seen()


def test_a_file_that_is_replaced_is_watched_anew(tmp_path: Path) -> None:
    path = tmp_path / "name"
    path.touch()
    done: list[int] = []
    waiting = Waiting(path, lambda: bool(done))
    path.unlink()
    path.touch()
    until_it_has_seen_everything(waiting, tmp_path)
    done.append(1)
    with open(path, "rb"):  # the only event from now on
        waiting.seen()


def test_an_idle_wait_makes_no_attempts(tmp_path: Path) -> None:
    attempts = Attempts(lambda: False)
    with pytest.raises(kin.Timeout):
        finish(wait_for_path(str(tmp_path / "name"), attempts), 0.3)
    assert attempts.count == 2  # one before the watch was set, and one after


def test_what_happens_between_the_watch_and_the_attempt_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "name"
    calls: list[int] = []

    def attempt() -> str:
        calls.append(1)
        if path.exists():
            return "here"
        if len(calls) == 2:
            path.touch()  # right after it looked
        raise NotYet

    assert finish(wait_for_path(str(path), attempt)) == "here"
    assert len(calls) == 3


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(kin.NotFound, match="no such directory"):
        finish(wait_for_path(str(tmp_path / "no" / "name"), Attempts(lambda: False)))


def test_a_directory_that_goes_away_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    waiting = Waiting(directory / "name")
    directory.rmdir()
    assert isinstance(waiting.call.raised(), kin.NotFound)


def test_a_directory_that_was_moved_away_is_told(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    waiting = Waiting(directory / "name")
    directory.rename(tmp_path / "away")
    assert isinstance(waiting.call.raised(), kin.NotFound)


def test_a_directory_that_is_replaced_is_watched_anew(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    waiting = Waiting(directory / "name")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    os.rename(fresh, directory)  # in one step: over the empty one
    until(lambda: waiting.attempts.count >= 3, "seen that it went")
    until(lambda: waiting.turn._sleeper is not None, "asleep again")
    (directory / "name").touch()
    waiting.seen()


def test_it_leaves_no_descriptor_whatever_happens(tmp_path: Path) -> None:
    before = open_descriptors()

    def failing() -> str:
        if (tmp_path / "name").exists():
            raise LookupError
        (tmp_path / "name").touch()
        raise NotYet

    with pytest.raises(LookupError):
        finish(wait_for_path(str(tmp_path / "name"), failing))
    with pytest.raises(kin.Timeout):
        finish(wait_for_path(str(tmp_path / "other"), Attempts(lambda: False)), 0.01)
    assert open_descriptors() == before


def refusing(code: int) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("inotify_init", errno.EMFILE),
        ("inotify_add_watch", errno.ENOSPC),
        ("inotify_add_watch", errno.EACCES),
    ],
)
def test_without_inotify_it_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    before = open_descriptors()
    monkeypatch.setattr(rendezvous, call, refusing(code))
    waiting = Waiting(tmp_path / "name")
    until(lambda: waiting.attempts.count >= 4, "trying again")
    (tmp_path / "name").touch()
    waiting.seen()
    assert open_descriptors() == before


def test_the_real_limit_of_instances(short_directory: Path, as_plain_user: User) -> None:
    """A user whose inotify instances are all in use still finds what it waits for."""
    short_directory.chmod(0o777)
    path = short_directory / "name"

    def all_used() -> tuple[str, int]:
        from kinfolk._native import inotify_init

        used: list[int] = []
        try:
            while True:
                used.append(inotify_init())
        except OSError:
            pass
        attempts = Attempts(path.exists)
        steps = wait_for_path(str(path), attempts)
        interest = next(steps)
        assert interest.again_in is not None
        path.touch()
        try:
            while True:
                next(steps)
        except StopIteration as done:
            return done.value, len(used)
        finally:
            for fd in used:
                os.close(fd)

    found, used = as_plain_user.run(all_used)
    assert found == "here"
    assert used > 0


def test_who_may_not_read_the_file_sees_it_opened_all_the_same(
    short_directory: Path, foreign_user: User, peers: Peers
) -> None:
    short_directory.chmod(0o755)
    path = short_directory / "name"
    os.mkfifo(path)
    path.chmod(0o622)

    def attempt() -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise NotYet from None
            raise

    def other(voice: Voice) -> None:
        foreign_user.become()
        steps = wait_for_path(str(path), attempt)
        interest = next(steps)
        assert interest.again_in is None
        voice.say()
        assert readable(interest.readable[0])
        os.close(finish(steps))

    peer = peers.fork(other)
    peer.hear()
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    peer.result()
    os.close(end)


def test_retry_backs_off_from_1_to_50_milliseconds() -> None:
    attempts = Attempts(lambda: False)
    steps = retry(attempts)
    pauses = [next(steps).again_in for _ in range(9)]
    assert pauses == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.05, 0.05, 0.05]
    steps.close()


def test_retry_pauses_as_it_is_told() -> None:
    def attempt() -> None:
        raise NotYet(again_in=0.25)

    steps = retry(attempt)
    assert [next(steps).again_in for _ in range(3)] == [0.25] * 3
    steps.close()
