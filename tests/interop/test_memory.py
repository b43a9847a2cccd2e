"""Shared memory between C and Python: a System V segment made by either, by key, by ftok, by id; POSIX shared memory."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.interop.conftest import CProgram, Finish, Start

FIELDS = {"count": "q", "name": "13s", "position": "3d"}
SIZE = 48  # of the struct in sysv_shm.c


@pytest.fixture
def key() -> Iterator[str]:
    made = f"{secrets.randbelow(2**31 - 1) + 1:#x}"
    yield made
    try:
        kin.SharedMemory.attach(f"sysv-shm:{made}").unlink()
    except kin.NotFound:
        return


def test_c_takes_what_python_made(
    key: str, c_program: CProgram, start: Start, finish: Finish
) -> None:
    program = c_program("sysv_shm")
    with kin.SharedMemory.create(f"sysv-shm:{key}", SIZE) as memory:
        record = memory.struct(FIELDS)
        record.count, record.name, record.position = 41, b"python", (1, 2.5, -3)
        said = finish(start(program, key, "0", "c"))
        assert said == b"count 41 name python position 1 2.5 -3\n"
        assert record.count == 42
        assert record.name.rstrip(b"\0") == b"c"
        assert record.position == (1.5, 3, -2.5)


def test_python_takes_what_c_made(
    key: str, c_program: CProgram, start: Start, finish: Finish
) -> None:
    finish(start(c_program("sysv_shm"), key, "5000", "made in C"))
    with kin.SharedMemory.attach(f"sysv-shm:{key}", size=SIZE) as memory:
        assert (memory.size, memory.mode, memory.lifetime) == (5000, 0o600, "name")
        record: Any = memory.struct(FIELDS)
        assert record.as_dict() == {
            "count": 1,
            "name": b"made in C\0\0\0\0",
            "position": (0.5, 0.5, 0.5),
        }
    said = finish(start(c_program("sysv_shm"), key, "0"))
    assert said.startswith(b"count 1 name made in C")  # who attached did not destroy


@pytest.mark.parametrize("mode", ["0777", "0700", "0666", "0711", "0100"])
def test_what_c_made_is_never_destroyed(
    mode: str, key: str, c_program: CProgram, start: Start, finish: Finish
) -> None:
    """Whatever its mode: half of all C programs say IPC_CREAT | 0777. Nobody is attached, for it lives by its key."""
    finish(start(c_program("sysv_shm"), key, "5000", "made in C", mode))
    with pytest.raises(kin.AlreadyExists):
        kin.SharedMemory.create(f"sysv-shm:{key}", SIZE)
    with pytest.raises(kin.AlreadyExists):
        kin.SharedMemory.create(f"sysv-shm:{key}", SIZE, lifetime="peers")
    kin.SharedMemory.create("sysv-shm:", SIZE).close()
    for _ in range(2):
        with kin.SharedMemory.attach(f"sysv-shm:{key}") as memory:
            record: Any = memory.struct(FIELDS)
            assert (memory.size, memory.lifetime) == (5000, "name")
            assert (record.count, record.name.rstrip(b"\0")) == (1, b"made in C")


def test_both_make_the_same_key_of_a_file(
    tmp_path: Path, c_program: CProgram, start: Start, finish: Finish
) -> None:
    path = tmp_path / "file"
    path.touch()
    with kin.SharedMemory.create(f"sysv-shm:{path}#42", SIZE) as memory:
        finish(start(c_program("sysv_shm"), f"{path}#42", "0", "x"))
        assert memory.struct(FIELDS).count == 1
        memory.unlink()


def test_c_takes_a_segment_without_a_key_by_its_id(
    c_program: CProgram, start: Start, finish: Finish
) -> None:
    with kin.SharedMemory.create("sysv-shm:", SIZE) as memory:
        finish(start(c_program("sysv_shm"), f"id:{memory.id}", "0", "x"))
        assert memory.struct(FIELDS).count == 1


def test_c_is_told_of_a_key_that_is_gone(key: str, c_program: CProgram, start: Start) -> None:
    kin.SharedMemory.create(f"sysv-shm:{key}", SIZE, lifetime="peers").close()
    process = start(c_program("sysv_shm"), key, "0")
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"No such file" in complaint


def test_posix_shared_memory_goes_both_ways(
    c_program: CProgram, start: Start, finish: Finish
) -> None:
    name = f"/kinfolk-interop-{secrets.token_hex(8)}"
    program = c_program("posix_shm")
    with kin.SharedMemory.create(f"shm:{name}", 5000) as memory:
        memory.buf[:6] = b"python"
        assert finish(start(program, name, "0", "c")) == b"5000 bytes: python\n"
        assert bytes(memory.buf[:2]) == b"c\0"
        memory.unlink()
    finish(start(program, name, "100000", "from C"))
    with kin.SharedMemory.attach(f"shm:{name}") as memory:
        assert bytes(memory.buf[:7]) == b"from C\0"
        memory.buf[99_999] = 1
        memory.unlink()
