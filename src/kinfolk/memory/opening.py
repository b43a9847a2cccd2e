"""How memory is created and attached to: the address, the kind, waiting for a name. `SharedMemory` is made of what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kinfolk.deadlines import Deadline
from kinfolk.errors import AddressError, InvalidValue, KinfolkError, NotFound, from_os_error
from kinfolk.interest import Steps
from kinfolk.memory.address import Address, parse, restrict
from kinfolk.memory.contract import Attaching, Kind, Segment
from kinfolk.memory.kinds import SCHEMES, load
from kinfolk.rendezvous import NotYet, retry, wait_for_path

#: Seconds in which somebody who is just looking or removing is done, for a call that does not wait for a name.
_MOMENT = 1.0


@contextlib.contextmanager
def translated(what: str, subject: str) -> Iterator[None]:
    """Whatever a system call raises in the block comes out as an error of kinfolk."""
    try:
        yield
    except KinfolkError:
        raise
    except OSError as error:
        raise from_os_error(error, what, subject) from error


def kind_of(address: str, **options: Any) -> tuple[Kind, Address]:
    """The kind of an address, and the address with the options of the call. Raises AddressError."""
    parsed = parse(address, **options)
    if parsed.scheme not in SCHEMES:
        raise AddressError(
            f"there is no kind of memory {parsed.scheme!r}",
            subject=address,
            remedy="the kinds are " + ", ".join(f"{scheme}:" for scheme in SCHEMES),
        )
    kind = load(parsed.scheme)
    kind.check(parsed)
    return kind, parsed


def creation(kind: Kind, address: Address) -> Steps[Segment]:
    """Create what an address asks for, complete but for its name. Raises what `Kind.create` does, InvalidValue without a size."""
    size = address.options.size
    if size is None:
        raise InvalidValue(
            "how large is it to be?",
            subject=str(address),
            remedy="give size=, in bytes or as 64K, 1M",
        )
    with translated("can't be created", str(address)):
        return (yield from retry(lambda: kind.create(address, size)))


def attachment(kind: Kind, address: Address, how: Attaching, *, waits: bool) -> Steps[Segment]:
    """Attach, waiting for the name if it ``waits``. Raises what `Kind.attach` does."""
    restrict(address, frozenset({"size"}), "attaching")
    subject, path = str(address), kind.path(address)

    def attempt() -> Segment:
        try:
            return kind.attach(address, how)
        except NotFound:
            if waits:
                raise NotYet from None
            raise

    with translated("can't attach", subject):
        if waits and path is not None:
            return (yield from wait_for_path(path, attempt))
        return (yield from retry(attempt))


def patience(timeout: float | None) -> Deadline:
    """The deadline of an attachment; 0 waits for no name, but lets others finish."""
    return Deadline(_MOMENT if timeout == 0 else timeout)
