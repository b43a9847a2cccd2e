"""What every object has that lies somewhere (`kinfolk.sync.places`): an end, a name, the way to another process.

A class of objects has its native type first, and this behind it:

    class Event(_native.Event, Placed):
        KIND, SIZE = "event", 192

Rules:
1. It is opened once, by `_begin`, and keeps its place until it is closed; what was made without being opened is as good as closed.
2. The native side refuses by the errno of its core, and `_refused` says what that means: here, what it means for all of them.
"""

from __future__ import annotations

import errno
import os
from typing import Any, ClassVar, NoReturn, Self

from kinfolk.deadlines import deadline
from kinfolk.errors import Closed, CorruptObject, InvalidValue, KernelError, StillInUse, Unsupported
from kinfolk.sync import names, places
from kinfolk.sync.findings import ALIGNMENT as _ALIGNMENT
from kinfolk.sync.findings import Finding, refusal, too_many


class Placed:
    """An object that lies somewhere, without the native side."""

    KIND: ClassVar[str]
    #: bytes that it takes inside memory
    SIZE: ClassVar[int]
    #: what its offset is a multiple of
    ALIGNMENT: ClassVar[int] = _ALIGNMENT

    _place: places.Place
    #: what it was opened with, besides its place
    _option: Any

    @classmethod
    def _at(cls, place: places.Place, option: Any = None) -> Self:
        """A new one, in a place that it takes over."""
        new = cls.__new__(cls)
        new._begin(place, option)
        return new

    def _begin(self, place: places.Place, option: Any = None) -> None:
        """Open it, in a place that it takes over. Raises CorruptObject, InvalidValue, LimitReached, Unsupported."""
        try:
            place.open(self, self._size(option), option)  # type: ignore[arg-type]
        except BaseException:
            place.close()
            raise
        self._place, self._option = place, option

    def _begin_named(
        self, name: str, option: Any = None, sizes: tuple[int, int] | None = None
    ) -> None:
        """Open the one of this user's ``name``, or make it, of the right size, or one of the possible ``sizes``."""
        names.open_named(self, option, self.KIND, name, self._size(option), sizes)

    @classmethod
    def _size(cls, option: Any) -> int:
        """How many bytes one takes that is opened with an ``option``."""
        return cls.SIZE

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Let go of it; others keep it. Closing twice does nothing.

        Raises StillInUse while a thread or task of this process uses it: its memory is looked at.
        """
        self._close()  # type: ignore[attr-defined]
        self._where.close()

    def unlink(self) -> None:
        """Remove its name; who has it open keeps it, and who opens the name later makes another.

        Raises NotFound when it was removed already, Unsupported for one without a name.
        """
        self._where.unlink()

    def __reduce__(self) -> tuple[Any, ...]:
        if not hasattr(self, "_place"):
            self._refused(errno.EBADF, None)
        return _arrive, (
            type(self),
            self._option,
            self._size(self._option),
            *self._place.passable(),
        )

    @property
    def _where(self) -> places.Place:
        return getattr(self, "_place", None) or places.Place(self.KIND, self.KIND, None, 0)

    @property
    def _subject(self) -> str:
        return self._where.subject

    def _named(self) -> str:
        """Which one, without its kind."""
        return self._subject.removeprefix(self.KIND).strip() or "anonymous"

    # ── what the native side refuses ─────────────────────────────────────────────────────────

    def _refused(self, error: int, timeout: Any, /) -> NoReturn:
        subject = self._subject
        match error:
            case errno.EINVAL:
                deadline(timeout)
                raise InvalidValue(f"timeout={timeout!r} makes no sense", subject=subject)
            case errno.EBADF:
                raise Closed(f"this {self.KIND} is closed", subject=subject)
            case errno.EEXIST:
                raise InvalidValue(
                    "it was opened already", subject=subject, remedy="make another object"
                )
            case errno.EBUSY:
                raise StillInUse(
                    "it can't be closed",
                    subject=subject,
                    why="a thread or task of this process waits for it",
                    remedy="wake them first",
                )
            case errno.EILSEQ:
                raise CorruptObject("its memory was overwritten", subject=subject)
            case errno.ENOLCK:
                raise too_many(subject)
            case errno.ENOTSUP:
                raise refusal(Finding.UNSUPPORTED, self.KIND, subject, 0)
            case errno.EXDEV:
                raise Unsupported(
                    "this process is in another pid namespace by now",
                    subject=subject,
                    remedy="use it in the namespace that it was opened in",
                )
            case _:
                raise KernelError(os.strerror(error), subject=subject, code=error)


def _arrive(cls: type[Placed], option: Any, size: int, *place: Any) -> Placed:
    return cls._at(places.arrive(size, *place), option)
