"""What the tests of shared memory share: an address of each kind, and a look at what is there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.memory.sysv_segment import all_segments

NAMED = ["shm", "sysv-shm", "file"]
EVERY = ["memfd", "sysv-shm without a key", *NAMED]
WITH_DESCRIPTOR = ["memfd", "shm", "file"]

NewAddress = Callable[[str], str]


@pytest.fixture
def new_address(unique_name: str, short_directory: Path) -> Iterator[NewAddress]:
    """A fresh address of a kind, where every user may make one; what is left there at the end is removed."""
    given: list[str] = []
    short_directory.chmod(0o1777)

    def new(kind: str) -> str:
        match kind:
            case "shm":
                address = f"shm:/{unique_name}-{len(given)}"
            case "sysv-shm":
                address = f"sysv-shm:{secrets.randbelow(2**31 - 1) + 1:#x}"
            case "file":
                address = f"file:{short_directory}/memory-{len(given)}"
            case "memfd":
                return "memfd:"
            case _:
                return "sysv-shm:"
        given.append(address)
        return address

    yield new
    for address in given:
        with contextlib.suppress(kin.KinfolkError):
            kin.SharedMemory.attach(address, owner=_owner(address)).unlink()


def _owner(address: str) -> int | None:
    path = path_of(address)
    return path.stat().st_uid if path is not None and path.exists() else None


def path_of(address: str) -> Path | None:
    """The file of an address that has one."""
    scheme, _, name = address.partition(":")
    return {"shm": Path("/dev/shm" + name), "file": Path(name)}.get(scheme)


def is_there(address: str) -> bool:
    """Whether the kernel knows the name, or the key."""
    path = path_of(address)
    if path is not None:
        return os.path.lexists(path)
    key = int(address.partition(":")[2], 0)
    return any(status.key & 0xFFFFFFFF == key for _, status in all_segments())


def attached(number: int) -> int:
    """How many are attached to a System V segment."""
    return {at: status.attachments for at, status in all_segments()}[number]
