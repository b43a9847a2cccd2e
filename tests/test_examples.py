"""What is shown to users runs, and says what the page says: examples/, and every block of the guide that has an output."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

import kinfolk as kin

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
GUIDE = ROOT / "docs" / "guide"

#: Against hanging.
HANG = 60


def run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python on some words, to its end."""
    command = [sys.executable, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended


def ask(address: str, message: bytes) -> bytes:
    with kin.connect(address, framing="raw", timeout=HANG) as connection:
        connection.send_bytes(message, timeout=HANG)
        return connection.recv_bytes(timeout=HANG)


def test_every_example_is_tested():
    source = Path(__file__).read_text()
    assert [each.name for each in EXAMPLES.glob("*.py") if f'"{each.name}"' not in source] == []


# ── the supervisor ───────────────────────────────────────────────────────────────────────────


def test_the_supervisor_starts_a_crashed_worker_anew():
    lines = run(EXAMPLES / "supervisor.py").stdout.splitlines()
    assert lines.pop() == f"the sum is {sum(range(3_000_000))}"
    assert sorted(lines) == [
        "worker 1, life 1: exited 0",
        "worker 2, life 1: killed by SIGKILL",
        "worker 2, life 2: exited 0",
        "worker 3, life 1: exited 0",
    ]


# ── the daemon ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def pid_file(short_directory: Path) -> Iterator[Path]:
    path = short_directory / "echo.pid"
    yield path
    kin.stop_daemon(path, timeout=HANG)


def test_the_daemon_answers_as_soon_as_it_has_started(short_directory, pid_file):
    run(EXAMPLES / "daemon.py", short_directory)
    assert ask(f"unix:{short_directory}/echo.sock", b"hello") == b"hello"
    second = run(EXAMPLES / "daemon.py", short_directory, status=1)
    assert "its daemon is running" in second.stderr
    assert kin.stop_daemon(pid_file, timeout=HANG) == signal.SIGTERM
    assert (short_directory / "echo.log").read_text() == "ready\nended by SIGTERM\n"
    assert [each.name for each in short_directory.iterdir()] == ["echo.log"]


def test_a_daemon_that_can_not_start_says_why(short_directory, pid_file):
    (short_directory / "echo.sock").mkdir()
    failed = run(EXAMPLES / "daemon.py", short_directory, status=1)
    assert "there is a directory at that name" in failed.stderr
    assert kin.stop_daemon(pid_file) is None


# ── the service ──────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def started(*words: object) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """Python on some words, and what it writes; it is killed at the end of the block if it still runs."""
    command = [sys.executable, *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def test_the_service_does_what_signals_say(tmp_path):
    file = tmp_path / "greeting"
    file.write_text("hello\n")
    with started(EXAMPLES / "service.py", file) as (process, output):
        assert output.readline() == "ready\n"
        for value in (1, 2):
            kin.signals.send(process.pid, "RTMIN", value)
            said = f"hello, job {value} of process {os.getpid()}\n"
            assert output.readline() == said
        file.write_text("good evening\n")
        kin.signals.send(process.pid, "HUP")
        assert output.readline() == "read again: good evening\n"
        kin.signals.send(process.pid, "TERM")
        assert output.readline() == "SIGTERM after 2 jobs\n"
        assert process.wait(HANG) == 0


# ── the ledger ───────────────────────────────────────────────────────────────────────────────


def test_the_ledger_loses_nothing():
    assert run(EXAMPLES / "ledger.py").stdout.splitlines() == [
        "clerk 1: exited 0",
        "clerk 2: killed by SIGKILL",
        "clerk 3: exited 0",
        "clerk 4: exited 0",
        "there are 8000 of 8000, after 1 repair",
    ]


def test_without_repairing_it_would(tmp_path):
    """The negative control."""
    script = tmp_path / "ledger.py"
    source = (EXAMPLES / "ledger.py").read_text()
    script.write_text(source.replace("if held.owner_died:", "if False:"))
    last = run(script).stdout.splitlines()[-1]
    assert re.fullmatch(r"there are 7[0-9]{3} of 8000, after 0 repair", last)


# ── the guide ────────────────────────────────────────────────────────────────────────────────

_BLOCK = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks() -> dict[str, tuple[str, str]]:
    """What to run and what it is to print, by the page and the heading above."""
    found = {}
    for page in sorted(GUIDE.glob("*.md")):
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            heading = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)[-1]
            found[f"{page.stem}: {heading}"] = (match[1], match[2])
    return found


BLOCKS = _blocks()


def test_no_block_hides_another():
    outputs = sum(page.read_text().count("\n```text\n") for page in GUIDE.glob("*.md"))
    assert len(BLOCKS) == outputs > 10


@pytest.mark.parametrize("place", BLOCKS)
def test_the_guide_says_what_happens(place, tmp_path):
    code, output = BLOCKS[place]
    script = tmp_path / "block.py"
    script.write_text("import kinfolk as kin\n\n" + code)
    ended = run("-W", "error", script)
    assert (ended.stdout, ended.stderr) == (output, "")
