"""A lock on a file: between any processes that can open it, kinfolk's or not, and released by the kernel when its holder dies.

    lock = kin.FileLock("/srv/data/counter")             nothing is opened yet
    with lock:                                           exclusive: opened, locked … unlocked, closed
        count = int(os.pread(lock.fileno(), 20, 0))
    with lock.hold(shared=True, timeout=2):              shared, with others that share
    async with lock:                                     in a task

    kind      of what             owner, to the kernel         conflicts with
    ofd       bytes, or all       an open file description     fcntl, lockf and OFD locks of every program
    flock     all                 an open file description     flock(2), flock(1)
    posix     bytes, or all       the process                  as ofd

Rules:
1. The object is a name and what of it is to be locked; each acquisition opens the file for itself. So threads, tasks and processes are alike: a second one
   waits, shares, times out.
2. It belongs to the thread or task that acquired it, which can't acquire it again, and alone can release it. But the kernel knows of no threads: one
   that ends without releasing leaves it locked until the object is dropped or the process ends.
3. A forked child has none of what its parent holds (`kinfolk.sync.lock_table`), and neither has a program that is executed.
4. A file that is there is no lock, whatever is written in it: it is locked while somebody has it locked. So it may be left behind.
5. Who has waited looks whether the name is still the file's (`kinfolk.sync.lock_path`).
"""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Any, Literal, Self

from kinfolk import _native
from kinfolk.deadlines import Deadline, deadline
from kinfolk.errors import (
    Deadlock,
    ForkedCopy,
    InvalidValue,
    NotOwner,
    Timeout,
    Unsupported,
)
from kinfolk.interest import Interest, Steps
from kinfolk.ownership import check_user, mode_of
from kinfolk.sync import lock_table
from kinfolk.sync.lock_holders import blockers
from kinfolk.sync.lock_holds import END, FlockHold, Hold, OfdHold, span
from kinfolk.sync.lock_owner import Owner, this_task, this_thread
from kinfolk.sync.lock_path import LockPath, absolute
from kinfolk.sync.posix_hold import PosixHold
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run

LockKind = Literal["ofd", "flock", "posix"]

_KINDS: dict[str, type[Hold]] = {"ofd": OfdHold, "flock": FlockHold, "posix": PosixHold}


class FileLock(_native.Leaving):
    """A lock on a file or on some bytes of it, exclusive or shared. As a context manager it acquires and releases.

    Thread-safe; a forked child has a copy that holds nothing, and may acquire it for itself.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: LockKind = "ofd",
        start: int = 0,
        length: int | None = None,
        mode: int | str = 0o600,
        create: bool = True,
        owner: int | None = None,
    ) -> None:
        """Name the file; nothing is opened. A relative path counts from the present directory, for good.

        Locked are ``length`` bytes from ``start`` on; without a length, all that follow, however far the file will grow. There need not be such
        bytes. A file that is missing is made, empty, with the permission bits ``mode`` whatever the umask, unless ``create`` is
        False. ``owner``: the user whose file it may be, if not our own or root's.

        Raises InvalidValue, NotFound without a present directory. fcntl(2), flock(2), F_OFD_SETLK(2const).
        """
        name = absolute(path)
        if not isinstance(kind, str) or kind not in _KINDS:
            raise InvalidValue(
                f"there is no kind {kind!r}", subject=name, remedy='give "ofd", "flock" or "posix"'
            )
        self._span = span(start, length, name)
        if kind == "flock" and self._span != (0, 0):
            raise Unsupported(
                "flock locks whole files", subject=name, remedy='for a part of one use kind="ofd"'
            )
        mode = mode_of(mode, name)
        check_user(owner, name)
        self._file = LockPath(name, mode=mode, create=create, owner=owner)
        self._made_of = (name, kind, start, length, mode, create, owner)
        self._kind = _KINDS[kind]
        self._holds: dict[Owner, Hold] = {}

    @property
    def path(self) -> str:
        """The name of the file, absolute."""
        return self._file.path

    # ── acquiring ────────────────────────────────────────────────────────────────────────────

    def acquire(self, timeout: float | None = None, *, shared: bool = False) -> None:
        """Lock it for the calling thread; ``shared`` with others that share. Waits up to ``timeout`` seconds; None: for ever.

        Raises Timeout, naming who holds it where that can be seen; Deadlock when this thread has it already, or (posix) the kernel sees a
        circle of processes that wait for each other; UntrustedPeer, NotFound, AccessDenied, InvalidValue for what can't be locked, Unsupported by
        its file system, LimitReached, NoSpace. An exclusive lock, but for flock, takes a file that may be written to.
        """
        until, owner = deadline(timeout), this_thread()
        self._refuse_twice(owner)
        known: list[str] = []
        try:
            steps = self._steps(owner, until, shared, known)
            interest = next(steps, None)
            if interest is not None:  # mostly there is nothing to wait for
                turnstile = Turnstile(self.path, lambda: None)
                run(_going_on(interest, steps), turnstile, until, self.path)
        except Timeout as error:
            raise self._not_acquired(error, until, known) from None
        except BaseException:
            self._let_go(owner)
            raise

    async def aacquire(self, timeout: float | None = None, *, shared: bool = False) -> None:
        """`acquire`, for the calling task of asyncio: another task of its loop waits for it, and may go on meanwhile."""
        until, owner = deadline(timeout), this_task()
        if owner is None:
            raise Unsupported(
                "there is no task of asyncio here", subject=self.path, remedy="use acquire"
            )
        self._refuse_twice(owner)
        known: list[str] = []
        try:
            steps = self._steps(owner, until, shared, known)
            interest = next(steps, None)
            if interest is not None:
                turnstile = Turnstile(self.path, lambda: None)
                await arun(_going_on(interest, steps), turnstile, until, self.path)
        except Timeout as error:
            raise self._not_acquired(error, until, known) from None
        except BaseException:
            self._let_go(owner)
            raise

    def _refuse_twice(self, owner: Owner) -> None:
        found = self._holds.get(owner)
        if found is not None and found.locked:
            raise Deadlock(
                f"{owner} has locked it already",
                subject=self.path,
                why="it would wait for itself for ever",
                remedy="release it first",
            )

    def _steps(self, owner: Owner, until: Deadline, shared: bool, known: list[str]) -> Steps[None]:
        while True:
            hold = self._begun(owner, shared)
            try:
                while (interest := hold.attempt()) is not None:
                    yield interest
                if self._file.has_name(hold.inode):
                    self._holds[owner] = hold
                    return
            finally:
                if self._holds.get(owner) is not hold:
                    with contextlib.closing(hold):
                        if until.passed():
                            known[:] = blockers(hold, search=until.timeout != 0)

    def _begun(self, owner: Owner, shared: bool) -> Hold:
        """The file opened, and nothing locked yet."""
        while True:
            forks = lock_table.forks
            file = self._file.open(writable=not shared, must=self._kind.writes)
            hold = self._kind(file, self._span, owner, self.path, shared=shared)
            if lock_table.forks == forks:
                return hold
            hold.close()  # a child may have a copy that it knows nothing of

    def _let_go(self, owner: Owner) -> None:
        """Have nothing, after an exception that came when it was locked already."""
        hold = self._holds.get(owner)
        if hold is not None:
            hold.close()

    def _not_acquired(self, error: Timeout, until: Deadline, known: list[str]) -> Timeout:
        if until.timeout is None:  # somebody else's, out of a signal handler
            return error
        holding = " and ".join(known)
        return Timeout(
            "not acquired",
            subject=self.path,
            why=f"{holding or 'somebody'} {'hold' if len(known) > 1 else 'holds'} it after {until.timeout:g} s",
            remedy="see what holds it, or wait longer",
        )

    # ── releasing ────────────────────────────────────────────────────────────────────────────

    def release(self) -> None:
        """Unlock it. Raises NotOwner, ForkedCopy in a child whose parent holds it.

        Also NotOwner when a POSIX lock was lost meanwhile: this process has closed another descriptor of the file.
        """
        self._release(self._mine())

    def _release(self, hold: Hold) -> None:
        try:
            hold.check()
        finally:
            del self._holds[hold.owner]  # an exception from here on drops it, and that closes it
            hold.close()

    def _leave(self, begun: list[Hold]) -> None:
        # The end of a block: again with the same list when a signal handler has ended it.
        if not begun:
            begun.append(self._mine())
        (hold,) = begun
        if self._holds.get(hold.owner) is hold:
            self._release(hold)
        else:
            hold.close()

    def downgrade(self) -> None:
        """Share from now on what was exclusive, without a moment in which it is not locked.

        Raises NotOwner, ForkedCopy, Unsupported for flock. There is no way back: two who want it would wait for each other.
        """
        self._mine().downgrade()

    def _mine(self) -> Hold:
        """What the caller holds."""
        for owner in (this_task(), this_thread()):
            hold = None if owner is None else self._holds.get(owner)
            if hold is None:
                continue
            if hold.forked:
                raise ForkedCopy(
                    "this process does not hold it",
                    subject=self.path,
                    why="it was acquired before the fork, by the parent, which still has it",
                    remedy="acquire it here too, or fork outside the with block",
                )
            if hold.locked:
                return hold
        held = [str(hold.owner) for hold in self._holds.values() if hold.locked]
        raise NotOwner(
            "this thread does not hold it",
            subject=self.path,
            why=f"{' and '.join(held)} acquired it"
            if held
            else "nobody acquired it by this object",
            remedy="let the thread or task that acquired it release it",
        )

    # ── what is locked ───────────────────────────────────────────────────────────────────────

    @property
    def held(self) -> bool:
        """Whether the calling thread or task holds it."""
        owners = (this_task(), this_thread())
        holds = [self._holds.get(owner) for owner in owners if owner is not None]
        return any(hold is not None and hold.locked for hold in holds)

    def fileno(self) -> int:
        """The descriptor by which the caller has locked the file, to read and (if it is exclusive) write there with os.pread, os.pwrite.

        It is closed by `release`; close nothing else on a file that is locked by kind="posix". Raises NotOwner, ForkedCopy.
        """
        return self._mine().fileno()

    def unlink(self) -> None:
        """Remove the file's name, while holding all of it exclusively: who waits for it will make a new one.

        (Programs that do not look again after they got a lock will not: for them, leave the file.) Raises NotOwner, ForkedCopy,
        Unsupported, NotFound when the name is another file's by now, AccessDenied.
        """
        hold = self._mine()
        if hold.shared or self._span != (0, 0):
            raise Unsupported(
                "it can't be removed under others who lock it",
                subject=self.path,
                why="only a part of it is locked, or it is shared",
                remedy="lock all of it exclusively",
            )
        self._file.unlink(hold.inode)

    # ── with ─────────────────────────────────────────────────────────────────────────────────

    def hold(self, timeout: float | None = None, *, shared: bool = False) -> Holding:
        """``with lock.hold(shared=True, timeout=2)``, or ``async with``: as ``with lock``, acquired like that."""
        return Holding(self, timeout, shared)

    def __enter__(self) -> Self:
        return self._entered(None, shared=False)

    def _entered(self, timeout: float | None, *, shared: bool) -> Self:
        owner = this_thread()
        before = self._holds.get(owner)
        try:
            self.acquire(timeout, shared=shared)
            return self
        except BaseException:  # of a signal handler, when it was acquired: nobody would release it
            if self._holds.get(owner) is not before:
                self._let_go(owner)
            raise

    # __exit__ is native, and calls _leave.

    async def __aenter__(self) -> Self:
        await self.aacquire()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, self._made_of

    def __repr__(self) -> str:
        part = "" if self._span == (0, 0) else f" bytes {self._span.start}-{self._last()}"
        held = [str(hold.owner) for hold in self._holds.values() if hold.locked]
        state = f"held by {' and '.join(held)}" if held else "not held here"
        return f"<FileLock {self.path}{part} ({self._made_of[1]}), {state}>"

    def _last(self) -> str:
        return "" if self._span.end == END else str(self._span.end - 1)


class Holding(_native.Leaving):
    """Made by `FileLock.hold`."""

    def __init__(self, lock: FileLock, timeout: float | None, shared: bool) -> None:
        self._lock, self._timeout, self._shared = lock, timeout, shared

    def __enter__(self) -> FileLock:
        return self._lock._entered(self._timeout, shared=self._shared)

    async def __aenter__(self) -> FileLock:
        await self._lock.aacquire(self._timeout, shared=self._shared)
        return self._lock

    def _leave(self, begun: list[Hold]) -> None:
        self._lock._leave(begun)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()


def _going_on(interest: Interest, steps: Steps[None]) -> Steps[None]:
    """Steps of which the first was taken already."""
    with contextlib.closing(steps):
        yield interest
        yield from steps


def _again(
    path: str,
    kind: LockKind,
    start: int,
    length: int | None,
    mode: int,
    create: bool,
    owner: int | None,
) -> FileLock:
    return FileLock(
        path, kind=kind, start=start, length=length, mode=mode, create=create, owner=owner
    )
