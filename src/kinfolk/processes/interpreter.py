"""Another interpreter like this one: the command that runs some lines of kinfolk's in it.

As multiprocessing does, with the same flags: -O, -W, -X, -I … mean the same there. -P: nothing is imported from the working
directory. sys.path comes along as arguments, because it may have changed since this interpreter began.
"""

from __future__ import annotations

import os
import subprocess
import sys

from kinfolk.errors import Unsupported


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
    words = [sys.executable, *flags, "-P", "-c", lines, *arguments, *import_path()]
    return [os.fsencode(word) for word in words]


def import_path() -> list[str]:
    """sys.path, for a process that stands elsewhere."""
    entries = [entry for entry in sys.path if isinstance(entry, str)]
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was removed, and nothing can be imported from it
        return [entry for entry in entries if os.path.isabs(entry)]
    return [os.path.join(here, entry) if entry else here for entry in entries]
