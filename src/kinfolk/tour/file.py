"""The first stop: a real file goes from one process to another over every mechanism there is.

It belongs to the source's named pipes (命名管道), whose sender.c and receiver.c copy /var/log/syslog
through a FIFO, and to its closing comparison (总结), which is measured here.

    this process ── first message: how many bytes, and their SHA-256 ──> a forked child
                 ── the bytes, in messages that fit the mechanism ─────>  writes them to a file
                 <── what it measured and found, by a line of its own ──  reads that file again, hashes

Rules:
1. The far side hashes what it reads back from its own file, not what it received.
2. The clock runs from the first message to the last byte written; hashing is outside of it.
3. A mechanism that fails is a row that says why, and a failed check; the others are still tried.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import kinfolk as kin
from kinfolk.tour.links import Link, links
from kinfolk.tour.narrator import Column, Narrator, mib_a_second, reason
from kinfolk.tour.processes import PATIENCE, Child, ChildFailed, Line, crew
from kinfolk.tour.stop import Stop, Walk, scratch_directory

#: What "a file of some MB" means.
_LARGE_ENOUGH = 4 << 20

_COLUMNS = (
    Column("mechanism", "mechanism", number=False),
    Column("message_size", "message size", "{:,}".format),
    Column("messages", "messages", "{:,}".format),
    Column("bytes", "bytes", "{:,}".format),
    Column("seconds", "seconds", "{:.3f}".format),
    Column("mib_per_second", "MiB/s", "{:,.0f}".format),
    Column("verdict", "SHA-256", number=False),
)


class Cargo(NamedTuple):
    """The file to be moved, as it was when it was looked at."""

    path: str
    size: int
    sha256: str
    modified: int


def visit(narrator: Narrator, walk: Walk) -> None:
    """Move the file over every mechanism."""
    cargo = inspect(walk.file)
    narrator.says(
        f"{cargo.path}, {cargo.size:,} bytes, goes from this process ({os.getpid()}) to a child, "
        "which writes it to a file of its own and hashes that."
    )
    narrator.figure("file", cargo.path)
    narrator.figure("sha256", cargo.sha256)
    narrator.figure("bytes", cargo.size)
    with scratch_directory() as directory:
        ways = links(directory)
        rows: list[dict[str, Any]] = []
        problems: list[tuple[str, Exception]] = []
        with narrator.progress(cargo.size * len(ways)) as advance:
            for link in ways:
                try:
                    rows.append(_move(link, cargo, directory, advance))
                except (kin.KinfolkError, ChildFailed, OSError) as error:
                    rows.append({"mechanism": link.label, "verdict": reason(error)})
                    problems.append((link.label, error))
    narrator.table("transfers", _COLUMNS, rows)
    _judge(narrator, cargo, rows, problems)


def inspect(path: str) -> Cargo:
    """Hash a file."""
    digest = hashlib.sha256()
    size = 0
    for piece in _pieces(path, 1 << 20):
        digest.update(piece)
        size += len(piece)
    return Cargo(path, size, digest.hexdigest(), os.stat(path).st_mtime_ns)


def file_to_move(path: str | None) -> str:
    """The path itself, if it can be moved; for None, a file of some MB that this machine surely has.

    That is the interpreter, its library, or another one that it uses: the first of at least 4 MiB,
    else the largest. Raises NotFound, AccessDenied, InvalidValue.
    """
    if path is not None:
        _check_readable(path)
        return path
    found = [path for path in _candidates() if os.access(path, os.R_OK)]
    large = (path for path in found if os.path.getsize(path) >= _LARGE_ENOUGH)
    return next(large, None) or max(found, key=os.path.getsize)


def _check_readable(path: str) -> None:
    remedy = "name another one with --file"
    if not os.path.exists(path):
        raise kin.NotFound("there is no such file to move", subject=path, remedy=remedy)
    if not os.path.isfile(path):
        raise kin.InvalidValue("only a regular file can be moved", subject=path, remedy=remedy)
    if not os.access(path, os.R_OK):
        raise kin.AccessDenied("the file to move can't be read", subject=path, remedy=remedy)


def _candidates() -> Iterator[str]:
    yield os.path.realpath(sys.executable)
    library = sysconfig.get_config_var("INSTSONAME") or ""
    directory = sysconfig.get_config_var("LIBDIR") or ""
    yield os.path.join(directory, library)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:  # the C library and every other one in this process
            _, separator, path = line.rstrip("\n").partition("/")
            if separator and not path.endswith(" (deleted)"):
                yield "/" + path


# ── one mechanism ────────────────────────────────────────────────────────────────────────────


def _move(
    link: Link, cargo: Cargo, directory: str, advance: Callable[[str, int], None]
) -> dict[str, Any]:
    copy = os.path.join(directory, "copy")
    with link.laid(), crew() as hands:
        child = hands.start("receiver", _receive, link, copy)
        size, started = _send(link, cargo, child, advance)
        arrived = child.result()
    os.unlink(copy)
    seconds = arrived["finished"] - started
    return {
        "mechanism": link.label,
        "message_size": size,
        "messages": arrived["messages"],
        "bytes": arrived["bytes"],
        "seconds": seconds,
        "mib_per_second": mib_a_second(arrived["bytes"], seconds),
        "sha256": arrived["sha256"],
        "verdict": "ok" if arrived["as_announced"] else "differs",
    }


def _send(
    link: Link, cargo: Cargo, child: Child, advance: Callable[[str, int], None]
) -> tuple[int, float]:
    """What the message size was, and when the first one went out."""
    child.hear()  # the name is there: how long a child takes to start is not the mechanism's
    with link.open_sender() as sender:
        size = min(link.worth_while, sender.limits.max_message)
        started = time.monotonic()
        sender.send({"bytes": cargo.size, "sha256": cargo.sha256}, timeout=PATIENCE)
        for piece in _pieces(cargo.path, size):
            sender.send_bytes(piece, timeout=PATIENCE)
            advance(link.label, len(piece))
        child.hear()  # it has got everything: closing a connection early would hide a loss
    return size, started


def _receive(line: Line, link: Link, copy: str) -> dict[str, Any]:
    """The far side, in a process of its own."""
    with link.open_receiver() as receiver, open(copy, "wb") as file:
        line.tell("ready")
        announced = receiver.recv(timeout=PATIENCE)
        missing, messages = announced["bytes"], 0
        while missing > 0:
            piece = receiver.recv_bytes(timeout=PATIENCE)
            _store(file.fileno(), piece)
            missing -= len(piece)
            messages += 1
            line.alive()
        finished = time.monotonic()
        line.tell("complete")
    again = inspect(copy)
    return {
        "messages": messages,
        "bytes": again.size,
        "finished": finished,
        "sha256": again.sha256,
        "as_announced": again.sha256 == announced["sha256"],
    }


def _store(fd: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _pieces(path: str, size: int) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(size):
            yield piece


# ── what came of it ──────────────────────────────────────────────────────────────────────────


def _judge(
    narrator: Narrator,
    cargo: Cargo,
    rows: list[dict[str, Any]],
    problems: list[tuple[str, Exception]],
) -> None:
    changed = os.stat(cargo.path).st_mtime_ns != cargo.modified
    for label, problem in problems:
        narrator.unavailable(label, problem)
    for row in rows:
        if "sha256" in row:
            narrator.check(
                f"{row['mechanism']}: all {cargo.size:,} bytes arrived with the same SHA-256",
                row["verdict"] == "ok" and row["bytes"] == cargo.size,
                "the file changed meanwhile: name one that rests, with --file"
                if changed
                else f"{row['bytes']:,} bytes with SHA-256 {row['sha256']}",
            )
    measured = [row for row in rows if row.get("mib_per_second")]
    if len(measured) > 1:
        fastest = max(measured, key=lambda row: row["mib_per_second"])
        slowest = min(measured, key=lambda row: row["mib_per_second"])
        narrator.says(
            f"Here and now {fastest['mechanism']} was the fastest, {slowest['mechanism']} the "
            "slowest; numbers of one machine at one moment."
        )


STOP = Stop(
    "file",
    "a real file, from process to process over every mechanism",
    "命名管道 (sender.c, receiver.c) and 总结",
    visit,
)
