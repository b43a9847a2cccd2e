"""Stop `file-lock`: several processes on one shared file. The source's 总结 (几个进程可以在文件系统中读写某个共享文件，也可以通过给文件加锁来实现进程间同步).

It shows
- an update that is lost because two processes read before either has written, and none that is lost under a lock (flock(2), fcntl(2));
- that readers share, that a writer waits for them, and who it is that one waits for;
- bytes of a file that are locked each for itself;
- that a killed holder's lock is free at once, also when a child that it had forked lives on; and that a file which is left behind is no lock.
"""

from __future__ import annotations

import os
import time

import kinfolk as kin
from kinfolk.tour.evidence import watched
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import HANG_LIMIT, PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, scratch_directory

_WORKERS, _TURNS = 4, 50


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the parts."""
    with scratch_directory() as directory:
        path = f"{directory}/shared"
        open(path, "x").close()
        _lose(narrator, path)
        _count(narrator, path)
        _share(narrator, path)
        _parts(narrator, path)
        _kill(narrator, path)


def _lose(narrator: Narrator, path: str) -> None:
    _write(path, 0)
    with crew() as hands:
        both = [hands.start(f"writer {number}", _add_one, path) for number in (1, 2)]
        for writer in both:
            writer.hear()  # it has read
        for writer in both:
            writer.tell("write")
            writer.result()
    count = _read(path)
    narrator.says(
        f"Processes {both[0].pid} and {both[1].pid} each added 1 to a number in {path}, which was 0. Each had read before the other one wrote: now "
        f"it is {count}."
    )
    narrator.check("without a lock an update was lost", count == 1, str(count))


def _count(narrator: Narrator, path: str) -> None:
    _write(path, 0)
    with crew() as hands:
        workers = [hands.start(f"worker {n}", _add_many, path) for n in range(_WORKERS)]
        for worker in workers:
            worker.result()
    count, expected = _read(path), _WORKERS * _TURNS
    narrator.says(
        f"{_WORKERS} processes added 1 to it {_TURNS} times each, under a lock: now it is {count}."
    )
    narrator.check("under a lock none was lost", count == expected, f"{count} of {expected}")


def _share(narrator: Narrator, path: str) -> None:
    lock = kin.FileLock(path)
    with crew() as hands:
        readers = [hands.start(f"reader {n}", _hold, path, True, 0, None) for n in (1, 2)]
        for reader in readers:
            reader.hear()
        why = ""
        try:
            _try(lock, 0.05)
        except kin.Timeout as error:
            why = error.why
        with lock.hold(shared=True, timeout=PATIENCE):
            both = all(str(reader.pid) in why for reader in readers)
        for reader in readers:
            reader.tell("enough")
            reader.result()
        with lock.hold(timeout=PATIENCE):
            alone = True
    narrator.says(
        f"Two readers have it locked, shared; a third one came in. Who would write was told: “{why}”. When they had left, he got it."
    )
    narrator.check("readers share, and keep out who would write", both and alone, why)
    narrator.check("who waits in vain is told for whom", both, why)


def _parts(narrator: Narrator, path: str) -> None:
    with crew() as hands:
        other = hands.start("writer", _hold, path, False, 0, 8)
        other.hear()
        met = outcome(lambda: _try(kin.FileLock(path, length=8)))
        rest = outcome(lambda: _try(kin.FileLock(path, start=8)))
        other.tell("enough")
        other.result()
    narrator.says(
        f"Process {other.pid} had bytes 0 to 7 locked. Of these {met}; of byte 8 and all that follow: {rest or 'locked at once'}."
    )
    narrator.check("bytes are locked each for itself", (met, rest) == ("Timeout", ""), met + rest)


def _kill(narrator: Narrator, path: str) -> None:
    lock = kin.FileLock(path)
    with crew() as hands:
        parent = hands.start("holder", _hold_and_fork, path)
        with watched(parent.hear()) as child:
            kept = outcome(lambda: _try(lock)) == "Timeout"
            moment = parent.kill()
            free = outcome(lambda: _try(lock, PATIENCE)) == ""
            took = time.monotonic() - moment
            lives = not child.ended(0)
    narrator.says(
        f"Process {parent.pid} had it locked, forked {child.pid}, and was killed. {took * 1000:.1f} ms after the SIGKILL it was locked by {os.getpid()}, while {child.pid} "
        f"still ran. The file is there as before ({os.path.getsize(path)} bytes), and says nothing of who had it: a file that is left is no lock."
    )
    narrator.figure("seconds_after_sigkill", took)
    narrator.check("a killed holder's lock was free", kept and free and os.path.exists(path))
    narrator.check("a child that it had forked did not keep it", free and lives)


# ── what the processes do ────────────────────────────────────────────────────────────────────


def _add_one(line: Line, path: str) -> None:
    count = _read(path)
    line.tell("read")
    line.hear()
    _write(path, count + 1)


def _add_many(line: Line, path: str) -> None:
    lock = kin.FileLock(path)
    for _ in range(_TURNS):
        with lock.hold(timeout=PATIENCE):
            count = _read(path)
            os.sched_yield()  # what happens to every process sooner or later
            _write(path, count + 1)


def _hold(line: Line, path: str, shared: bool, start: int, length: int | None) -> None:
    with kin.FileLock(path, start=start, length=length).hold(PATIENCE, shared=shared):
        line.tell("locked")
        line.hear()


def _hold_and_fork(line: Line, path: str) -> None:
    lock = kin.FileLock(path)
    lock.acquire(PATIENCE)
    child = os.fork()
    if child == 0:
        time.sleep(HANG_LIMIT)
        os._exit(0)
    line.tell(child)
    line.hear()


def _try(lock: kin.FileLock, timeout: float = 0) -> None:
    with lock.hold(timeout):
        return


def _read(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def _write(path: str, number: int) -> None:
    with open(path, "r+") as file:
        file.write(f"{number:8}")


STOP = Stop("file-lock", "File locks: several processes on one file", "总结 (给文件加锁)", visit)
