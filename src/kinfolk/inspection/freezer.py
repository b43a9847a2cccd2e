"""Frozen processes: those whose control group was told to stand still (cgroups(7); docker pause).

In the unified hierarchy a group's cgroup.events says whether it is frozen; it may be so by an order to any group above it,
in whose cgroup.freeze a 1 stands. The freezer of the first hierarchy is not read: there /proc shows such a process as uninterruptible.
"""

from __future__ import annotations

import os

_MOUNTS = "/proc/self/mounts"


def frozen_by(control_group: str) -> str | None:
    """The file by which a control group is frozen, to which a 0 thaws it; None when it is not, or who knows."""
    top = _unified_hierarchy()
    if top is None or "frozen 1" not in _read(f"{top}{control_group}/cgroup.events").splitlines():
        return None
    group = control_group
    while group not in ("", "/"):
        order = f"{top}{group}/cgroup.freeze"
        if _read(order).strip() == "1":
            return order
        group = os.path.dirname(group)
    return None


def _unified_hierarchy() -> str | None:
    for line in _read(_MOUNTS).splitlines():
        fields = line.split(" ")
        if len(fields) > 2 and fields[2] == "cgroup2":
            return fields[1]
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
