"""Nothing grows: not by opening and closing, not by use, not by what is dropped or left half read."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.fixtures import main_ways
from tests.conformance.link import REGISTERED, Link
from tests.conformance.peers import HANG, open_descriptors, resident
from tests.conformance.test_messages import pattern
from tests.leaks.cycles import growth

ROOT = Path(__file__).parent.parent.parent
ROUNDS = 200

#: Bytes that may be more after all the rounds: the allocator's own, less than a few bytes a round.
_RESIDENT, _ALLOCATED = 768 << 10, 6 << 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(3000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("scheme", REGISTERED)
def test_nothing_grows_in_a_fresh_process(scheme: str, rounds: int):
    command = [sys.executable, "-W", "error", "-m", "tests.leaks.cycles", scheme, str(rounds)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "unraisable errors or warnings"
    said = json.loads(done.stdout)
    assert said["growth"], "nothing was run"
    for name, found in said["growth"].items():
        assert found.pop("resident") < _RESIDENT, name
        assert found.pop("allocated") < _ALLOCATED, name
        assert not found, name
    assert not said["left"]


def test_the_measure_sees_a_leak():
    """The negative control: 200 bytes and a descriptor a round."""
    kept: list[tuple[bytearray, int]] = []
    try:
        found = growth(lambda: kept.append((bytearray(200), os.dup(0))), ROUNDS)
        assert found["allocated"] > _ALLOCATED
        assert sum(count for what, count in found.items() if "descriptor" in what) == ROUNDS
    finally:
        for _, fd in kept:
            os.close(fd)


def dropped(link: Link) -> list[str]:
    """Drop both ends without closing them; the warnings that came."""
    receiver, sender = link.both()
    sender.send("unread")
    link._ends.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del receiver, sender
        gc.collect()
    return [str(one.message) for one in caught if one.category is ResourceWarning]


def test_dropped_ends_warn_and_leak_nothing(link: Link):
    link.both()  # starts what stays
    link.renew()
    before = open_descriptors()
    for _ in range(3):
        assert len(dropped(link)) >= 2, "a ResourceWarning for each end"
        assert open_descriptors() == before
        if not link.variant.anonymous and not link.outlives:
            assert not link.name_exists()
    receiver, sender = link.both()
    if link.variant.id in (
        "mq-named",
        "sysv-mq-named",
        "file-named",
    ):  # what was sent outlives everybody
        for _ in range(3):
            assert receiver.recv(timeout=HANG) == "unread"
    sender.send("works")
    assert receiver.recv(timeout=HANG) == "works"


def send_until_nobody_reads(sender: Any, voice: Any, size: int) -> None:
    voice.say("open")
    with contextlib.suppress(kin.BrokenChannel, kin.Timeout):
        sender.send_bytes(pattern(size), timeout=1)


@main_ways
def test_half_read_messages_are_given_back(link: Link):
    """A large message of which some has come (or all, where it is one for the kernel) when the receiver is closed."""
    size = link.prepared(lambda end: min(8 << 20, end.limits.max_message))
    before, memory = open_descriptors(), 0
    for _ in range(3):
        receiver, peer = link.from_peer(send_until_nobody_reads, size)
        peer.hear()
        with contextlib.suppress(kin.Timeout):
            receiver.recv_bytes(timeout=0.01)
        receiver.close()
        peer.result()
        link.peers.end()
        del receiver
        link.renew()
        assert open_descriptors() <= before + 1  # the one by which this thread is woken
        memory = memory or resident()
    assert resident() < memory + size / 2 + (1 << 20)
