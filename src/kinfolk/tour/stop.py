"""What a stop of the tour is, and what it gets from the tour.

Rules:
1. A stop shows one thing with real processes, in a few lines, and ends with checks.
2. It leaves nothing: its processes are a crew's (`kinfolk.tour.processes`), its names lie in its
   scratch directory or are removed by its own `finally`.
3. It may raise: the tour writes that down as a failed check and walks on.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import kinfolk as kin
from kinfolk.tour.narrator import Narrator

#: A socket's path has at most 107 bytes (unix(7)): what a directory may take of them.
_LONGEST_DIRECTORY = 70


@dataclass(frozen=True, slots=True)
class Walk:
    """What the visitor asked for, the same for every stop."""

    #: the file that the first stop moves
    file: str


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop: its name on the command line, a title, the source's chapter, and the visit."""

    name: str
    title: str
    #: the heading in the source text under which it stands
    chapter: str
    visit: Callable[[Narrator, Walk], None]


@contextlib.contextmanager
def scratch_directory() -> Iterator[str]:
    """A private directory with a path short enough for sockets; it goes with all that is in it."""
    where = None if len(tempfile.gettempdir().encode()) <= _LONGEST_DIRECTORY else "/tmp"
    path = tempfile.mkdtemp(prefix="kin-tour-", dir=where)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def unused_name() -> str:
    """A name that nobody has, for queues and abstract sockets, which live outside of directories."""
    return f"kin-tour-{secrets.token_hex(8)}"


def unused_key() -> int:
    """A key that nobody has, for System V queues (31 bits by chance, as ftok(3) would give)."""
    return secrets.randbelow(2**31 - 1) + 1


def outcome(call: Callable[[], object]) -> str:
    """The name of kinfolk's error that a call raises, empty when it raises none."""
    try:
        call()
    except kin.KinfolkError as error:
        return type(error).__name__
    return ""
