"""Objects by name: each is a file of its own, /dev/shm/kinfolk-UID/KIND-NAME, made by the first who opens it.

    found   open ── what is it, and whose? ── space ── map ── begin
    made    a file without a name ── space ── map ── begin ── linkat(2) ──> the name

Rules:
1. A file is 0600, ours, no symlink and as large as it has to be, or it is refused.
2. The name comes last, when the object in there is open in this process. So an opening that fails leaves none.
3. It is looked up and given under a lock (`kinfolk.sync.name_lock`).
4. The names of one user are his own. For several users, an object lies inside memory that both may write to.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any, Protocol
from urllib.parse import quote

from kinfolk import runtime_directory
from kinfolk.errors import CorruptObject, InvalidValue, UntrustedPeer
from kinfolk.nameless_file import NamelessFile
from kinfolk.sync import name_lock, places

_LONGEST_NAME = 200  # of what stands for a name in a file name of at most 255 bytes


class Begins(Protocol):
    """An object that is to be opened."""

    def _begin(self, place: places.Place, option: Any = None) -> None: ...

    def close(self) -> None:
        """Undo that."""


def open_named(
    what: Begins,
    option: Any,
    kind: str,
    name: str,
    size: int,
    sizes: tuple[int, int] | None = None,
) -> None:
    """Have an object begin, with its ``option``, in a file of its own, made with ``size`` bytes if there is none.

    One that is there has to be as large; or, where a kind has several ``sizes``, between the least and the greatest. Then all of it is mapped.

    Raises what `_begin` does, and InvalidValue, UntrustedPeer, CorruptObject, NoSpace, AccessDenied, LimitReached, Timeout.
    """
    if not _is_name(name):
        raise InvalidValue(
            f"{name!r} names no {kind}",
            remedy="give a name of one character or more, without NUL and halves of surrogate pairs",
        )
    subject = f"{kind} {name}"
    path = path_of(kind, name)

    def found_or_made() -> places.Place | None:
        try:
            number = _open(path)
        except FileNotFoundError:
            _make(path, kind, subject, size, what, option)
            return None
        return places.found(kind, subject, number, path, lambda n: _check(n, path, size, sizes))

    place = name_lock.under(found_or_made, subject, size)
    if place is not None:
        what._begin(place, option)


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def path_of(kind: str, name: str) -> str:
    """Where the object of a name lies, or would lie."""
    quoted = quote(name, safe="", errors="surrogateescape")
    if len(quoted) > _LONGEST_NAME:
        quoted = "#" + hashlib.sha256(quoted.encode()).hexdigest()
    return f"{runtime_directory.path_name()}/{kind}-{quoted}"


def _open(path: str) -> int:
    # O_NONBLOCK: what was planted there may be a FIFO.
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _make(path: str, kind: str, subject: str, size: int, what: Begins, option: Any) -> None:
    """Have an object begin in a new file. Called under the lock."""
    file = NamelessFile(path)
    try:
        number = file.descriptor.fileno()
        os.fchmod(number, 0o600)  # the umask may have taken more than it should
        os.posix_fallocate(number, 0, size)
        place = places.unnamed(kind, file, subject, size)
        what._begin(place, option)  # or closes the place
        try:
            place.take_name(file)
        except BaseException:
            what.close()
            raise
    finally:
        file.close()


def _check(number: int, path: str, size: int, sizes: tuple[int, int] | None) -> int:
    """How much of a file there is to be mapped."""
    least, most = sizes or (size, None)
    status = os.fstat(number)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise UntrustedPeer(
            "others may write to it",
            subject=path,
            why=f"it is of user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
            remedy="remove it, as root if need be",
        )
    has = status.st_size
    if not stat.S_ISREG(status.st_mode) or has < least or (most is not None and has > most):
        raise CorruptObject(
            "this is no file of kinfolk's",
            subject=path,
            why=f"it has {has} bytes, and {least} are needed"
            + ("" if most is None else f", and {most} the most"),
            remedy="remove it",
        )
    return size if sizes is None else has
