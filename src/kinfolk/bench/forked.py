"""Bodies in forked processes, at the same time, each on its CPU; what they return comes back."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import msgspec

from kinfolk.bench.placement import Placement, place


class BodyFailed(Exception):
    """One of them raised, or died."""


def together(*bodies: Callable[[], object], placement: Placement = "apart") -> list[object]:
    """Run all; what each returned (numbers, strings, lists, dicts). Raises BodyFailed."""
    started = [_start(number, body, placement) for number, body in enumerate(bodies)]
    return [_ended(pid, line) for pid, line in started]


def _start(number: int, body: Callable[[], object], placement: Placement) -> tuple[int, int]:
    line, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(line)
            place(number, placement)
            os.write(says, msgspec.json.encode(body()))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(says)
    return pid, line


def _ended(pid: int, line: int) -> object:
    data = b""
    while piece := os.read(line, 65536):
        data += piece
    os.close(line)
    _, status = os.waitpid(pid, 0)
    if status or not data:
        raise BodyFailed(f"process {pid} ended with status {status}")
    return msgspec.json.decode(data)
