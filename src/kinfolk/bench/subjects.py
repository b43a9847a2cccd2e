"""All that can be measured, by name: kinfolk's mechanisms, the kernel's own, the peers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable

from kinfolk.bench import bare_slots, channel_subjects, kernel_subjects
from kinfolk.bench.peers import (
    faster_fifo_peer,
    iceoryx_peer,
    multiprocessing_peers,
    nng_peer,
    subetha_peer,
    zmq_peer,
)
from kinfolk.bench.subject import Subject
from kinfolk.errors import InvalidValue

ALL: tuple[Subject, ...] = (
    *channel_subjects.SUBJECTS,
    *kernel_subjects.SUBJECTS,
    *multiprocessing_peers.SUBJECTS,
    *faster_fifo_peer.SUBJECTS,
    *zmq_peer.SUBJECTS,
    *nng_peer.SUBJECTS,
    *iceoryx_peer.SUBJECTS,
    *subetha_peer.SUBJECTS,
)

#: A yardstick is measured where a suite asks for it, and not listed.
_BY_NAME = {subject.name: subject for subject in (*ALL, bare_slots.SUBJECT)}


def find(name: str) -> Subject:
    """The subject of that name; ``pipe`` is ``kin pipe``. Raises InvalidValue."""
    found = _BY_NAME.get(name) or _BY_NAME.get(f"kin {name.removesuffix(':')}")
    if found is None:
        raise InvalidValue(
            f"there is no mechanism {name!r} to measure", remedy="see kin bench --list"
        )
    return found


def chosen(names: Iterable[str], *, peers: bool) -> list[Subject]:
    """Those named, or all but the peers; with ``peers`` those too. Raises InvalidValue."""
    named = [find(name) for name in names]
    without = named or [subject for subject in ALL if subject.family != "peer"]
    those = [subject for subject in ALL if subject.family == "peer" and subject not in without]
    return without + (those if peers else [])


def version_of(subject: Subject) -> str | None:
    """The version of a peer's package; empty for what needs none, None where it is missing."""
    if not subject.package:
        return ""
    try:
        return importlib.metadata.version(subject.package)
    except importlib.metadata.PackageNotFoundError:
        return None
