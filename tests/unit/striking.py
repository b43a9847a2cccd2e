"""A signal at a chosen instruction of kinfolk's, so that a test reaches every one of them, and none by chance."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any


def striking_at(number: int, sent: signal.Signals, module: str = "kinfolk.") -> Callable[..., Any]:
    """For sys.settrace: sends a signal, which Python handles there, at the n-th instruction of modules that begin so, and at all after it."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if not frame.f_globals.get("__name__", "").startswith(module):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            left -= 1
            if left < 0:
                signal.raise_signal(sent)
        return trace

    return trace
