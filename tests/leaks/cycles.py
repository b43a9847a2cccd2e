"""A fresh process that opens, uses and closes channels over and over, and says what grew.

    python -W error -m tests.leaks.cycles SCHEME ROUNDS      one line of JSON: {variant: {what: growth}}

Rounds that warm up come first: caches fill, and what stays for good is started.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinfolk as kin
from tests import leak_check
from tests.conformance.link import Link
from tests.conformance.mechanisms import TABLE, Place, Variant
from tests.conformance.peers import HANG, Peers, resident
from tests.conftest import start_what_stays

_WARM = 50


def one_life(link: Link) -> None:
    """Open, send and receive in every way, leave something unread, close."""
    receiver, sender = link.both()
    sender.send({"n": 1})
    sender.send_bytes(b"bytes")
    assert receiver.recv(timeout=HANG) == {"n": 1}
    assert receiver.recv_bytes(timeout=HANG) == b"bytes"
    sender.send("never read")
    link.renew()


def opening(link: Link) -> Callable[[], None]:
    """A life each round."""
    return lambda: one_life(link)


def using(link: Link) -> Callable[[], None]:
    """One channel; a few messages each round, small and large, and calls that come to nothing."""
    receiver, sender = link.both()
    large = bytes(min(3000, sender.limits.max_message))

    def round_() -> None:
        for thing in (1, "text", large):
            sender.send(thing, timeout=HANG)
            assert receiver.recv(timeout=HANG) == thing
        try:
            receiver.recv(timeout=0)
        except kin.Timeout:
            pass
        try:
            sender.send(lambda: 1)
        except kin.CodecError:
            pass

    return round_


def growth(round_: Callable[[], None], rounds: int) -> dict[str, Any]:
    """What there is more after so many rounds: kernel objects, descriptors, threads; bytes per round."""
    for _ in range(_WARM):
        round_()
    gc.collect()
    before, memory = leak_check.take_snapshot(), resident()
    for _ in range(rounds):
        round_()
    gc.collect()
    found: dict[str, Any] = {
        f"{kind} {what}": count
        for (kind, what), count in (leak_check.take_snapshot() - before).items()
        if kind in ("descriptor", "thread", "native thread")  # the rest is anybody's on this host
    }
    found["resident"] = resident() - memory
    tracemalloc.start()
    try:
        for _ in range(_WARM):
            round_()
        gc.collect()
        # A table that grows does so once; what leaks, each time.
        found["allocated"] = min(_allocated(round_, rounds // 4) for _ in range(2))
    finally:
        tracemalloc.stop()
    return found


def _allocated(round_: Callable[[], None], rounds: int) -> int:
    begun = tracemalloc.get_traced_memory()[0]
    for _ in range(rounds):
        round_()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - begun


def main(scheme: str, rounds: int) -> None:
    """Every main variant of one mechanism."""
    start_what_stays()
    report: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="kf", dir="/tmp") as directory:
        for variant in filter(lambda variant: variant.main, TABLE[scheme]):
            for work in (opening, using):
                link = _link(variant, directory)
                report[f"{variant.id} {work.__name__}"] = growth(work(link), rounds)
                link.close()
        left = sorted(path.name for path in Path(directory).iterdir())
    print(json.dumps({"growth": report, "left": left}))


def _link(variant: Variant, directory: str) -> Link:
    return Link(variant, Place(Path(directory)), Peers())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
