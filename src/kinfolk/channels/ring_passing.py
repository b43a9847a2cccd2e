"""An end of a ring that comes from another process, or is a clone: made of the descriptors and figures that came along.

Rule: who makes it has taken over the memory and the membership, also when that raises.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from kinfolk.channels.presence import Presence
from kinfolk.channels.ring_options import Terms
from kinfolk.descriptors import Descriptor

EndT_co = TypeVar("EndT_co", covariant=True)


class Kind(Protocol[EndT_co]):
    """An end's class."""

    def __call__(
        self,
        memory: Descriptor,
        presence: Presence | None,
        name: str,
        subject: str,
        sizes: tuple[int, int],
        terms: Terms,
    ) -> EndT_co:
        """As `kinfolk.channels.ring_transport` has them."""


def rebuilt(
    kind: Kind[EndT_co],
    memory: int,
    member: int | None,
    path: str | None,
    name: str,
    subject: str,
    sizes: tuple[int, int],
    terms: tuple[int | None, bool, bool],
) -> EndT_co:
    """The end, of a ``kind``; descriptors are numbers here. Raises as opening does."""
    presence = None if member is None else Presence.passed(member, path)
    return kind(Descriptor(memory, subject), presence, name, subject, sizes, Terms(*terms))
