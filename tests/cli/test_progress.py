"""The progress bar: on a terminal only, and never where somebody reads the data."""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import time
from pathlib import Path

import pytest

import kinfolk
from tests.cli.conftest import HANG_LIMIT, Kin, Running


class Terminal:
    """A pseudo-terminal that a process has as one of its standard streams."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        termios.tcsetwinsize(self.theirs, (24, 100))
        self.shown = b""

    def read_until_closed(self, running: Running) -> str:
        """Everything that it showed until the process ended."""
        os.close(self.theirs)
        deadline = time.monotonic() + HANG_LIMIT
        while select.select([self.ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                data = os.read(self.ours, 65536)
            except OSError:  # EIO: nobody has the other side open
                break
            if not data:
                break
            self.shown += data
        os.close(self.ours)
        return self.shown.decode()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2_000_000))
    return path


def transfer(kin: Kin, tmp_path: Path, large: Path, side: str, *options: str, **popen) -> str:
    """What the terminal shows that is standard error of one side."""
    terminal = Terminal()
    address = f"fifo:{tmp_path}/f"
    environment = {**os.environ, "TERM": "xterm-256color", **popen.pop("env", {})}
    on_terminal = {"stderr": terminal.theirs, "env": environment, **popen}
    framed = ["--framed"] if "--framed" in options else []
    words = {
        "recv": ["recv", *framed, address, tmp_path / "copy"],
        "send": ["send", *framed, address, large],
    }
    words[side][1:1] = [option for option in options if option != "--framed"]
    running = {
        name: kin.start(*words[name], **(on_terminal if name == side else {})) for name in words
    }
    shown = terminal.read_until_closed(running[side])
    for each in running.values():
        assert each.end().code == 0
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()
    return shown


def test_the_sender_shows_how_much_how_fast_how_long(kin: Kin, tmp_path, large):
    shown = transfer(kin, tmp_path, large, "send")
    assert f"{tmp_path}/f"[-20:] in shown
    assert "2.0/2.0 MB" in shown
    assert re.search(r"\d+(\.\d+)? [kMG]?B/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    assert "\x1b[" in shown


def test_the_receiver_knows_the_total_of_a_transfer(kin: Kin, tmp_path, large):
    assert "2.0/2.0 MB" in transfer(kin, tmp_path, large, "recv", "--framed")


def test_the_receiver_of_bare_bytes_shows_what_came(kin: Kin, tmp_path, large):
    assert "2.0 MB" in transfer(kin, tmp_path, large, "recv")


@pytest.mark.parametrize("side", ["send", "recv"])
def test_quiet(side, kin: Kin, tmp_path, large):
    assert transfer(kin, tmp_path, large, side, "--quiet") == ""


def test_a_terminal_that_can_do_nothing_gets_nothing(kin: Kin, tmp_path, large):
    assert transfer(kin, tmp_path, large, "send", env={"TERM": "dumb"}) == ""


def test_no_color(kin: Kin, tmp_path, large):
    colours = re.compile(r"\x1b\[[0-9;]*[34][0-9;]*m")
    assert colours.search(transfer(kin, tmp_path, large, "send"))
    (tmp_path / "copy").unlink()
    plain = transfer(kin, tmp_path, large, "send", env={"NO_COLOR": "1"})
    assert "2.0/2.0 MB" in plain
    assert not colours.search(plain)


def test_no_bar_where_the_data_run_over_the_terminal(kin: Kin, tmp_path):
    terminal = Terminal()
    environment = {**os.environ, "TERM": "xterm-256color"}
    receiver = kin.start(
        "recv", f"fifo:{tmp_path}/f", stdout=terminal.theirs, stderr=terminal.theirs,
        env=environment,
    )  # fmt: skip
    kin.succeed("send", f"fifo:{tmp_path}/f", stdin=b"the data\n")
    assert terminal.read_until_closed(receiver) == "the data\r\n"
    assert receiver.end().code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bar_gives_the_cursor_back(number, kin: Kin, tmp_path):
    terminal = Terminal()
    environment = {**os.environ, "TERM": "xterm-256color"}
    with kinfolk.open_receiver(f"fifo:{tmp_path}/f", framing="raw"):
        sender = kin.start(
            "send", f"fifo:{tmp_path}/f", "/dev/zero", stderr=terminal.theirs, env=environment
        )
        while b"\x1b[?25l" not in terminal.shown:  # the bar is there, and the pipe is full soon
            assert select.select([terminal.ours], [], [], HANG_LIMIT)[0]
            terminal.shown += os.read(terminal.ours, 65536)
        sender.signal(number)
        shown = terminal.read_until_closed(sender)
        assert sender.end().code == 128 + number
    assert "\x1b[?25l" in shown  # hidden
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and back


def test_rich_is_not_even_loaded_without_a_terminal(kin: Kin, tmp_path):
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    receiver = kin.start("recv", f"fifo:{tmp_path}/f", env=environment)
    kin.succeed("send", f"fifo:{tmp_path}/f", stdin=b"data")
    ended = receiver.end()
    assert (ended.code, ended.out) == (0, b"data")
    assert "kinfolk.cli.recv" in ended.err
    assert not re.search(r"\b(rich|kinfolk\.tour|kinfolk\.cli\.send)\b", ended.err)
