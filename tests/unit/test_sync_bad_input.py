"""What the objects of kinfolk.sync are asked for and can't be: a typed error each, and nothing is made or taken."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import mmap
import os
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from tests.conformance.peers import HANG, Peers, until
from tests.unit.semaphores import sem_key as sem_key
from tests.unit.semaphores import sem_name as sem_name
from tests.unit.semaphores import set_of
from tests.unit.test_memory_space import in_a_tiny_one

PAGE = mmap.PAGESIZE

# ── permission bits, and users ───────────────────────────────────────────────────────────────

BAD_MODES = [-1, 0o1600, 0o4777, 2**31, 2**70, 1.5, None, True, "rw", "0o9", b"0600"]
BAD_OWNERS = [-1, True, 1.5, "root", "0", b"0", [0]]


@pytest.mark.parametrize("bad", BAD_MODES)
def test_modes_that_make_no_sense(bad, sem_name, sem_key, tmp_path):
    for make in (
        lambda: kin.PosixSemaphore(sem_name, mode=bad),
        lambda: kin.SysVSemaphore(sem_key, mode=bad),
        lambda: kin.SysVSemaphore(mode=bad),
        lambda: kin.FileLock(tmp_path / "lock", mode=bad),
    ):
        with pytest.raises(kin.InvalidValue, match="mode="):
            make()
    assert not os.path.lexists(f"/dev/shm/sem.{sem_name[1:]}")
    assert set_of(sem_key) is None


@pytest.mark.parametrize("mode", [0o640, "0640", "0o640", "640"])
def test_modes_are_numbers_or_octal(mode, sem_name, tmp_path):
    kin.PosixSemaphore(sem_name, mode=mode).close()
    assert stat.S_IMODE(os.stat(f"/dev/shm/sem.{sem_name[1:]}").st_mode) == 0o640
    semaphore = kin.SysVSemaphore(mode=mode)
    assert semaphore.mode == 0o640
    semaphore.chmod("0600")
    assert semaphore.mode == 0o600
    semaphore.close()
    with kin.FileLock(tmp_path / "lock", mode=mode) as lock:
        assert stat.S_IMODE(os.fstat(lock.fileno()).st_mode) == 0o640


@pytest.mark.parametrize("bad", BAD_MODES)
def test_a_mode_that_makes_no_sense_changes_nothing(bad):
    semaphore = kin.SysVSemaphore(mode=0o640)
    with pytest.raises(kin.InvalidValue, match="mode="):
        semaphore.chmod(bad)
    assert semaphore.mode == 0o640
    semaphore.close()


@pytest.mark.parametrize("bad", BAD_OWNERS)
def test_owners_that_are_no_users(bad, sem_name, sem_key, tmp_path):
    for make in (
        lambda: kin.PosixSemaphore(sem_name, owner=bad),
        lambda: kin.SysVSemaphore(sem_key, owner=bad),
        lambda: kin.FileLock(tmp_path / "lock", owner=bad),
    ):
        with pytest.raises(kin.InvalidValue, match="owner="):
            make()
    assert not os.path.lexists(f"/dev/shm/sem.{sem_name[1:]}")
    assert set_of(sem_key) is None


# ── numbers ──────────────────────────────────────────────────────────────────────────────────

NO_NUMBERS = [2**31, 2**63, 2**70, -(2**31), -(2**70), 1.5, "1", "", None, b"1", [1]]


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_indices_and_counts_that_are_none(bad):
    semaphore = kin.SysVSemaphore(n=2, value=3)
    for named in ({"index": bad}, {"count": bad}):
        for use in (
            semaphore.release,
            lambda **named: semaphore.acquire(0, **named),
            lambda **named: asyncio.run(semaphore.aacquire(0, **named)),
        ):
            with pytest.raises(kin.InvalidValue):
                use(**named)
    for look in (semaphore.last_pid, semaphore.waiting):
        with pytest.raises(kin.InvalidValue):
            look(bad)
    if bad is not None:  # that is all of them
        with pytest.raises(kin.InvalidValue):
            semaphore.set(1, index=bad)
    with pytest.raises(kin.InvalidValue):
        semaphore.operate([(bad, 1)])
    assert semaphore.values == (3, 3)
    semaphore.close()


def test_numbers_of_numpy_are_numbers():
    semaphore = kin.SysVSemaphore(n=2, value=3)
    one: Any = numpy.int64(1)
    semaphore.acquire(index=one, count=one)
    asyncio.run(semaphore.aacquire(index=one, count=one))
    assert semaphore.values == (3, 1)
    assert semaphore.last_pid(one) == os.getpid()
    semaphore.close()


def test_what_is_no_number_may_raise_what_it_likes():
    class Hostile:
        def __index__(self) -> int:
            raise KeyError("mine")

    hostile: Any = Hostile()
    semaphore = kin.SysVSemaphore()
    with pytest.raises(KeyError, match="mine"):
        semaphore.acquire(0, count=hostile)
    condition = kin.Condition()
    with condition, pytest.raises(KeyError, match="mine"):
        condition.notify(hostile)
    semaphore.close()


@pytest.mark.parametrize("bad", [None, 5, 1.5, True, object()])
def test_operations_that_are_none(bad):
    semaphore = kin.SysVSemaphore()
    with pytest.raises(kin.InvalidValue, match="operations"):
        semaphore.operate(bad)
    with pytest.raises(kin.InvalidValue, match="operations"):
        asyncio.run(semaphore.aoperate(bad))
    semaphore.close()


@pytest.mark.parametrize("bad", [1.5, "1", "", None, b"1", [1]])
def test_how_many_that_is_no_number(bad):
    semaphore, condition = kin.Semaphore(3), kin.Condition()
    with pytest.raises(kin.InvalidValue, match="n="):
        semaphore.acquire(0, bad)
    with pytest.raises(kin.InvalidValue, match="n="):
        semaphore.release(bad)
    with condition, pytest.raises(kin.InvalidValue, match="n="):
        condition.notify(bad)
    assert semaphore.value == 3


# ── names ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("half", ["\ud800", "a\udfff"])
def test_half_of_a_pair_is_no_name(half, tmp_path):
    for make in (
        kin.Mutex,
        kin.Event,
        lambda name: kin.Condition(name=name),
        lambda name: kin.Semaphore(1, name),
        kin.PosixSemaphore,
        lambda name: kin.FileLock(str(tmp_path / "lock") + name),
    ):
        with pytest.raises(kin.InvalidValue) as caught:
            make(half)
        str(caught.value).encode()  # it can be shown


@pytest.mark.parametrize("name", ["x" * 300, "d/" * 3000 + "x"])
def test_a_name_too_long_for_a_file(name, tmp_path):
    with pytest.raises(kin.InvalidValue, match="too long"):
        kin.FileLock(tmp_path / name).acquire(0)
    assert os.listdir(tmp_path) == []


def test_a_relative_name_without_a_directory(tmp_path, peers):
    (tmp_path / "gone").mkdir()

    def elsewhere(voice: Any) -> str:
        os.chdir(tmp_path / "gone")
        os.rmdir(tmp_path / "gone")
        with pytest.raises(kin.NotFound) as caught:
            kin.FileLock("lock")
        return str(caught.value)

    assert "lock" in peers.fork(elsewhere).result()


# ── bytes ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["ofd", "posix"])
def test_more_bytes_than_the_kernel_counts(kind, tmp_path):
    with pytest.raises(kin.InvalidValue, match="no such bytes"):
        kin.FileLock(tmp_path / "lock", kind=kind, length=2**63)
    for start, length in ((0, 2**63 - 1), (1, 2**63 - 1), (2**63 - 1, 1)):
        with kin.FileLock(tmp_path / "lock", kind=kind, start=start, length=length) as lock:
            assert lock.held


# ── memory ───────────────────────────────────────────────────────────────────────────────────

INSIDE: list[Callable[[Any], Any]] = [
    kin.Mutex.inside,
    kin.Event.inside,
    kin.Condition.inside,
    kin.Semaphore.inside,
    lambda memory: kin.PosixSemaphore.inside(memory, 0, 1),
]


@pytest.mark.parametrize("inside", INSIDE)
def test_memory_that_is_not_in_one_piece(inside):
    memory = kin.SharedMemory.create(size=8 * PAGE)
    array = memory.array((8, PAGE))
    released = memoryview(bytearray(PAGE))
    released.release()
    closed = mmap.mmap(-1, PAGE)
    closed.close()
    for bad in (array[::2], array[:, ::2], array.T, memoryview(array[0])[::2], released, closed):
        with pytest.raises(kin.InvalidValue, match="can lie there") as caught:
            inside(bad)
        assert "one piece" in caught.value.remedy
    inside(array[1:]).close()  # that is in one piece
    del array, bad
    gc.collect()
    memory.close()


# ── the mutex of a condition ─────────────────────────────────────────────────────────────────


def test_waiting_for_what_is_so_without_the_mutex():
    condition, asked = kin.Condition(), list[bool]()

    def ask() -> bool:
        asked.append(True)
        return True

    for timeout in (None, 0):
        with pytest.raises(kin.NotOwner, match="does not hold the mutex"):
            condition.wait_for(ask, timeout)
    assert asked == []  # it may only look with the mutex held
    with condition:
        assert condition.wait_for(lambda: 5) == 5
        taken = threading.Thread(target=lambda: asked.append(refused(condition)))
        taken.start()
        taken.join()
        assert asked == [True]
    condition.close()
    with pytest.raises(kin.Closed):
        condition.wait_for(lambda: True)


def refused(condition: kin.Condition) -> bool:
    try:
        condition.wait_for(lambda: True)
    except kin.NotOwner:
        return True
    return False


def test_by_another_object_of_the_mutex_it_is_not_held():
    memory = mmap.mmap(-1, PAGE)
    condition = kin.Condition(kin.Mutex.inside(memory, 0))
    with kin.Mutex.inside(memory, 0), pytest.raises(kin.NotOwner):
        condition.wait_for(lambda: True)


# ── dropped while it is held ─────────────────────────────────────────────────────────────────
#
# In peers: its memory stays where it is, for the thread's robust list leads to it.

DROPPED: dict[str, Callable[[], Any]] = {
    "mutex": kin.Mutex,
    "mutex of condition": kin.Condition,
}


def run(thread: threading.Thread) -> None:
    thread.start()
    thread.join()


def warned(drop: Callable[[], object]) -> list[str]:
    """What is said when a function drops something."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drop()
        gc.collect()
    assert all(each.category is ResourceWarning for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("what", DROPPED)
def test_dropped_while_it_is_held(what, peers):
    """Nobody can release it any more: its own thread could only do so by that object."""

    def drop(voice: Any) -> tuple[list[str], list[str]]:
        here = warned(lambda: DROPPED[what]().acquire())
        thread = threading.Thread(target=lambda: DROPPED[what]().acquire())
        return here, warned(lambda: run(thread))

    assert peers.fork(drop).result() == ([f"unreleased {what}"], [f"unreleased {what}"])


def test_dropped_by_another_thread_than_its_owners(peers):
    def drop(voice: Any) -> list[str]:
        mutex, held, over = [kin.Mutex()], threading.Event(), threading.Event()

        def own() -> None:
            mutex[0].acquire()
            held.set()
            over.wait(HANG)

        thread = threading.Thread(target=own)
        thread.start()
        held.wait(HANG)
        said = warned(mutex.clear)
        over.set()
        thread.join()
        return said

    assert peers.fork(drop).result() == ["unreleased mutex"]


def test_an_exception_that_is_under_way_survives_it(peers):
    def drop(voice: Any) -> list[str]:
        def fails() -> None:
            kin.Mutex().acquire()
            mutex = kin.Mutex()
            mutex.acquire()
            raise KeyError("mine")

        def drops() -> None:
            with pytest.raises(KeyError, match="mine"):
                fails()

        return warned(drops)

    assert peers.fork(drop).result() == ["unreleased mutex"] * 2


def test_what_is_not_held_is_dropped_in_silence():
    mutexes, condition = [kin.Mutex()], kin.Condition()
    run(threading.Thread(target=mutexes[0].acquire))
    until(lambda: not mutexes[0].locked, "the end of that thread, which releases it")
    mutexes.clear()
    with condition:
        pass
    del condition
    kin.Mutex().close()
    closed = kin.Mutex()
    with closed:
        pass
    closed.close()
    kin.Mutex.__new__(kin.Mutex)  # never opened
    for make in (kin.Semaphore, kin.PosixSemaphore, kin.SysVSemaphore):
        make().acquire()  # nobody's: others may release it
    gc.collect()  # a warning would be an error here


def test_a_forked_child_drops_what_its_parent_holds_in_silence(peers):
    held = [kin.Mutex()]
    held[0].acquire()

    def drop(voice: Any) -> list[str]:
        return warned(held.clear)

    assert peers.fork(drop).result() == []
    held[0].release()


def test_a_program_that_ends_with_it_is_not_blamed():
    """As with a lock of a file: who ends is told nothing."""
    program = "import kinfolk as kin; mutex = kin.Mutex(); mutex.acquire()"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program], capture_output=True, check=True, timeout=HANG
    )
    assert done.stderr == b""


# ── no space ─────────────────────────────────────────────────────────────────────────────────

NAMED: dict[str, Callable[[], Any]] = {
    "mutex full": lambda: kin.Mutex("full"),
    "event full": lambda: kin.Event("full"),
    "condition full": lambda: kin.Condition(name="full"),
    "semaphore full": lambda: kin.Semaphore(1, "full"),
    "POSIX semaphore /full": lambda: kin.PosixSemaphore("/full"),
}


def fill_with_bytes() -> None:
    fill = os.open("/dev/shm/fill", os.O_CREAT | os.O_WRONLY)
    with contextlib.suppress(OSError):
        while os.write(fill, bytes(PAGE)):
            pass


def fill_with_files() -> None:
    with contextlib.suppress(OSError):
        for number in range(100):
            os.close(os.open(f"/dev/shm/{number}", os.O_CREAT | os.O_WRONLY))


@pytest.mark.parametrize("subject", NAMED)
def test_a_full_dev_shm_is_told_with_the_figures(subject, peers: Peers):
    def body() -> tuple[str, str, int, list[str]]:
        os.mkdir(runtime_directory.path_name(), 0o700)
        fill_with_bytes()
        with pytest.raises(kin.NoSpace) as caught:
            NAMED[subject]()
        left = [name for name in os.listdir("/dev/shm") if not name.startswith("kinfolk-")]
        return str(caught.value), caught.value.remedy, caught.value.errno or 0, left

    said, remedy, code, left = in_a_tiny_one(peers, body)
    assert said.startswith(f"{subject}: there is no room for ")
    assert f"free 0, /dev/shm has {16 * PAGE} in all" in said
    assert "remove" in remedy
    assert "mount -o remount,size=" in remedy
    assert (code, left) == (errno.ENOSPC, ["fill"])


@pytest.mark.parametrize("subject", NAMED)
def test_no_more_files_is_told_as_that(subject, peers: Peers):
    def body() -> tuple[str, str]:
        fill_with_files()
        with pytest.raises(kin.NoSpace) as caught:
            NAMED[subject]()
        return str(caught.value), caught.value.remedy

    said, remedy = in_a_tiny_one(peers, body, inodes=6)
    assert said.startswith(f"{subject}: /dev/shm takes no more files")
    assert "nr_inodes" in remedy
    assert "remove" in remedy


def test_memory_that_is_refused_is_told_with_the_figures(monkeypatch):
    def refuse(fd: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(kin.NoSpace, match=r"mutex: .*asked for 128, free \d+, memory and swap has"):
        kin.Mutex()


# ── no descriptor ────────────────────────────────────────────────────────────────────────────


def test_the_first_without_a_descriptor_to_load_it_by():
    """And once there is one again, it is there."""
    program = """
import errno, os, resource, sys
import kinfolk as kin
from kinfolk import errors
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
try:
    kin.Mutex
except kin.LimitReached as error:
    assert error.errno == errno.EMFILE
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
with kin.Mutex() as held:
    print(held.locked)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, held = done.stdout.splitlines()
    assert said.startswith("kinfolk.Mutex: can't be loaded: Too many open files")
    assert "ulimit -n" in said
    assert held == "True"
