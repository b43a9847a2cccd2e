"""PosixSemaphore: names, memory, and what libc's semaphore can't do."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import stat
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.nameless_file import NamelessFile
from kinfolk.sync import posix_semaphore_file
from tests.conformance.peers import Peers, open_descriptors
from tests.unit.semaphores import sem_name as sem_name
from tests.unit.test_memory_space import in_a_tiny_one

PAGE = mmap.PAGESIZE
MOST = 2**31 - 1


# ── by name ──────────────────────────────────────────────────────────────────────────────────


def test_unrelated_processes_meet_at_a_name(sem_name, peers):
    semaphore = kin.PosixSemaphore(sem_name, 1)
    peers.fork(lambda voice: kin.PosixSemaphore(sem_name, 5).acquire(timeout=0)).result()
    assert semaphore.value == 0
    kin.PosixSemaphore(sem_name.removeprefix("/"), None).release()
    assert semaphore.value == 1


def test_a_name_that_has_to_be_there(sem_name):
    with pytest.raises(kin.NotFound, match="no such semaphore"):
        kin.PosixSemaphore(sem_name, None)
    assert not os.path.lexists(posix_semaphore_file.path_of(sem_name))
    with pytest.raises(kin.InvalidValue):
        kin.PosixSemaphore(None, None)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_its_mode_is_what_was_asked_for(sem_name, umask):
    path = posix_semaphore_file.path_of(sem_name)
    for options, mode in (({}, 0o600), ({"mode": 0o640}, 0o640)):
        before = os.umask(umask)
        try:
            semaphore = kin.PosixSemaphore(sem_name, **options)
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(path).st_mode) == mode
        semaphore.unlink()


@pytest.mark.parametrize(
    "bad", ["", "/", "a/b", "//a", "/a/", "a\0", "\ud800", "x" * 252, "ü" * 126, 5, b"/x"]
)
def test_names_that_are_none(bad):
    with pytest.raises(kin.InvalidValue, match="no name"):
        kin.PosixSemaphore(bad)


@pytest.mark.parametrize("odd", [".", "..", "ü€😀", "new\nline", "\udcff", " ", "#"])
def test_odd_names(odd, unique_name):
    name = odd + unique_name if odd != "." else odd
    semaphore = kin.PosixSemaphore(name)
    try:
        assert kin.PosixSemaphore(name, None).value == 1
    finally:
        semaphore.unlink()


def test_unlinked_it_stays_with_who_has_it(sem_name):
    old = kin.PosixSemaphore(sem_name)
    old.unlink()
    with pytest.raises(kin.NotFound):
        old.unlink()
    new = kin.PosixSemaphore(sem_name, 7)
    with old:
        assert (old.value, new.value) == (0, 7)
    with pytest.raises(kin.NotFound):  # that would be the other one's
        old.unlink()
    assert kin.PosixSemaphore(sem_name, None).value == 7


def test_only_names_are_unlinked():
    with pytest.raises(kin.Unsupported, match="no name"):
        kin.PosixSemaphore().unlink()


def test_many_make_it_at_the_same_moment(sem_name, peers):
    """Whoever finds it finds its value: nobody ever sees less than was put in."""

    def make(voice) -> None:
        voice.hear()
        for _ in range(100):
            semaphore = kin.PosixSemaphore(sem_name, 3)
            semaphore.acquire(timeout=0)
            semaphore.release()
            with contextlib.suppress(kin.NotFound):
                semaphore.unlink()

    makers = [peers.fork(make) for _ in range(3)]
    for peer in makers:
        peer.say()
    for peer in makers:
        peer.result()


@pytest.mark.parametrize("step", ["pwrite", "fchmod", "link"])
def test_its_maker_is_killed_before_it_has_its_name(step, sem_name, peers, monkeypatch):
    """Nothing is left, and the next one makes it."""

    def die(*arguments) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def make(voice) -> None:
        monkeypatch.setattr(NamelessFile if step == "link" else os, step, die)
        kin.PosixSemaphore(sem_name)

    before = os.listdir("/dev/shm")
    assert peers.fork(make).wait() == -signal.SIGKILL
    assert os.listdir("/dev/shm") == before
    assert kin.PosixSemaphore(sem_name, 4).value == 4


def planted(name: str, how: str, target: Path) -> None:
    path = posix_semaphore_file.path_of(name)
    match how:
        case "symlink":
            target.write_bytes(bytes(PAGE))
            os.symlink(target, path)
        case "dangling":
            os.symlink(target, path)
        case "fifo":
            os.mkfifo(path, 0o600)
        case "directory":
            os.mkdir(path)
        case "short":
            Path(path).write_bytes(bytes(31))
        case "zeros":
            Path(path).write_bytes(bytes(PAGE))
        case "text":
            Path(path).write_bytes(b"something else " * 300)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("symlink", kin.UntrustedPeer),
        ("dangling", kin.UntrustedPeer),
        ("fifo", kin.CorruptObject),
        ("directory", kin.CorruptObject),
        ("short", kin.CorruptObject),
        ("zeros", kin.CorruptObject),
        ("text", kin.CorruptObject),
    ],
)
def test_planted_names_are_refused(how, error, sem_name, tmp_path):
    planted(sem_name, how, tmp_path / "target")
    try:
        before = open_descriptors()
        with pytest.raises(error) as caught:
            kin.PosixSemaphore(sem_name)
        del caught
        assert open_descriptors() == before
        if how == "symlink":
            assert (tmp_path / "target").read_bytes() == bytes(PAGE)  # not touched
        else:
            assert not (tmp_path / "target").exists()
    finally:
        if how == "directory":
            os.rmdir(posix_semaphore_file.path_of(sem_name))


def test_a_name_of_another_user(sem_name, foreign_user):
    foreign_user.run(lambda: kin.PosixSemaphore(sem_name, 2).close())
    with pytest.raises(kin.UntrustedPeer, match=f"a semaphore of user {foreign_user.uid}"):
        kin.PosixSemaphore(sem_name)
    with kin.PosixSemaphore(sem_name, owner=foreign_user.uid) as named:
        assert named.value == 1


def test_another_user_is_let_in_by_the_mode(sem_name, foreign_user):
    semaphore = kin.PosixSemaphore(sem_name, 2)

    def take() -> str:
        try:
            found = kin.PosixSemaphore(sem_name, None)
        except kin.AccessDenied:
            return "denied"
        found.acquire(timeout=0)
        with pytest.raises(kin.AccessDenied, match=r"name can't be removed.*its owner can"):
            found.unlink()
        return "taken"

    assert foreign_user.run(take) == "denied"  # root's may be used, but it is 0600
    os.chmod(posix_semaphore_file.path_of(sem_name), 0o666)
    assert foreign_user.run(take) == "taken"
    assert semaphore.value == 1


def test_for_a_plain_user(as_plain_user, sem_name):
    def body() -> int:
        semaphore = kin.PosixSemaphore(sem_name, 2)
        try:
            with semaphore, kin.PosixSemaphore() as other:
                return semaphore.value + other.value
        finally:
            semaphore.unlink()

    assert as_plain_user.run(body) == 1


def test_a_full_dev_shm_is_no_space(peers: Peers):
    def body() -> tuple[int, list[str]]:
        fill = os.open("/dev/shm/fill", os.O_CREAT | os.O_WRONLY)
        with contextlib.suppress(OSError):
            while os.write(fill, bytes(PAGE)):
                pass
        with pytest.raises(kin.NoSpace) as caught:
            kin.PosixSemaphore("/full")
        return caught.value.errno or 0, os.listdir("/dev/shm")

    code, left = in_a_tiny_one(peers, body)
    assert code == errno.ENOSPC
    assert left == ["fill"]


# ── values ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bad", [-1, True, 1.5, "1", [1]])
def test_values_that_make_no_sense(bad, sem_name):
    with pytest.raises(kin.InvalidValue, match="the value"):
        kin.PosixSemaphore(sem_name, bad)


def test_values_have_a_limit():
    with pytest.raises(kin.LimitReached, match=f"SEM_VALUE_MAX is {MOST}"):
        kin.PosixSemaphore(None, MOST + 1)
    assert kin.PosixSemaphore.MOST == MOST
    semaphore = kin.PosixSemaphore(None, MOST)
    with pytest.raises(kin.LimitReached, match="the greatest there is") as caught:
        semaphore.release()
    assert caught.value.errno == errno.EOVERFLOW
    semaphore.acquire()
    semaphore.release()
    assert semaphore.value == MOST


# ── inside memory ────────────────────────────────────────────────────────────────────────────


def test_inside_memory_that_is_prepared(peers, unique_name):
    """Who makes the memory makes the semaphores in it, before anybody else has it."""
    address = f"shm:/{unique_name}"

    def prepare(new) -> None:
        for offset, value in ((0, 1), (40, 5)):
            kin.PosixSemaphore.inside(new, offset, value).close()

    def other(voice) -> int:
        attached = kin.SharedMemory.attach(address)
        semaphore = kin.PosixSemaphore.inside(attached, 40)
        semaphore.acquire()
        return semaphore.value

    memory = kin.SharedMemory.create(address, PAGE, prepare=prepare)
    semaphore = kin.PosixSemaphore.inside(memory, 40)
    assert peers.fork(other).result() == 4
    assert (semaphore.value, kin.PosixSemaphore.inside(memory).value) == (4, 1)
    with pytest.raises(kin.StillInUse):
        memory.close()
    semaphore.close()
    memory.close()
    with kin.SharedMemory.attach(address) as memory:
        memory.unlink()


def test_made_once():
    memory = mmap.mmap(-1, PAGE)
    first = kin.PosixSemaphore.inside(memory, 0, 3)
    with pytest.raises(kin.AlreadyExists):
        kin.PosixSemaphore.inside(memory, 0, 3)
    assert first.value == 3


def test_nothing_lies_in_blank_memory():
    memory = mmap.mmap(-1, PAGE)
    with pytest.raises(kin.CorruptObject, match=r"not made by sem_init"):
        kin.PosixSemaphore.inside(memory)
    assert memory[:] == bytes(PAGE)


@pytest.mark.parametrize("at", [0, 4, 8, 31])
def test_memory_that_is_in_use_is_not_written_to(at):
    memory = mmap.mmap(-1, PAGE)
    memory[at] = 7
    before = memory[:]
    for value in (None, 1):
        with pytest.raises(kin.CorruptObject):
            kin.PosixSemaphore.inside(memory, 0, value)
    assert memory[:] == before


@pytest.mark.parametrize("offset", [1, 4, -8, PAGE - 24, PAGE, 2**62, -(2**62)])
def test_offsets_where_none_can_lie(offset):
    with pytest.raises(kin.InvalidValue, match="32 bytes, at a multiple of 8"):
        kin.PosixSemaphore.inside(mmap.mmap(-1, PAGE), offset, 1)


def test_memory_that_is_none_or_not_shared():
    read_only = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ)
    for nothing in (None, 5, b"bytes" * 100, read_only, bytearray(PAGE)):
        with pytest.raises(kin.InvalidValue):
            kin.PosixSemaphore.inside(nothing, 0, 1)


def test_a_close_while_somebody_waits_keeps_the_memory():
    """Whoever waits holds the memory himself."""
    memory = mmap.mmap(-1, PAGE)
    semaphore = kin.PosixSemaphore.inside(memory, 0, 0)
    taking = semaphore._Taking(semaphore)
    semaphore.close()
    with pytest.raises(BufferError):
        memory.close()
    assert not taking.attempt()
    del taking
    memory.close()
