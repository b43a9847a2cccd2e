"""The private directory: refused when it is not ours alone, and a lock that one process at a time has."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk.deadlines import Deadline
from kinfolk.rendezvous import NotYet
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run
from tests.conformance.peers import Peers, until
from tests.other_user import User


@pytest.fixture(autouse=True)
def directory(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own, so that a test may spoil it."""
    monkeypatch.setattr(runtime_directory, "_PARENT", str(short_directory))
    short_directory.chmod(0o1777)
    return Path(runtime_directory.path_name())


def lock(timeout: float | None = 30) -> runtime_directory.Lock:
    turn = Turnstile("runtime directory", lambda: None)
    return run(runtime_directory.lock(), turn, Deadline(timeout), "lock")


def test_it_is_made_0700_and_removed_when_empty(directory: Path) -> None:
    assert directory.name == f"kinfolk-{os.geteuid()}"
    with lock():
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


def test_it_stays_as_long_as_something_is_in_it(directory: Path) -> None:
    with lock():
        (directory / "thing").touch()
    assert directory.exists()
    with lock():
        (directory / "thing").unlink()
    assert not directory.exists()


@pytest.mark.parametrize("umask", [0, 0o077, 0o177])
def test_no_umask_makes_it_wider(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with lock():
            assert stat.S_IMODE(directory.stat().st_mode) & 0o077 == 0
    finally:
        os.umask(before)


@pytest.mark.parametrize("umask", [0o277, 0o700, 0o777])
def test_a_umask_that_leaves_its_owner_out_is_mended(
    directory: Path, as_plain_user: User, umask: int
) -> None:
    """Also for who comes later, when the one that made it was killed before he could."""

    def body() -> tuple[int, int]:
        before = os.umask(umask)
        with lock():
            made = os.stat(runtime_directory.path_name()).st_mode
        os.mkdir(runtime_directory.path_name(), 0o700)  # and here he is killed
        os.umask(before)
        with lock():
            found = os.stat(runtime_directory.path_name()).st_mode
        return stat.S_IMODE(made), stat.S_IMODE(found)

    assert as_plain_user.run(body) == (0o700, 0o700)


def test_a_symlink_is_refused(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    directory.symlink_to(elsewhere)
    with pytest.raises(kin.UntrustedPeer, match="can't be used"):
        lock()
    directory.unlink()
    directory.symlink_to(tmp_path / "nowhere")
    with pytest.raises(kin.UntrustedPeer):
        lock()


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o777, 0o1777, 0o750])
def test_a_mode_wider_than_ours_is_refused_and_not_repaired(directory: Path, mode: int) -> None:
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(kin.UntrustedPeer, match=f"mode {mode:04o}"):
        lock()
    assert stat.S_IMODE(directory.stat().st_mode) == mode


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_what_is_no_directory_is_refused_and_not_opened(directory: Path, kind: str) -> None:
    if kind == "file":
        directory.touch()
    else:
        os.mkfifo(directory)
    with pytest.raises(kin.UntrustedPeer, match="Not a directory"):
        lock(5)


def test_a_directory_of_another_user_is_refused(directory: Path, foreign_user: User) -> None:
    foreign_user.run(os.mkdir, directory, 0o700)
    with pytest.raises(kin.UntrustedPeer, match="it is of user"):
        lock()


def test_a_directory_of_root_is_refused_by_a_user(directory: Path, foreign_user: User) -> None:
    name = directory.with_name(f"kinfolk-{foreign_user.uid}")
    name.mkdir(mode=0o700)

    def other() -> None:
        with pytest.raises(kin.UntrustedPeer):
            runtime_directory.try_lock()

    foreign_user.run(other)
    name.rmdir()


def test_no_descriptor_left_is_not_blamed_on_a_squatter(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", none_left)
        with pytest.raises(OSError, match="Too many open files") as caught:
            runtime_directory.try_lock()
    assert not isinstance(caught.value, kin.UntrustedPeer)
    directory.rmdir()


def test_one_at_a_time_also_in_one_process() -> None:
    with lock():
        with pytest.raises(NotYet) as caught:
            runtime_directory.try_lock()
        assert caught.value.again_in
        with pytest.raises(kin.Timeout):
            lock(0.01)
    with lock(0):
        pass


def test_a_kill_gives_the_lock_back(peers: Peers, directory: Path) -> None:
    def child(voice: Any) -> None:
        with lock():
            voice.say()
            voice.hear()

    peer = peers.fork(child)
    peer.hear()
    with pytest.raises(NotYet):
        runtime_directory.try_lock()
    peer.kill(reap=False)
    with lock(0):
        pass
    assert not directory.exists()


def test_a_process_forked_under_the_lock_does_not_hold_it(peers: Peers, directory: Path) -> None:
    """Another thread may fork at any time, and its child would have a copy of the descriptor."""
    directory.mkdir(mode=0o700)
    (directory / "thing").touch()
    held = lock()
    peer = peers.fork(lambda voice: voice.hear())
    with held:
        pass
    with lock(0):
        (directory / "thing").unlink()
    peer.say()
    peer.result()


def test_eight_processes_race_for_a_lock_whose_directory_comes_and_goes(
    peers: Peers, directory: Path, tmp_path: Path
) -> None:
    counter, inside = tmp_path / "counter", tmp_path / "inside"
    counter.write_bytes(b"0")

    def child(voice: Any, number: int) -> None:
        voice.hear()
        for turn in range(40):
            with lock():
                # Not atomic at all: only the lock makes it right.
                fd = os.open(inside, os.O_CREAT | os.O_EXCL)
                count = int(counter.read_bytes())
                if (number + turn) % 3 == 0:
                    (directory / f"thing-{number}").touch()
                else:
                    with contextlib.suppress(FileNotFoundError):
                        (directory / f"thing-{number}").unlink()
                counter.write_bytes(b"%d" % (count + 1))
                os.close(fd)
                inside.unlink()
        with lock(), contextlib.suppress(FileNotFoundError):
            (directory / f"thing-{number}").unlink()

    children = [peers.fork(child, number) for number in range(8)]
    for peer in children:
        peer.say()
    for peer in children:
        peer.result()
    assert counter.read_bytes() == b"320"
    assert not directory.exists()


def test_a_lock_on_a_directory_that_was_replaced_meanwhile_is_none(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def too_late(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_EX:
            directory.rmdir()
            directory.mkdir(mode=0o700)
        real(fd, operation)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", too_late)
        with pytest.raises(NotYet):
            runtime_directory.try_lock()
    with lock(0):
        pass


def test_threads_race_too() -> None:
    inside: list[int] = []

    def many(number: int) -> None:
        for _ in range(40):
            with lock():
                inside.append(number)
                assert inside == [number]
                inside.remove(number)

    threads = [threading.Thread(target=many, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: not any(thread.is_alive() for thread in threads), "all done")
    for thread in threads:
        thread.join()
