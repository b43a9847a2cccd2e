"""What tests of the keeper share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.processes import felling, keeping
from kinfolk.processes.process import Process
from tests.conformance.peers import HANG, Peers, state


@pytest.fixture(scope="module", autouse=True)
def _the_keeper_ends() -> Iterator[None]:
    """A module's keeper is no leak: it ends with the module."""
    yield
    keeping.keeping().end(0)
    keeping.keeping("kernel").end(0)


@pytest.fixture
def peers() -> Iterator[Peers]:
    them = Peers()
    yield them
    them.end()


def children_of(keeper: int) -> list[int]:
    """What it has started or adopted."""
    return [pid for pid in felling.children_of(keeper) if not _is_anchor(pid)]


def anchor_of(keeper: int) -> int:
    """The pid of its anchor; 0: it has none."""
    return next(filter(_is_anchor, felling.children_of(keeper)), 0)


def _is_anchor(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text() == "kin-anchor\n" and state(pid) != "Z"
    return False


def output_of(*args: Any, **options: Any) -> str:
    """What a process writes, which has to end well."""
    process = kin.spawn(*args, stdout=-1, text=True, **options)
    assert process.stdout is not None
    with process.stdout as file:
        text = file.read()
    status = process.wait(HANG)
    assert status.success, status
    return str(text)


def complaint_of(*args: Any, **options: Any) -> tuple[Process, str]:
    """A process that has ended, and what it wrote to standard error."""
    process = kin.spawn(*args, stderr=-1, text=True, **options)
    assert process.stderr is not None
    with process.stderr as file:
        text = file.read()
    process.wait(HANG)
    return process, str(text)
