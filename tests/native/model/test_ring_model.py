"""The ring's algorithm under spin: every interleaving of small rings, with a kill at every step; and each mistake is found.

What is modelled, and what is left out: ring.pml.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

MODEL = Path(__file__).resolve().parent / "ring.pml"
LIMIT = 3000  # seconds

#: Each is a line that the model leaves out, or has in the wrong place.
MISTAKES = {
    1: "it is not looked again between announcing and sleeping",
    2: "the position moves before the message is written",
    3: "who commits has nothing pending",
    4: "who was woken wakes nobody before he goes for it",
    5: "who was woken does not say that others may sleep still",
    6: "who sleeps has nothing pending",
    7: "WAITERS is taken away after the wake-up, not before",
    8: "the kernel knows nothing of the locks",
    9: "the kernel compares WAITERS alone, which may be gone and set again",
}


class Found(NamedTuple):
    """What spin says of a model."""

    errors: int
    states: float
    complete: bool


@pytest.fixture(scope="module")
def verify(tmp_path_factory):
    compiler, spin = shutil.which("cc"), shutil.which("spin")
    if compiler is None or spin is None:
        pytest.skip("these tests need `cc` and `spin` on PATH: apt-get install gcc spin")

    def verified(*, large: bool = False, **numbers: int) -> Found:
        directory = tmp_path_factory.mktemp("model")
        defined = [f"-D{name.upper()}={number}" for name, number in numbers.items()]
        subprocess.run(
            [spin, *defined, "-a", MODEL], cwd=directory, check=True, stdout=subprocess.DEVNULL
        )
        # To optimise takes longer than to search what is small, and so does to keep states tersely.
        how = ("-O2", "-DCOLLAPSE") if large else ("-O0",)
        built = (compiler, *how, "-w", "-DSAFETY", "-DMEMLIM=6000", "-o", "pan")
        subprocess.run([*built, "pan.c"], cwd=directory, check=True)
        # -E: sleeping for ever is no error by itself; the judge in the model knows when it is.
        done = subprocess.run(
            ["./pan", "-E", "-m1000000", "-w23" if large else "-w20"],
            cwd=directory,
            check=True,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        errors = re.search(r"errors: (\d+)", done.stdout)
        states = re.search(r"([\d.e+]+) states, stored", done.stdout)
        assert errors is not None, done.stdout + done.stderr
        assert states is not None, done.stdout
        cut_short = "Search not completed" in done.stdout or "max search depth" in done.stdout
        return Found(int(errors[1]), float(states[1]), not cut_short)

    return verified


@pytest.mark.parametrize(
    ("senders", "receivers", "room", "kills"), [(1, 1, 1, 2), (2, 1, 1, 1), (1, 2, 2, 2)]
)
def test_nothing_is_lost_torn_or_stuck(senders, receivers, room, kills, verify):
    found = verify(senders=senders, receivers=receivers, room=room, kills=kills)
    assert found.errors == 0
    assert found.complete
    assert found.states > 1000


@pytest.mark.soak
@pytest.mark.parametrize(("room", "kills"), [(1, 1), (2, 1), (1, 2)])
def test_two_senders_and_two_receivers(room, kills, verify):
    found = verify(large=True, senders=2, receivers=2, room=room, kills=kills)
    assert found.errors == 0
    assert found.complete


@pytest.mark.parametrize("mistake", MISTAKES, ids=MISTAKES.get)
def test_a_mistake_is_found(mistake, verify):
    senders, receivers = (2, 1) if mistake == 3 else (1, 2)
    assert verify(mistake=mistake, senders=senders, receivers=receivers, room=2).errors
