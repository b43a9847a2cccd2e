"""A ring that is written over while it is used: as threads of C, by the sanitizer (see ring_fuzz.c), and as processes of Python."""

from __future__ import annotations

import faulthandler
import itertools
import mmap
import os
import random
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.c_compiler import NATIVE, SANITIZERS
from tests.conformance.fixtures import peers as peers
from tests.native.test_ring import SOURCES

HERE = Path(__file__).resolve().parent
PARTS = ("header", "senders", "receivers", "bytes", "entries", "members", "blocks")
LIMIT = 120  # seconds

#: What is not checked any more, of which file, and the part in which noise shows it.
MISTAKES = {
    "how long a message is": (
        "ring.c",
        "may_lie(ring, there) && kin_ring_framed(frame->length) <= there",
        "may_lie(ring, there)",
        "bytes",
    ),
    "how far the positions are apart": (
        "ring.c",
        "return between <= ring->capacity;",
        "return ring->capacity != between;",
        "senders",
    ),
    "which block it is": (
        "arena_ring.c",
        "    if (place.unit >= arena->shape.units)\n        return EBADMSG;\n",
        "",
        "bytes",
    ),
    "how long it is in its block": (
        "arena_ring.c",
        " ||\n        place.length > units * arena->shape.unit)",
        ")",
        "bytes",
    ),
    "how many rows there are": (
        "members.c",
        "return number < members->count ? number : members->count;",
        "return number;",
        "members",
    ),
}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    """Compile it; with another file in place of one of native/."""
    directory = tmp_path_factory.mktemp("ring_fuzz")

    def linked(name, instead=None):
        sources = [HERE / "ring_fuzz.c", *(NATIVE / f"{stem}.c" for stem in SOURCES)]
        if instead is not None:
            sources = [*(each for each in sources if each.stem != instead.stem), instead]
        return c_compiler.program(directory / name, sources, *SANITIZERS["address"])

    return linked


def fuzz(program, what, milliseconds, seed):
    done = subprocess.run(
        [program, what, str(milliseconds), str(seed)],
        check=False,
        timeout=LIMIT,
        capture_output=True,
        text=True,
    )
    print(what, seed, done.stdout, done.stderr)
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", [*PARTS, "all", "locks", "acknowledged"])
def test_noise(what, build):
    assert fuzz(build("sound"), what, 300, 1) == (0, "")


@pytest.mark.soak
@pytest.mark.parametrize("what", [*PARTS, "all", "locks", "acknowledged"])
def test_more_noise(what, build):
    for _ in range(3):
        assert fuzz(build("sound"), what, 20_000, random.randrange(1 << 30)) == (0, "")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_noise_finds_what_is_believed(mistake, build, tmp_path):
    source, old, new, what = MISTAKES[mistake]
    text = (NATIVE / source).read_text()
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {source}"
    broken = tmp_path / source
    broken.write_text(text.replace(old, new))
    program = build(f"broken-{list(MISTAKES).index(mistake)}", broken)
    # It ends when it is found, which takes a moment; the time is the limit of a slow machine.
    assert any(fuzz(program, what, 20_000, seed)[0] for seed in range(4))


# ── processes of Python ──────────────────────────────────────────────────────────────────────

#: Where it lies who holds a lock, which can be checked against nothing.
LOCKS = (range(64, 128), range(256, 320), range(512, 576))
ADDRESS = "ring:?capacity=4096&arena=64K"
#: What the processes tell one another: that it is over; that somebody was told what is wrong.
OVER, TOLD = range(2)


def write_over(file: int, rounds: int, dice: random.Random, signs: mmap.mmap) -> None:
    """So often, and until somebody has been told."""
    memory = mmap.mmap(file, 0)
    places = [place for place in range(0, 12 << 10, 8) if not any(place in lock for lock in LOCKS)]
    for number in itertools.count():
        if number >= rounds and signs[TOLD]:
            break
        for _ in range(dice.randrange(6)):
            place = dice.choice(places)
            (was,) = struct.unpack_from("Q", memory, place)
            word = dice.choice(
                (0, 8, 1 << 40 | 16, dice.getrandbits(64), was ^ 1 << dice.randrange(64))
            )
            struct.pack_into("Q", memory, place, word)
        if dice.randrange(3) == 0:  # a ring again, and empty
            struct.pack_into("Q", memory, 320, 0)
            struct.pack_into("Q", memory, 576, 0)
        os.sched_yield()


def uses(voice, call, signs) -> int:
    """Call until it is over, and say when it went well for the first time; errors that are raised are those of kinfolk."""
    well = 0
    while not signs[OVER]:
        try:
            call()
        except kin.Timeout:
            pass
        except kin.KinfolkError:
            signs[TOLD] = 1
        else:
            well += 1
            if well == 1:
                voice.say("it is a ring")
    return well


@pytest.mark.parametrize("rounds", [3000, pytest.param(300_000, marks=pytest.mark.soak)])
def test_what_is_written_over_raises_what_it_may(rounds, peers):
    receiver, sender = kin.channel(ADDRESS, codec="msgpack")
    signs = mmap.mmap(-1, 4096)
    dice = random.Random(rounds)
    transport: Any = receiver._receiving
    file = transport._memory.fileno()

    def receive() -> None:
        got = receiver.recv(timeout=0.01)
        bytes(got) if isinstance(got, memoryview) else repr(got)

    def send() -> None:
        size = dice.choice((0, 40, 900, 5000, 20_000))
        if dice.randrange(2):
            sender.send_bytes(bytes(size), timeout=0.01)
        else:
            with sender.reserve(size, timeout=0.01) as view:
                view[:] = bytes(size)

    users = [peers.fork(uses, call, signs) for call in (send, receive, receive)]
    for user in users:
        user.hear()
    writer = peers.fork(lambda _: write_over(file, rounds, dice, signs))
    writer.result()
    signs[OVER] = 1
    for user in users:
        assert user.result() > 0
    for end in (receiver, sender):
        end.close()


def test_a_process_that_is_killed_meanwhile_is_noticed(peers):
    """The negative control of the last one: what dies is seen."""

    def crash(_) -> None:
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)

    victim = peers.fork(crash)
    with pytest.raises(AssertionError, match="died"):
        victim.result()
