"""System V semaphores: sets of counts, of which the kernel remembers who took what (semop(2), sysvipc(7)).

    jobs = kin.SysVSemaphore("/srv/jobs#7", value=3)      found by its key, or made with the value 3
    with jobs:                                            one taken, or waited for; put back at the end, also by a SIGKILL
        …
    forks = kin.SysVSemaphore(0x4d2, n=5)
    forks.operate([(0, -1), (1, -1)], timeout=2)          both, or none

    1234, "0x4d2"     a set by its key
    "/path#7"         by the key that ftok(3) makes of a file and a project number (or one letter)
    None              a new one without a key, for forks and processes that it is passed to

With ``undo`` (SEM_UNDO, the default) the kernel adds up what a process has done to each semaphore, and takes it back when the
process ends, however it does. The sum belongs to the *process*:
- it is for what one process both takes and puts back. Where one puts in what another one takes, say ``undo=False``;
- the end of a thread undoes nothing, for its process goes on;
- a forked child begins with nothing to be undone: what its parent took stays its parent's;
- a program that is executed (execve(2)) goes on with the sum of its process, and its end undoes it;
- `set` forgets it, for all processes, for the semaphores that it sets.

Rules:
1. A key leads to a set that has its values (`kinfolk.sync.sysv_set`), ours, root's, or of a user who was named.
2. A set with a key stays until `unlink`. One without is removed with its last user, or, when all were killed, by the next process of this
   user that makes one (`kinfolk.sync.sysv_private`).
3. An acquire that ends by an exception has taken nothing. (Of several operations that also put in, that can't be promised: an
   interrupt in the instant in which they were done is raised after them.)
4. Waiting in a task takes a helper thread, for there is no descriptor to wait on.
"""

from __future__ import annotations

import errno
import operator
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from kinfolk import _native
from kinfolk._native import (
    sysv_sem_about,
    sysv_sem_remove,
    sysv_sem_set_mode,
    sysv_sem_set_value,
    sysv_sem_set_values,
    sysv_sem_values,
)
from kinfolk.addresses import written
from kinfolk.deadlines import NEVER, deadline
from kinfolk.errors import AddressError, Closed, InvalidValue, KinfolkError, from_os_error
from kinfolk.interest import Steps
from kinfolk.ownership import check_user, mode_of
from kinfolk.sync import sysv_private, sysv_sem_errors, sysv_sem_limits, sysv_set
from kinfolk.sync.takings import Takings
from kinfolk.sysv_keys import key_of
from kinfolk.transfer import arrived, carrier
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run

T = TypeVar("T")

_SCHEME = "sysv-sem"
_SEM_UNDO = 0x1000
_SEMBUF = struct.Struct("@Hhh")


class SysVSemaphore(_native.SysvSemaphore):
    """A System V set of ``n`` semaphores, of which the first is what a ``with`` block takes. Thread-safe.

    What a process took, and did not put back, is put back when it ends, unless ``undo`` is False: see the module for what
    that does not cover. Who waits when the set is removed gets NotFound. A forked child has the set, too, but not what its
    parent took.
    """

    #: the greatest value of a semaphore (SEMVMX)
    MOST: ClassVar[int] = sysv_sem_limits.MOST

    _Taking = _native.SysvTaking
    _takings: Takings
    _private: sysv_private.Private | None = None
    _closed = True

    def __init__(
        self,
        key: int | str | None = None,
        *,
        n: int = 1,
        value: int | Sequence[int] | None = 1,
        undo: bool = True,
        mode: int | str = 0o600,
        owner: int | None = None,
    ) -> None:
        """The set of a ``key``, which is made if there is none; without a key a new one.

        A set that is made has ``n`` semaphores, of one ``value`` or one each, and the permission bits of ``mode``, whatever the
        umask: a number, or octal text.
        One that is found has n or more, and keeps its values; with value=None there has to be one. One of another user is refused,
        unless that is the ``owner`` (a user id). With ``undo`` operations are undone when the process ends. semget(2).

        Raises AddressError, InvalidValue, NotFound, UntrustedPeer, AccessDenied, NoSpace, LimitReached, Timeout; CorruptObject for a set that
        another program made, and gave no values.
        """
        subject = _SCHEME if key is None else written(_SCHEME, _name_of(key))
        sysv_sem_limits.check_n(n, subject)
        values = None if value is None else sysv_sem_limits.check_values(value, n, subject)
        check_user(owner, subject)
        terms = sysv_set.Terms(n, values, _bits(mode, subject))
        if key is not None:
            found = sysv_set.find_or_make(_key_of(key), terms, owner, subject)
            self._begin(_opened(found, subject), subject, undo)
        else:
            private = _opened(sysv_private.begin(terms, subject), subject)
            self._begin(private.number, subject, undo, private)

    def _begin(
        self, number: int, subject: str, undo: bool, private: sysv_private.Private | None = None
    ) -> None:
        self._subject, self._undo, self._number, self._private = subject, undo, number, private
        self._takings = Takings(subject)
        if private is not None:
            private.takings = self._takings
        self._closed = False
        self._n = self._asked(sysv_set.status_of).n
        self._open(number, self._n, undo)

    # ── operating: acquire and release are native ────────────────────────────────────────────

    def operate(
        self,
        operations: Iterable[tuple[int, int]],
        timeout: float | None = None,
        *,
        undo: bool | None = None,
    ) -> None:
        """Do several operations as one: all of them, once all can be done, or none. Each is ``(index, delta)``.

        A delta above 0 puts in, one below takes, and 0 waits until the value is 0. Waits up to ``timeout`` seconds; None waits
        for ever, 0 tries. ``undo`` overrides that of the object. Raises as `acquire`. semop(2)
        """
        self._operate(self._packed(operations, undo), timeout)

    async def aoperate(
        self,
        operations: Iterable[tuple[int, int]],
        timeout: float | None = None,
        *,
        undo: bool | None = None,
    ) -> None:
        """`operate`, on asyncio. A task that is cancelled before all was done has done none of it."""
        taking = self._Taking(self, self._packed(operations, undo))
        await self._takings.await_(taking, timeout, self._timed_out)

    async def aacquire(
        self, timeout: float | None = None, *, index: int = 0, count: int = 1
    ) -> None:
        """`acquire`, on asyncio. A task that is cancelled has taken nothing. Raises LimitReached, too, when there can't be a thread."""
        self._check_count(count)
        await self.aoperate([(index, -count)], timeout)

    def wait_for_zero(self, timeout: float | None = None, *, index: int = 0) -> None:
        """Wait until a semaphore's value is 0. In a task: ``await semaphore.aoperate([(index, 0)])``. Raises as `acquire`."""
        self.operate([(index, 0)], timeout)

    def hold(
        self, timeout: float | None = None, *, index: int = 0, count: int = 1
    ) -> AbstractContextManager[Self, None]:
        """``with semaphore.hold(timeout=2, index=3)``: `acquire`, and `release` at the end of the block."""
        which = operator.index(index), operator.index(count)
        return _native.Holding(self._enter, (timeout, *which), self._exit, which)

    async def __aenter__(self) -> Self:
        await self.aacquire()
        self._entered()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.__exit__()

    # ── looking, and setting ─────────────────────────────────────────────────────────────────

    @property
    def n(self) -> int:
        """How many semaphores there are."""
        return self._n

    @property
    def id(self) -> int:
        """The set's id (semid), for programs that take that, and ipcs(1)."""
        return self._number

    @property
    def values(self) -> tuple[int, ...]:
        """All of them, at one moment. Raises NotFound, AccessDenied, Closed. semctl(2), GETALL"""
        return self._asked(sysv_sem_values)

    def set(self, value: int | Sequence[int], *, index: int | None = None) -> None:
        """Give one semaphore a value, or, without an index, all of them, one value or one each. Wakes who waits for it.

        What was to be undone for them is forgotten, for all processes. Raises InvalidValue, LimitReached, NotFound, AccessDenied,
        Closed. semctl(2), SETVAL, SETALL
        """
        if index is None:
            values = sysv_sem_limits.check_values(value, self._n, self._subject)
            self._asked(sysv_sem_set_values, sysv_set.packed(values))
        else:
            self._check_index(index)
            (one,) = sysv_sem_limits.check_values(value, 1, self._subject)
            self._asked(sysv_sem_set_value, index, one)

    def last_pid(self, index: int = 0) -> int:
        """Who changed a semaphore last, or waited for its being 0; 0 for nobody. Raises as `values`. semctl(2), GETPID"""
        self._check_index(index)
        return self._asked(sysv_sem_about, index)[0]

    def waiting(self, index: int = 0) -> tuple[int, int]:
        """How many calls wait for more of a semaphore, and how many for its being 0. Raises as `values`. GETNCNT, GETZCNT"""
        self._check_index(index)
        _, more, zero = self._asked(sysv_sem_about, index)
        return more, zero

    @property
    def owner(self) -> int:
        """The user id of its owner. Raises as `values`."""
        return self._asked(sysv_set.status_of).owner

    @property
    def mode(self) -> int:
        """Its permission bits: to read is to look, to write is to operate. Raises as `values`."""
        return self._asked(sysv_set.status_of).mode & 0o666

    def chmod(self, mode: int | str) -> None:
        """Set its permission bits. Raises as `values`, and InvalidValue. semctl(2), IPC_SET"""
        self._asked(sysv_sem_set_mode, _bits(mode, self._subject))

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def unlink(self) -> None:
        """Remove the set at once: whoever waits, or operates later, gets NotFound; its key can be another's.

        Raises NotFound when it was removed already, AccessDenied, Closed. semctl(2), IPC_RMID
        """
        self._asked(sysv_sem_remove)

    def close(self) -> None:
        """Let go of it. Who waits by this object raises Closed. Nothing is put back before the process ends.

        A set with a key stays; one without goes with its last user. Closing twice does nothing.
        """
        takings = getattr(self, "_takings", None)
        if takings is not None:
            takings.close()
        self._closed = True
        self._close()
        if self._private is not None:
            self._private.leave()

    def __reduce__(self) -> tuple[Any, ...]:
        what = (type(self), self._number, self._subject, self._undo)
        if self._private is None:
            return _arrive, (*what, None)
        carry = carrier(
            "a System V semaphore without a key",
            self._subject,
            "give it to a process as an argument when that starts, or make it with a key",
        )
        return _arrive, (*what, carry(self._private.fileno()))

    def __repr__(self) -> str:
        name = self._subject.removeprefix(f"{_SCHEME}:")
        name = f"id {self._number}" if name == _SCHEME else name
        try:
            return f"<SysVSemaphore {name}, {self.values}>"
        except KinfolkError as error:
            return (
                f"<SysVSemaphore {name}, {'closed' if isinstance(error, Closed) else error.what}>"
            )

    # ── what is asked of the kernel, and of people ───────────────────────────────────────────

    def _wait(self, taking: _native.SysvTaking, timeout: float | None) -> None:
        self._takings.wait(taking, timeout, self._timed_out)

    def _asked(self, function: Callable[..., T], *args: Any) -> T:
        """What a function of semctl(2) says of the set."""
        if self._closed:
            self._refused(errno.EBADF, None)
        try:
            return function(self._number, *args)
        except OSError as error:
            self._refused(error.errno or 0, None)

    def _packed(self, operations: Iterable[tuple[int, int]], undo: bool | None) -> bytes:
        flags = _SEM_UNDO if (self._undo if undo is None else undo) else 0
        packed = bytearray()
        try:
            given = iter(operations)
        except TypeError:
            raise InvalidValue(
                f"{operations!r} are no operations",
                subject=self._subject,
                remedy="give one or more pairs, such as [(0, -1)]",
            ) from None
        for operation in given:
            try:
                index, delta = map(operator.index, operation)
            except (TypeError, ValueError):
                raise InvalidValue(
                    f"{operation!r} is no operation",
                    subject=self._subject,
                    remedy="give pairs of an index and what is to be added, such as (0, -1)",
                ) from None
            self._check_index(index)
            if abs(delta) > self.MOST:
                self._refused(errno.ERANGE, None)
            packed += _SEMBUF.pack(index, delta, flags)
        if not packed:
            raise InvalidValue(
                "there is no operation to be done",
                subject=self._subject,
                remedy="give one or more, such as [(0, -1)]",
            )
        return bytes(packed)

    def _check_index(self, index: int) -> None:
        if not _is_within(index, 0, self._n - 1):
            self._refused(errno.EFBIG, None)

    def _check_count(self, count: int) -> None:
        if not _is_within(count, 1, self.MOST):
            self._refused(errno.EDOM, None)

    def _timed_out(self, timeout: float) -> NoReturn:
        raise sysv_sem_errors.timed_out(timeout, self._number, self._subject)

    def _refused(self, error: int, timeout: Any, /) -> NoReturn:
        if error == errno.EINVAL and timeout is not None:
            deadline(timeout)
        n, number = getattr(self, "_n", 0), getattr(self, "_number", -1)
        raise sysv_sem_errors.refused(error, number, n, getattr(self, "_subject", _SCHEME))


def _arrive(
    cls: type[SysVSemaphore], number: int, subject: str, undo: bool, carried: Any
) -> SysVSemaphore:
    """One that was passed to this process."""
    semaphore = cls.__new__(cls)
    private = None if carried is None else sysv_private.arrived(number, arrived(carried), subject)
    semaphore._begin(number, subject, undo, private)
    return semaphore


def _opened(steps: Steps[T], subject: str) -> T:
    try:
        return run(steps, Turnstile(subject, lambda: None), NEVER, f"{subject}: open")
    except KinfolkError:
        raise
    except OSError as error:
        raise from_os_error(error, "can't open it", subject) from error


def _bits(mode: int | str, subject: str) -> int:
    """Permission bits, without those that mean nothing here: to execute."""
    return mode_of(mode, subject) & 0o666


def _is_within(number: Any, least: int, most: int) -> bool:
    try:
        return least <= operator.index(number) <= most
    except TypeError:
        return False


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


def _key_of(key: int | str) -> int:
    return key_of(_SCHEME, _name_of(key), "kin.SysVSemaphore()", prefix="")


def _name_of(key: int | str) -> str:
    name = str(key)
    try:
        sound = isinstance(key, (int, str)) and not isinstance(key, bool) and "\0" not in name
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise AddressError(
            "this is no key",
            subject=repr(key),
            remedy='give a number, or text such as "0x4d2" or "/path#7"',
        )
    return name
