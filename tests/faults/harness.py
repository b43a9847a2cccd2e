"""The fault harness: plays cases of C code in shared memory, killing a process at every instruction, or at random.

`harness.h` says what a case is, `harness.c` plays it; a file of cases is compiled together with the sources it is about. For
a new object: a file of cases, a list of sources, and tests that ask for `steps` and `storm`.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.c_compiler import NATIVE, CCompiler

HERE = Path(__file__).resolve().parent

#: Milliseconds after which a process is stuck. Generous: only who is stuck waits them out.
HANG = 20_000
#: Where they are expected to be; and after how many that went wrong the rest need not be played.
HANG_OF_BROKEN = 200
ENOUGH, ENOUGH_OF_BROKEN = 3, 1
LIMIT = 3600


class Outcome(NamedTuple):
    """Of so many plays, each with a kill at another point."""

    points: int
    #: somebody never came to his end
    stuck: int
    #: two held it at once, or what it guards was wrong
    violated: int
    #: plays in which the victim slept
    asleep: int

    @property
    def flawless(self) -> bool:
        """Whether no kill did any harm."""
        return self.points > 0 and self.stuck == self.violated == 0


class Harness:
    """A compiled one."""

    def __init__(self, program: Path) -> None:
        """Around the program."""
        self._program = program

    def steps(self, case: str, *, every: int = 1, broken: bool = False) -> Outcome:
        """Kill at each instruction, or ``every`` so many from a random one on; a ``broken`` one until it shows."""
        return self._run("steps", case, broken, random.randrange(every), every)

    def catches(self, case: str, *, every: int) -> bool:
        """Whether a broken one shows, by a kill at one of ``every`` so many instructions, ten times over.

        Fewer are tried first: to come to a point takes all the steps before it, and most mistakes show at many of them.
        """
        rounds = (16 * every, 4 * every, 4 * every, *[every] * 10)
        return any(not self.steps(case, every=each, broken=True).flawless for each in rounds)

    def storm(self, case: str, count: int, *, longest: int, broken: bool = False) -> Outcome:
        """Kill ``count`` times, after at most ``longest`` microseconds."""
        return self._run("storm", case, broken, count, random.randrange(1 << 30), longest)

    def _run(self, mode: str, case: str, broken: bool, *numbers: int) -> Outcome:
        limits = (HANG_OF_BROKEN, ENOUGH_OF_BROKEN) if broken else (HANG, ENOUGH)
        command = [str(self._program), mode, case, *map(str, (*limits, *numbers))]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)
        found = re.search(r"points (\d+) stuck (\d+) violated (\d+) asleep (\d+)", done.stdout)
        assert found, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        if done.stderr:
            print(" ".join(command), done.stderr, sep="\n")
        return Outcome(*map(int, found.groups()))


class Build:
    """Compiles harnesses, each once."""

    def __init__(self, compiler: CCompiler, directory: Path) -> None:
        """Into a directory."""
        self._compiler, self._directory = compiler, directory

    def __call__(
        self, name: str, cases: str, sources: Sequence[str], *flags: str, **broken: Path
    ) -> Harness:
        """The harness ``name`` of a file of cases and sources of native/; those of ``broken`` by their stems instead."""
        paths = [broken.get(stem, NATIVE / f"{stem}.c") for stem in sources]
        ours = (HERE / "harness.c", HERE / cases)
        return Harness(
            self._compiler.program(
                self._directory / name, [*ours, *paths], *flags, include=[NATIVE, HERE]
            )
        )


def broken(directory: Path, source: str, *changes: tuple[str, str]) -> Path:
    """A copy of a source of native/ with mistakes: each ``(old, new)`` must be there once."""
    text = (NATIVE / source).read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {source}"
        text = text.replace(old, new)
    path = directory / source
    path.write_text(text)
    return path
