"""A program and its words, as execve(2) takes them: bytes without a zero, checked before anything is done.

Rules:
1. Text is encoded as file names are (os.fsencode), so what came from sys.argv or os.listdir goes back as it was.
2. A program without a slash is looked for in the directories of PATH, as execvpe(3) does: of the environment that it is to have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from kinfolk.errors import InvalidValue

#: Text, bytes or a path.
Word = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

#: Where execvp(3) looks when there is no PATH.
USUAL_PATH = b"/bin:/usr/bin"


def encode(word: Word, what: str) -> bytes:
    """One word; ``what`` it is, for the message. Raises InvalidValue."""
    try:
        # What os.fsencode does, which takes four calls for it.
        encoded = word.encode(_ENCODING, _ERRORS) if type(word) is str else os.fsencode(word)
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidValue(
            f"{what} is {word!r}", why=str(error), remedy="give text, bytes or a path"
        ) from error
    if b"\0" in encoded:
        raise InvalidValue(
            f"{what} holds a zero byte",
            subject=repr(word),
            why="the kernel ends a word there",
            remedy="leave it out, or pass the data through a pipe",
        )
    return encoded


def encode_words(words: Sequence[Word]) -> list[bytes]:
    """The arguments, the name that the program is called by first. Raises InvalidValue."""
    # Lists and tuples first: to ask for a Sequence takes ten times as long.
    is_sequence = isinstance(words, list | tuple) or (
        isinstance(words, Sequence) and not isinstance(words, str | bytes)
    )
    if not is_sequence or not words or not words[0]:
        raise InvalidValue(
            f"the arguments are {words!r}",
            remedy='give a sequence that begins with the program\'s name, such as ["ls", "-l"]',
        )
    return [encode(word, f"argument {number}") for number, word in enumerate(words)]


def encode_environment(env: Mapping[str, str] | Mapping[bytes, bytes]) -> list[bytes]:
    """``NAME=value`` of each. Raises InvalidValue."""
    if not isinstance(env, Mapping):
        raise InvalidValue(f"the environment is {env!r}", remedy="give a mapping, or None")
    lines = []
    for name, value in env.items():
        key = encode(name, "the name of a variable")
        if not key or b"=" in key:
            raise InvalidValue(
                f"no variable can be called {name!r}", remedy="give a name without an equals sign"
            )
        lines.append(key + b"=" + encode(value, f"the variable {os.fsdecode(key)}"))
    return lines


def candidates(program: bytes, path: bytes | None = None) -> list[bytes]:
    """The files that ``program`` may mean, in the order to try them. Raises InvalidValue for an empty one.

    ``path`` takes the place of this process's PATH.
    """
    if not program:
        raise InvalidValue("the program has no name", remedy="name a program, or a path to one")
    if b"/" in program:
        return [program]
    if path is None:
        path = os.environb.get(b"PATH", USUAL_PATH)
    # An empty element means the working directory.
    return [os.path.join(directory or b".", program) for directory in path.split(b":")]
