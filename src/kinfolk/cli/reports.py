"""What was done: nothing for a person who asked for nothing, one JSON object for a program that did (--json).

The object goes to standard output, unless that carries the data; then to standard error.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from kinfolk.cli.failures import STDOUT, file_error
from kinfolk.cli.signals import StandardOutputClosed


class Report:
    """Counts while a command runs."""

    def __init__(self, command: str, **facts: Any) -> None:
        """``facts`` stand in the report as they are."""
        self._facts = {"command": command, **facts}
        self._start = time.monotonic()
        self.messages = 0
        self.bytes = 0

    def add(self, size: int) -> None:
        """One more message of ``size`` bytes."""
        self.messages += 1
        self.bytes += size

    def finish(self, *, to_stderr: bool, **facts: Any) -> None:
        """Write the report."""
        seconds = round(time.monotonic() - self._start, 6)
        counted = {"messages": self.messages, "bytes": self.bytes, "seconds": seconds}
        emit({**self._facts, **counted, **facts}, to_stderr=to_stderr)


def emit(facts: dict[str, Any], *, to_stderr: bool) -> None:
    """Write one JSON object on a line of its own."""
    print_bytes(json.dumps(facts).encode() + b"\n", to_stderr=to_stderr)


def print_bytes(data: bytes, *, to_stderr: bool = False) -> None:
    """Write bytes to standard output (or error) at once. Nobody reading any more ends the command quietly."""
    while data:
        try:
            data = data[os.write(2 if to_stderr else 1, data) :]
        except BrokenPipeError:
            raise StandardOutputClosed from None
        except OSError as error:
            raise file_error(error, "can't be written", STDOUT) from error


def amount(size: int) -> str:
    """A number of bytes for people, in powers of 1000, as disks and rates are given."""
    if size < 1000:
        return f"{size} bytes"
    scaled, units = float(size), "kMGTPE"
    for unit in units:
        scaled /= 1000
        if scaled < 999.95:
            return f"{scaled:.1f} {unit}B"
    return f"{size} bytes"
