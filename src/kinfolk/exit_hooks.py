"""What this package does when the interpreter ends: one entry of Python's atexit, made when the package is imported.

    atexit: … what was registered before `import kinfolk` │ the entry │ what was registered after it …   (runs from right to left)
                                                               └ the hooks of rooms, the newest first

Rules:
1. So everything runs after the hooks of whoever imported kinfolk: they may still send, and talk to their children. It does not
   depend on when a room was loaded.
2. A room registers when it is loaded, after the rooms that it stands on; so it ends before them.
3. A hook that raises is shown, and the others run.
"""

from __future__ import annotations

import atexit
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_hooks: list[Callable[[], object]] = []


def register(function: Callable[[], object]) -> None:
    """Call a function at the exit of the interpreter. Thread-safe. A forked child inherits it."""
    _hooks.append(function)


def _run() -> None:
    while _hooks:
        try:
            _hooks.pop()()
        except BaseException:
            sys.excepthook(*sys.exc_info())


atexit.register(_run)
