"""Memory as a NumPy array. NumPy is not needed for anything else here.

The array refers to the mapping, by whatever way NumPy takes (of a buffer it keeps the object, and often no export), and the
mapping lives as long as the array.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from kinfolk.errors import InvalidValue, KinfolkError, Unsupported
from kinfolk.memory.contract import Mapping

# What it raises for a dtype that it can't parse, or a shape that it can't count.
_OF_NUMPY = (
    TypeError,
    ValueError,
    SyntaxError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)


def array(mapping: Mapping, shape: Any, dtype: Any, offset: int, subject: str) -> Any:
    """An array over a mapping. Raises InvalidValue for what does not fit, Unsupported without NumPy."""
    try:
        import numpy as np
    except ImportError as error:
        raise Unsupported(
            "an array needs NumPy",
            subject=subject,
            why=str(error),
            remedy="install numpy, or use buf or struct()",
        ) from None
    try:
        kind = np.dtype(dtype)
        lengths = tuple(map(operator.index, shape if np.iterable(shape) else (shape,)))
        start = operator.index(offset)
        _check(kind, lengths, start, len(mapping), subject)
        return np.ndarray(lengths, kind, np.frombuffer(memoryview(mapping), np.uint8), start)
    except InvalidValue:
        raise
    except _OF_NUMPY as error:
        raise InvalidValue("there is no such array", subject=subject, why=str(error)) from None


def _check(kind: Any, lengths: tuple[int, ...], start: int, size: int, subject: str) -> None:
    if kind.hasobject:
        raise _refused(f"dtype {kind} holds Python objects, which are of one process", subject)
    if min(lengths, default=0) < 0:
        raise _refused(f"shape {lengths} has a negative length", subject)
    if start < 0 or start % kind.alignment:
        raise _refused(
            f"offset {start} is {'negative' if start < 0 else f'no multiple of {kind.alignment}'}",
            subject,
        )
    needed = math.prod(lengths) * kind.itemsize
    if start + needed > size:
        raise _refused(
            f"shape {lengths} of {kind} at {start} needs {start + needed} bytes, and there are {size}",
            subject,
        )


def _refused(why: str, subject: str) -> KinfolkError:
    return InvalidValue("there can't be such an array", subject=subject, why=why)
