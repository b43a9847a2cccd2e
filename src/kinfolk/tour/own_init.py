"""An init of the tour's own: a child that runs a command by kin.run_as_init, and adopts what is left below it.

    with own_init(hands, "echo ready; read word", prepare) as init:
        init.said                 the first line that the command wrote
        init.end()                the command reads a word, and ends; how many others were reaped

Rules:
1. ``prepare(line)`` is run before, in the process that becomes the init; what it forks is the init's to reap, too.
2. The command ends when it reads a line, or the end of its input.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable, Iterator
from typing import IO

import kinfolk as kin
from kinfolk.tour.processes import PATIENCE, Child, Crew, Line


class OwnInit:
    """The init, and its command's two standard streams. Made by `own_init`."""

    def __init__(self, child: Child, said: str, words: IO[bytes]) -> None:
        self.child, self.said = child, said
        self._words = words

    def end(self) -> int:
        """Let the command end, and with it everything below; how many processes were reaped beside it."""
        self._words.close()
        reaped: int = self.child.result()
        return reaped


@contextlib.contextmanager
def own_init(
    hands: Crew, command: str, prepare: Callable[[Line], object] = lambda line: None
) -> Iterator[OwnInit]:
    """Start it, and wait until its command has said a line."""
    said, say = os.pipe()
    word, give_word = os.pipe()
    with open(said, "rb") as answers, open(give_word, "wb") as words:
        try:
            child = hands.start("init", _be, command, prepare, word, say, closes=[answers, words])
        finally:
            os.close(say)
            os.close(word)
        ready = select.select([answers], [], [], PATIENCE)[0]
        yield OwnInit(child, os.read(said, 100).decode() if ready else "", words)


def _be(line: Line, command: str, prepare: Callable[[Line], object], word: int, say: int) -> int:
    prepare(line)
    os.dup2(word, 0)
    os.dup2(say, 1)
    os.close(word)
    os.close(say)
    return kin.run_as_init(["/bin/sh", "-c", command]).reaped
