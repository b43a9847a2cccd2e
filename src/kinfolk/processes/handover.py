"""What was started, until whoever asked for it has it: an interrupt before that ends it, for nobody would know of it.

    the call that starts ── Handover ──> whoever makes the child puts it in, before anything can interrupt him
      └─ has a Process to return, or gives up: killed with all below it

Rules:
1. Python runs signal handlers where a function begins, and where one in C has returned: so what is put in is put in by assignments,
   of the child (`custody`), and there that it is nobody's (`Custody.unheard`): until then a `Process` that is dropped leaves it alone.
2. It does not matter who keeps the exception, its traceback, or an object that was half made.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TypeVar

from kinfolk.errors import KinfolkError
from kinfolk.processes.custody import Custody

T = TypeVar("T")


class Handover:
    """Of one start."""

    #: the child, from the moment at which nobody else would end it
    custody: Custody | None = None

    def taken(self, child: T) -> T:
        """What whoever asked gets: the last thing before it is returned."""
        if self.custody is not None:
            self.custody.unheard = False
        return child

    def give_up(self) -> None:
        """Whoever asked gets nothing: end what was started, if anything was."""
        custody = self.custody
        if custody is None:
            return
        try:
            with contextlib.suppress(KinfolkError):  # no descriptor is left to look around with
                custody.signal_tree(signal.SIGKILL)
            with contextlib.suppress(KinfolkError):
                custody.send(signal.SIGKILL)
        finally:
            custody.abandon()
