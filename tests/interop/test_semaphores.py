"""Semaphores between C and Python: POSIX ones by name and in shared memory, System V sets by key, by ftok, by id."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk._native import sysv_sem_stamp
from kinfolk.sync import sysv_set
from tests.conformance.peers import Peers, state, until
from tests.interop.conftest import CProgram, Finish, Start
from tests.unit.semaphores import sem_key as sem_key
from tests.unit.semaphores import sem_name as sem_name
from tests.unit.semaphores import set_of


@pytest.fixture
def peers() -> Iterator[Peers]:
    children = Peers()
    yield children
    children.end()


def asleep(pid: int) -> None:
    until(lambda: state(pid) == "S", f"process {pid} asleep")


# ── POSIX ────────────────────────────────────────────────────────────────────────────────────


def test_c_finds_what_python_made(
    sem_name: str, c_program: CProgram, start: Start, finish: Finish
) -> None:
    with kin.PosixSemaphore(sem_name, 3) as semaphore:
        said = finish(start(c_program("posix_sem"), sem_name, "make=7", "say", "wait", "say"))
        assert said == b"2\n1\n"
        assert semaphore.value == 1


def test_python_finds_what_c_made(
    sem_name: str, c_program: CProgram, start: Start, finish: Finish
) -> None:
    finish(start(c_program("posix_sem"), sem_name, "make=2", "post"))
    semaphore = kin.PosixSemaphore(sem_name, 9)
    assert semaphore.value == 3
    semaphore.unlink()
    with pytest.raises(kin.NotFound):
        kin.PosixSemaphore(sem_name, None)


def test_c_waits_for_python_and_python_for_c(
    sem_name: str, c_program: CProgram, start: Start, finish: Finish
) -> None:
    semaphore = kin.PosixSemaphore(sem_name, 0)
    waiting = start(c_program("posix_sem"), sem_name, "ready", "wait", ready="waiting")
    asleep(waiting.pid)
    semaphore.release()
    finish(waiting)
    posting = start(c_program("posix_sem"), sem_name, "hear", "post")
    assert posting.stdin is not None
    posting.stdin.close()
    semaphore.acquire(timeout=60)
    posting.stdin = None
    finish(posting)


def test_a_sem_t_in_shared_memory(
    unique_name: str, c_program: CProgram, start: Start, finish: Finish
) -> None:
    program = c_program("posix_sem")
    with kin.SharedMemory.create(
        f"shm:/{unique_name}",
        4096,
        prepare=lambda new: kin.PosixSemaphore.inside(new, 64, 1).close(),
    ) as memory:
        try:
            assert finish(start(program, f"SHM:/{unique_name}:64", "wait", "say")) == b"0\n"
            finish(start(program, f"SHM:/{unique_name}:104", "make=5", "say"))  # and the other way
            semaphore = kin.PosixSemaphore.inside(memory, 104)
            assert semaphore.value == 5
            semaphore.close()
        finally:
            memory.unlink()


# ── System V ─────────────────────────────────────────────────────────────────────────────────


def test_c_takes_from_the_set_that_python_made(
    sem_key: int, c_program: CProgram, start: Start, finish: Finish
) -> None:
    semaphore = kin.SysVSemaphore(sem_key, n=2, value=[2, 0])
    said = finish(start(c_program("sysv_sem"), hex(sem_key), "2", "9", "0-1,1+1", "say"))
    assert said == b"1 1\n"
    assert semaphore.values == (1, 1)


def test_python_takes_from_the_set_that_c_made(
    sem_key: int, c_program: CProgram, start: Start, finish: Finish
) -> None:
    finish(start(c_program("sysv_sem"), str(sem_key), "3", "4", "1-4"))
    semaphore = kin.SysVSemaphore(sem_key, n=3, value=9)
    assert semaphore.values == (4, 0, 4)
    semaphore.unlink()


def test_both_make_the_same_key_of_a_file(
    tmp_path: Path, c_program: CProgram, start: Start, finish: Finish
) -> None:
    path = tmp_path / "file"
    path.touch()
    semaphore = kin.SysVSemaphore(f"{path}#42", value=1)
    try:
        assert finish(start(c_program("sysv_sem"), f"{path}#42", "1", "5", "say")) == b"1\n"
    finally:
        semaphore.unlink()


def test_c_takes_a_set_without_a_key_by_its_id(
    c_program: CProgram, start: Start, finish: Finish
) -> None:
    with kin.SysVSemaphore(value=3) as semaphore:
        finish(start(c_program("sysv_sem"), f"id:{semaphore.id}", "1", "0", "0-1"))
        assert semaphore.values == (1,)
    semaphore.close()


def test_c_and_python_wait_for_each_other(
    sem_key: int, c_program: CProgram, start: Start, finish: Finish
) -> None:
    semaphore = kin.SysVSemaphore(sem_key, n=2, value=0)
    waiting = start(
        c_program("sysv_sem"), str(sem_key), "2", "0", "ready", "0-1,1+1", ready="waiting"
    )
    until(lambda: semaphore.waiting()[0] == 1, "the C program waits")
    semaphore.release()
    semaphore.acquire(timeout=60, index=1)
    finish(waiting)


def test_what_a_killed_c_program_took_comes_back(
    sem_key: int, c_program: CProgram, start: Start
) -> None:
    semaphore = kin.SysVSemaphore(sem_key)
    holder = start(
        c_program("sysv_sem"),
        str(sem_key),
        "1",
        "1",
        "undo",
        "0-1",
        "ready",
        "hear",
        ready="waiting",
    )
    assert semaphore.values == (0,)
    holder.send_signal(signal.SIGKILL)
    semaphore.acquire(timeout=60)


def test_c_waits_until_python_has_filled_it(
    sem_key: int,
    c_program: CProgram,
    start: Start,
    finish: Finish,
    peers: Peers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The maker is stopped where the set is there and has its values, but nobody has operated on it."""

    def make(voice) -> None:
        def stop_and_stamp(number: int, value: int) -> None:
            os.kill(os.getpid(), signal.SIGSTOP)
            sysv_sem_stamp(number, value)

        monkeypatch.setattr(sysv_set, "sysv_sem_stamp", stop_and_stamp)
        kin.SysVSemaphore(sem_key, value=6)

    maker = peers.fork(make)
    until(lambda: state(maker.pid) == "T", "the maker stopped")
    assert set_of(sem_key) is not None
    waiting = start(c_program("sysv_sem"), str(sem_key), "1", "1", "say")
    until(lambda: state(waiting.pid) in "RS", "the C program looks again and again")
    assert waiting.poll() is None
    maker.signal(signal.SIGCONT)
    maker.result()
    assert finish(waiting) == b"6\n"
