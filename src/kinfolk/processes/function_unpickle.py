"""How a function and its arguments are unpickled in the process that runs them.

    by value: cloudpickle._make_… ── cloudpickle._…_setstate(thing, state) ──> what stood in __main__ is in __main__ here, too

Rules:
1. What came along of the owner's ``__main__``, classes and functions, is in ``__main__`` here by the same name. So pickle finds it by that name:
   their objects can be sent to the owner, received from him, and copied here.
2. What did not come along is not there: the function, or what it uses, has to mention it.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any, Protocol

#: What fills in a class or a function that travels by value; from then on it has its name.
_FILLED_IN = ("_class_setstate", "_function_setstate")


class Readable(Protocol):
    """A file, or what is mapped from one."""

    def read(self, size: int = ..., /) -> bytes:
        """As of files."""

    def readline(self) -> bytes:
        """As of files."""


def load(pickled: Readable) -> Any:
    """What was pickled."""
    return _Unpickler(pickled).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name in _FILLED_IN and module.partition(".")[0] == "cloudpickle":
            return _then_known(found)
        return found


def _then_known(fill_in: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def filled_in(thing: Any, state: Any) -> Any:
        result = fill_in(thing, state)
        name = thing.__qualname__
        if thing.__module__ == "__main__" and name.isidentifier():  # else it is part of another
            setattr(sys.modules["__main__"], name, thing)
        return result

    return filled_in
