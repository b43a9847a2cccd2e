"""`SharedMemory`: memory of several processes, whatever the kernel calls it.

    memory = kin.SharedMemory.create("shm:/frames", size="64M")          one process
    memory = kin.SharedMemory.attach("shm:/frames", read_only=True)      any other

Rules:
1. Who attaches never destroys: closing gives back this process's hold. `unlink` removes the name; lifetime="peers", which the
   creator may ask for, has the last user do it.
2. What looks into the memory (an array, a view, a record) keeps it mapped, and makes its process a user. `close` raises
   StillInUse while there is one; the end of a with block, and dropping the object, leave the closing to the last of them.
3. Memory has no lock: what one process writes, another may see half of. See `kinfolk.Mutex`.
4. Thread-safe. A forked copy shares the memory, and is a user like any other.
"""

from __future__ import annotations

import gc
import operator
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, overload

from kinfolk import interpreter_exit
from kinfolk.addresses import read_size
from kinfolk.deadlines import Deadline
from kinfolk.errors import Closed, InvalidValue, StillInUse, Unsupported, UsageError
from kinfolk.memory import arrays, contract
from kinfolk.memory.address import Lifetime
from kinfolk.memory.contract import Attaching, Passed, Segment
from kinfolk.memory.opening import attachment, creation, kind_of, patience, translated
from kinfolk.memory.records import Record, Records, records
from kinfolk.ownership import check_user, mode_of
from kinfolk.transfer import arrived, carrier
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run


class SharedMemory:
    """A piece of memory that several processes have. Made by `create` and `attach`."""

    def __init__(self, segment: Segment, address: str) -> None:
        """Map a segment, which is taken over."""
        self._address = address
        self._segment: Segment | None = segment
        _segments.add(segment)
        try:
            with translated("can't be mapped", address):
                mapping = segment.map()
        except BaseException:
            segment.close()
            raise
        # What keeps it mapped is this and whatever looks into it; where it is found is the reference.
        self._mapping: contract.Mapping | None = mapping
        self._found = weakref.ref(mapping)
        self._older: list[weakref.ref[contract.Mapping]] = []
        self._size = len(mapping)

    # ── making ───────────────────────────────────────────────────────────────────────────────

    @classmethod
    def create(
        cls,
        address: str = "memfd:",
        size: int | str | None = None,
        *,
        mode: int | str | None = None,
        lifetime: Lifetime | None = None,
        prepare: Callable[[SharedMemory], object] | None = None,
        timeout: float | None = None,
    ) -> Self:
        """New memory, zeroed, with its space reserved: ``shm:/name``, ``sysv-shm:KEY``, ``memfd:``, ``file:/path``.

        ``size`` is in bytes, or text such as 64K; ``mode`` its permission bits (0600), whatever the umask. With
        ``lifetime="peers"`` the last user removes the name, also when he is killed; else it stays until `unlink`. ``prepare`` is
        called with the memory before it has its name: who attaches finds what that wrote. ``timeout``, in seconds, bounds
        the waiting for somebody who is making or removing a name just now.

        Raises AlreadyExists, NoSpace with the figures, LimitReached, AddressError, AccessDenied, Timeout. memfd_create(2),
        shm_open(3), shmget(2), mmap(2).
        """
        kind, parsed = kind_of(address, size=size, mode=mode, lifetime=lifetime)
        if prepare is not None and kind.is_named_at_once(parsed):
            raise Unsupported(
                "it can't be prepared before it has its key",
                subject=str(parsed),
                remedy="use shm:/name, or say in the memory itself when it is ready",
            )
        deadline, turnstile = Deadline(timeout), Turnstile(str(parsed), lambda: None)
        segment = run(creation(kind, parsed), turnstile, deadline, f"{parsed}: create")
        memory = cls(segment, str(parsed))
        try:
            if prepare is not None:
                prepare(memory)
            with translated("can't be given its name", str(parsed)):
                segment.publish()
        except BaseException:
            memory._let_go()
            segment.close()
            raise
        return memory

    @classmethod
    def attach(
        cls,
        address: str,
        *,
        size: int | str | None = None,
        read_only: bool = False,
        private: bool = False,
        owner: int | None = None,
        timeout: float | None = 0,
    ) -> Self:
        """Memory that is there: by its name, its key, or (``memfd:N``) the descriptor N, which is taken over.

        ``size``: how many bytes it has to have at least. ``read_only``: writing raises, and the kernel would not let it
        happen. ``private``: changes are this process's own, and neither kept nor seen. ``owner``: the user whose memory it
        may be, if not our own or root's. ``timeout``: seconds to wait for a name that is not there yet; None waits for ever.

        Raises NotFound, Timeout, UntrustedPeer for another user's, AddressError for what is no memory, InvalidValue for one that is
        too small, AccessDenied, NoSpace, LimitReached. shm_open(3), shmat(2), mmap(2).
        """
        kind, parsed = kind_of(address, size=size)
        steps = attachment(kind, parsed, _how(read_only, private, owner), waits=timeout != 0)
        turnstile = Turnstile(str(parsed), lambda: None)
        return cls(run(steps, turnstile, patience(timeout), f"{parsed}: attach"), str(parsed))

    @classmethod
    async def aattach(
        cls,
        address: str,
        *,
        size: int | str | None = None,
        read_only: bool = False,
        private: bool = False,
        owner: int | None = None,
        timeout: float | None = 0,
    ) -> Self:
        """`attach`, on asyncio."""
        kind, parsed = kind_of(address, size=size)
        steps = attachment(kind, parsed, _how(read_only, private, owner), waits=timeout != 0)
        turnstile = Turnstile(str(parsed), lambda: None)
        segment = await arun(steps, turnstile, patience(timeout), f"{parsed}: attach")
        return cls(segment, str(parsed))

    # ── looking into it ──────────────────────────────────────────────────────────────────────

    @property
    def buf(self) -> memoryview:
        """All of it, as bytes. Raises Closed."""
        return memoryview(self._mapped())

    def array(self, shape: int | tuple[int, ...], dtype: Any = "B", offset: int = 0) -> Any:
        """A NumPy array over it, from the byte ``offset`` on; nothing is copied.

        Raises InvalidValue for what does not fit, or is not aligned; Unsupported without NumPy; Closed.
        """
        return arrays.array(self._mapped(), shape, dtype, offset, self._address)

    @overload
    def struct(self, fields: Mapping[str, str], offset: int = 0, count: None = None) -> Record: ...

    @overload
    def struct(self, fields: Mapping[str, str], offset: int = 0, *, count: int) -> Records: ...

    def struct(
        self, fields: Mapping[str, str], offset: int = 0, count: int | None = None
    ) -> Record | Records:
        """A typed record at the byte ``offset``, or ``count`` of them one after the other, laid out as in C.

        ``fields`` are names and formats of the struct module: ``{"count": "q", "name": "13s", "position": "3d"}``.
        Raises InvalidValue, Closed.
        """
        return records(self.buf, fields, offset, count, self._address)

    def _mapped(self) -> contract.Mapping:
        found = self._found()
        if found is None or self._segment is None:
            raise self._is_closed()
        return found

    # ── what it is ───────────────────────────────────────────────────────────────────────────

    @property
    def address(self) -> str:
        """The address it was made by, without the options."""
        return self._address

    @property
    def size(self) -> int:
        """Bytes that are mapped here."""
        return self._size

    @property
    def read_only(self) -> bool:
        """Whether it can only be read here. Raises Closed."""
        return self._held().read_only

    @property
    def lifetime(self) -> Lifetime:
        """Until it is unlinked ("name"), or as long as somebody uses it ("peers"). Raises Closed."""
        return self._held().lifetime

    @property
    def mode(self) -> int:
        """Its permission bits. Raises Closed."""
        with translated("can't see its mode", self._address):
            return self._held().mode()

    @property
    def id(self) -> int:
        """The id of System V memory, for C programs (shmat(2)). Raises Unsupported, Closed."""
        return self._held().identifier()

    def fileno(self) -> int:
        """Its descriptor, to be passed on (pass_fds=, send_fds). Raises Unsupported for System V memory, Closed."""
        return self._held().fileno()

    def _held(self) -> Segment:
        segment = self._segment
        if segment is None:
            raise self._is_closed()
        return segment

    def _is_closed(self) -> Closed:
        return Closed("this memory is closed", subject=self._address, remedy="attach to it again")

    # ── changing it ──────────────────────────────────────────────────────────────────────────

    def resize(self, size: int | str) -> None:
        """Make it ``size`` bytes long, which is no less than before; what is new is zeroed, and its space reserved.

        Arrays and views that are there stay as they are; others who have it call `remap`. Raises NoSpace, Unsupported for System V
        memory and for less, InvalidValue, Closed.
        """
        segment = self._held()
        try:
            wanted = read_size(size)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidValue(
                f"size={size!r} makes no sense", subject=self._address, why=str(error)
            ) from None
        with translated("can't be resized", self._address):
            segment.grow(wanted)
        self._map_anew(segment)

    def remap(self) -> int:
        """Map what another process has added to it; how many bytes it has now. Raises NoSpace, Closed."""
        segment = self._held()
        with translated("can't be mapped", self._address):
            segment.look()
        self._map_anew(segment)
        return self._size

    def _map_anew(self, segment: Segment) -> None:
        if segment.size == self._size:
            return
        with translated("can't be mapped", self._address):
            mapping = segment.map()
        self._older = [ref for ref in (*self._older, self._found) if ref() is not None]
        self._mapping, self._found, self._size = mapping, weakref.ref(mapping), len(mapping)

    def chmod(self, mode: int | str) -> None:
        """Set its permission bits; who has it attached keeps it. Raises AccessDenied, InvalidValue, Closed."""
        bits = mode_of(mode, self._address)
        with translated("can't change its mode", self._address):
            self._held().chmod(bits)

    def flush(self, offset: int = 0, size: int | None = None) -> None:
        """Have what was changed on the disk when this returns: all, or ``size`` bytes from ``offset`` on. msync(2).

        Does nothing for memory that is on no disk. Raises Unsupported for a private copy, InvalidValue, KernelError when the disk
        fails, Closed.
        """
        segment, mapping = self._held(), self._mapped()
        try:
            start = operator.index(offset)
            length = len(mapping) - start if size is None else operator.index(size)
        except TypeError as error:
            what = f"offset={offset!r}, size={size!r} make no sense"
            raise InvalidValue(what, subject=self._address, why=str(error)) from None
        if segment.private:
            raise Unsupported(
                "a private copy is kept nowhere",
                subject=self._address,
                remedy="attach without private",
            )
        if start < 0 or length < 0 or start + length > len(mapping):
            raise InvalidValue(
                f"bytes {start} to {start + length} are not in it",
                subject=self._address,
                why=f"it has {len(mapping)}",
            )
        with translated("can't be written to its disk", self._address):
            segment.flush(mapping, start, length)

    def unlink(self) -> None:
        """Remove its name, or its key; who has it goes on, and the memory goes with the last of them.

        Raises NotFound when it has gone, Unsupported where there is none, AccessDenied, Closed. shm_unlink(3), shmctl(2).
        """
        with translated("can't remove the name", self._address):
            self._held().unlink()

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._segment is None

    def close(self) -> None:
        """Give it back; the memory stays with those who have it. Closing twice does nothing.

        Raises StillInUse while arrays, views or records of this process look into it: nothing was done then.
        """
        segment = self._segment
        if segment is None:
            return
        if _any_alive(self._older):
            raise self._in_use()
        self._mapping = None
        if _any_alive([self._found]):
            self._mapping = self._found()
            raise self._in_use()
        self._segment = None
        segment.close()

    def _in_use(self) -> StillInUse:
        return StillInUse("something still looks into it", subject=self._address)

    def _let_go(self) -> None:
        """Leave the closing to the last that looks into it."""
        self._segment = self._mapping = None

    def __enter__(self) -> Self:
        self._held()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()

    def __repr__(self) -> str:
        how = " closed" if self.closed else f" {self._size} bytes"
        return f"<kinfolk.SharedMemory {self._address}{how}>"

    # ── other processes ──────────────────────────────────────────────────────────────────────

    def __reduce__(self) -> tuple[Any, ...]:
        segment = self._held()
        carry = carrier(
            "shared memory",
            self._address,
            "give it to a process as an argument when that starts, or attach there",
        )
        make, arguments = segment.passable()
        with translated("can't be passed on", self._address):
            carried = tuple(carry(a.number) if isinstance(a, Passed) else a for a in arguments)
        return _arrive, (self._address, make, carried)


def _arrive(address: str, make: Callable[..., Segment], carried: tuple[Any, ...]) -> SharedMemory:
    """Memory that was passed to this process."""
    arguments = (arrived(a) if hasattr(a, "detach") else a for a in carried)
    with translated("can't attach", address):
        return SharedMemory(make(*arguments), address)


def _how(read_only: bool, private: bool, owner: int | None) -> Attaching:
    if read_only and private:
        raise UsageError("read_only and private exclude each other", remedy="choose one")
    check_user(owner, "memory")
    return Attaching(read_only, private, owner)


def _any_alive(references: list[weakref.ref[contract.Mapping]]) -> bool:
    """Whether anything is still there, garbage not counted (a traceback that nobody needs, for one)."""
    if all(ref() is None for ref in references):
        return False
    gc.collect()
    return any(ref() is not None for ref in references)


# The holds of this process; a mapping may keep one longer than its SharedMemory.
_segments: weakref.WeakSet[Segment] = weakref.WeakSet()

interpreter_exit.close_at_exit(lambda: list(_segments))
