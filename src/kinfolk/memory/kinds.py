"""Every kind of memory by its scheme, each loaded when first asked for, as channels' mechanisms are."""

from __future__ import annotations

from functools import cache

from kinfolk.memory.contract import Kind

#: In the order in which people meet them.
SCHEMES = ("memfd", "shm", "sysv-shm", "file")


@cache
def load(scheme: str) -> Kind:
    """The kind of a scheme. Raises KeyError where there is none."""
    match scheme:
        case "memfd":
            from kinfolk.memory.memfd import KIND
        case "shm":
            from kinfolk.memory.posix import KIND
        case "sysv-shm":
            from kinfolk.memory.sysv import KIND
        case "file":
            from kinfolk.memory.mapped_file import KIND
        case _:
            raise KeyError(scheme)
    return KIND
