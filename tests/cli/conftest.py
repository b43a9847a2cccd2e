"""`kin` as a real process: `kin.run(…)` to its end, `kin.start(…)` beside the test.

A return code is given as a shell shows it: 128 + n for a process that signal n killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.interop.conftest import (
    c_program as c_program,
)
from tests.interop.conftest import (
    claim_sysv_key as claim_sysv_key,
)
from tests.interop.conftest import (
    fifo as fifo,
)
from tests.interop.conftest import (
    finish as finish,
)
from tests.interop.conftest import (
    mq_name as mq_name,
)
from tests.interop.conftest import (
    start as start,
)
from tests.interop.conftest import (
    sysv_key as sysv_key,
)

HANG_LIMIT = 60.0  # seconds; only what never ends reaches it
COMMAND = (sys.executable, "-m", "kinfolk")


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str


class Running:
    """A `kin` that runs."""

    def __init__(
        self, words: tuple[Any, ...], options: dict[str, Any], command: tuple[str, ...] = COMMAND
    ) -> None:
        self.words = words
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(
            [*command, *map(os.fspath, map(str, words))], bufsize=0, **{**pipes, **options}
        )

    def line(self) -> str:
        """The next line of its standard error, without the newline."""
        assert self.process.stderr is not None
        fd, line, deadline = self.process.stderr.fileno(), b"", time.monotonic() + HANG_LIMIT
        while not line.endswith(b"\n"):
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                pytest.fail(f"kin {self.words} said only {line!r}")
            byte = os.read(fd, 1)
            if not byte:
                break
            line += byte
        return line.decode().removesuffix("\n")

    def listening(self) -> str:
        """The address that it says it listens on."""
        line = self.line()
        assert line.startswith("listening on "), line
        return line.removeprefix("listening on ")

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """For what the kernel announces to nobody, such as another process being asleep."""
        deadline = time.monotonic() + HANG_LIMIT
        while not holds():
            assert self.process.poll() is None, self.end()
            assert time.monotonic() < deadline, f"kin {self.words} did not get there"
            time.sleep(0.002)

    def wait_until_blocked(self) -> None:
        """Until it sleeps in poll(2) or epoll_wait(2), with its work begun."""
        path = f"/proc/{self.process.pid}/wchan"

        def blocked() -> bool:
            with open(path) as file:
                where = file.read()
            return "poll" in where or where.startswith("ep_")

        self.wait_until(blocked)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, stdin: bytes | None = None) -> Ended:
        out, err = self.process.communicate(stdin, timeout=HANG_LIMIT)
        code = self.process.returncode
        return Ended(128 - code if code < 0 else code, out or b"", (err or b"").decode())


class Kin:
    """Starts `kin`."""

    def __init__(self) -> None:
        self.running: list[Running] = []

    def start(self, *words: Any, command: tuple[str, ...] = COMMAND, **options: Any) -> Running:
        """Start it; ``options`` are those of Popen."""
        self.running.append(Running(words, options, command))
        return self.running[-1]

    def run(self, *words: Any, stdin: bytes = b"", **options: Any) -> Ended:
        """Run it to its end."""
        return self.start(*words, **options).end(stdin)

    def succeed(self, *words: Any, stdin: bytes = b"", **options: Any) -> bytes:
        """Run what must succeed without a word on standard error; its standard output."""
        ended = self.run(*words, stdin=stdin, **options)
        assert (ended.code, ended.err) == (0, "")
        return ended.out


@pytest.fixture
def kin() -> Iterator[Kin]:
    runner = Kin()
    yield runner
    for running in runner.running:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
    for running in runner.running:
        with contextlib.suppress(ValueError):  # its pipes were closed by the test
            try:
                running.process.communicate(timeout=HANG_LIMIT)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.communicate()
                pytest.fail(f"kin {running.words} did not end on SIGTERM")


def one_line(ended: Ended) -> str:
    """What was said on standard error, which has to be one line and no traceback."""
    assert ended.err.endswith("\n"), ended
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    return ended.err[:-1]
