"""Another interpreter like this one: the command that runs some lines of kinfolk's in it.

As multiprocessing does, with the same flags: -O, -W, -X, -I … mean the same there. -P: nothing is imported from the working
directory. sys.path comes along as arguments, because it may have changed since this interpreter began.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

from kinfolk.errors import InvalidValue, Unsupported
from kinfolk.processes.program import encode


def command(call: str, *arguments: str) -> list[bytes]:
    """The words of a command that calls ``module:function`` with some arguments. Raises Unsupported."""
    if not sys.executable:
        raise Unsupported(
            "no other interpreter can be started",
            why="this one does not know its own program: sys.executable is empty",
            remedy='set sys.executable, or start programs with containment="direct"',
        )
    module, _, function = call.partition(":")
    lines = (
        f"import sys; count = {len(arguments)}; sys.path[:] = sys.argv[1 + count:]; "
        f"from {module} import {function}; {function}(*sys.argv[1:1 + count])"
    )
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    words = [sys.executable, *flags, "-P", "-c", lines, *arguments]
    return [*map(os.fsencode, words), *import_path()]


def arguments() -> list[bytes]:
    """sys.argv, for another process. Raises InvalidValue for what is no argument."""
    return [encode(word, f"sys.argv[{n}]") for n, word in enumerate(getattr(sys, "argv", ()))]


def import_path() -> list[bytes]:
    """sys.path, for a process that stands elsewhere. What can't be the name of a file is left out: nothing is imported from it."""
    entries = [encoded for entry in sys.path if (encoded := _as_file_name(entry)) is not None]
    try:
        here = os.getcwdb()
    except FileNotFoundError:  # it was removed, and nothing can be imported from it
        return [entry for entry in entries if os.path.isabs(entry)]
    return [os.path.join(here, entry) if entry else here for entry in entries]


def check_names(modules: Iterable[object]) -> None:
    """Of modules that are to be imported in another process. Raises InvalidValue for what is no name."""
    for name in modules:
        if not isinstance(name, str) or not name.isprintable():
            raise InvalidValue(
                f"no module is called {name!r}", remedy='give names, such as "numpy.linalg"'
            )


def _as_file_name(entry: object) -> bytes | None:
    if not isinstance(entry, str) or "\0" in entry:
        return None
    try:
        return os.fsencode(entry)
    except UnicodeEncodeError:
        return None
