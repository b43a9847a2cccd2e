"""`kin signals` and `kin signal`: the table as text and as JSON, signals to real processes, errors with their codes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

import kinfolk
from kinfolk.cli.main import run
from tests.cli.conftest import HANG_LIMIT, Ended, Kin, one_line
from tests.other_user import User

ROWS = [
    {
        "number": int(entry.number),
        "name": entry.name,
        "action": entry.action,
        "catchable": entry.catchable,
        "meaning": entry.meaning,
    }
    for entry in kinfolk.signals.table()
]


def test_the_table_for_programs(kin: Kin) -> None:
    assert json.loads(kin.succeed("signals", "--json")) == {"command": "signals", "signals": ROWS}


def test_the_table_for_people(kin: Kin) -> None:
    head, *lines = kin.succeed("signals").decode().splitlines()
    assert head.split() == ["NUMBER", "NAME", "ACTION", "CATCHABLE", "MEANING"]
    assert len(lines) == len(ROWS)
    for line, row in zip(lines, ROWS, strict=True):
        number, name, action, catchable, meaning = line.split(maxsplit=4)
        assert (number, name, action) == (str(row["number"]), row["name"], row["action"])
        assert catchable == ("yes" if row["catchable"] else "no")
        assert meaning == row["meaning"]
    assert len({line.index(str(row["name"])) for line, row in zip(lines, ROWS, strict=True)}) == 1


def test_some_of_it(kin: Kin) -> None:
    shown = kin.succeed("signals", "-n", "-o", "name,Number", "kill", "15", "SIGRTMAX-1")
    last = signal.SIGRTMAX - 1
    assert [line.split() for line in shown.decode().splitlines()] == [
        ["SIGKILL", "9"],
        ["SIGTERM", "15"],
        [f"SIGRTMIN+{last - signal.SIGRTMIN}", str(last)],
    ]
    objects = json.loads(kin.succeed("signals", "--json", "-o", "action", "INT"))["signals"]
    assert objects == [{"action": "terminate"}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["NOSUCH"], "there is no signal 'NOSUCH'"),
        (["-o", "size"], "choose of number, name, action, catchable, meaning"),
        (["-o", ""], "there is no column ''"),
    ],
)
def test_what_the_table_lacks(kin: Kin, words: list[str], said: str) -> None:
    ended = kin.run("signals", *words)
    assert (ended.code, ended.out) == (2, b"")
    assert said in one_line(ended)


def on_terminal(kin: Kin, *words: str, **variables: str) -> bytes:
    """What it writes to a terminal of 40 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "40", **variables}
    running = kin.start(*words, stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 1 << 16):
            shown += data
    except OSError:  # EIO: the other side has closed
        pass
    os.close(ours)
    assert running.end().code == 0
    return shown


def test_on_a_terminal(kin: Kin) -> None:
    shown = on_terminal(kin, "signals")
    assert b"\x1b[1m" in shown
    assert (
        max(map(len, shown.decode().replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()))
        <= 40
    )
    assert b"\x1b" not in on_terminal(kin, "signals", TERM="dumb")
    assert b"\x1b" not in kin.succeed("signals")


def test_nobody_reads_the_table(kin: Kin) -> None:
    running = kin.start("signals")
    assert running.process.stdout
    running.process.stdout.close()
    running.process.stdout = None
    assert running.end().code in (0, 128 + signal.SIGPIPE)


# ---------------------------------------------------------------------------------- kin signal


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A program in a group of its own."""
    with subprocess.Popen(["sleep", str(HANG_LIMIT)], process_group=0) as process:
        yield process
        process.kill()


def identity_of(process: subprocess.Popen[bytes]) -> kinfolk.Identity:
    identity = kinfolk.Identity.of(process.pid)
    assert identity is not None
    return identity


@pytest.mark.parametrize("name", ["TERM", "9", "sigusr1", "RTMIN+3"])
def test_to_a_pid(kin: Kin, sleeper: subprocess.Popen[bytes], name: str) -> None:
    assert kin.succeed("signal", sleeper.pid, name) == b""
    assert sleeper.wait(HANG_LIMIT) == -kinfolk.signals.number_of(name)


def test_to_an_identity(kin: Kin, sleeper: subprocess.Popen[bytes]) -> None:
    kin.succeed("signal", identity_of(sleeper), "TERM")
    assert sleeper.wait(HANG_LIMIT) == -signal.SIGTERM


def test_to_a_group(kin: Kin, sleeper: subprocess.Popen[bytes]) -> None:
    kin.succeed("signal", "--group", sleeper.pid, "TERM")
    assert sleeper.wait(HANG_LIMIT) == -signal.SIGTERM


def test_with_a_value(kin: Kin) -> None:
    with kinfolk.signals.blocked("USR1"):
        running = kin.start("signal", os.getpid(), "USR1", "--value", "-42")
        arrived = kinfolk.signals.wait("USR1", timeout=HANG_LIMIT)
    assert (arrived.pid, arrived.value, arrived.origin) == (running.process.pid, -42, "sigqueue")
    assert running.end().code == 0


def test_the_report(kin: Kin, sleeper: subprocess.Popen[bytes]) -> None:
    identity = identity_of(sleeper)
    facts: dict[str, Any] = {
        "command": "signal",
        "pid": sleeper.pid,
        "start": identity.start_time,
        "group": False,
        "signal": "SIGWINCH",
        "number": signal.SIGWINCH,
        "value": 7,
    }
    said = kin.succeed("signal", identity, "WINCH", "--value", "7", "--json")
    assert json.loads(said) == facts
    said = kin.succeed("signal", sleeper.pid, "WINCH", "--json")
    assert json.loads(said) == {**facts, "start": None, "value": None}


def test_a_recycled_pid_is_refused(kin: Kin, sleeper: subprocess.Popen[bytes]) -> None:
    other = identity_of(sleeper)._replace(start_time=1)
    for words in ([], ["--group"]):
        ended = kin.run("signal", *words, other, "KILL")
        assert ended.code == 7
        assert one_line(ended).startswith(
            f"kin signal: {'group' if words else 'process'} {other}: "
        )
    assert sleeper.poll() is None


def test_a_process_that_has_gone(kin: Kin, sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    ended = kin.run("signal", sleeper.pid, "TERM")
    assert ended.code == 7
    assert "no process has this pid" in one_line(ended)


def test_another_users_process(as_plain_user: User, sleeper: subprocess.Popen[bytes]) -> None:
    target = sleeper.pid if os.geteuid() == 0 else 1
    if os.stat(f"/proc/{target}").st_uid == os.geteuid() != 0:
        pytest.skip("no process here is another user's")

    def attempt() -> tuple[int, str]:
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            code = run(["signal", str(target), "WINCH"])
            said.seek(0)
            return code, said.read().decode()

    code, said = as_plain_user.run(attempt)
    assert code == 5
    assert "CAP_KILL" in one_line(Ended(code, b"", said))


@pytest.mark.parametrize(
    "words",
    [
        *(["0", "TERM"], ["-1", "TERM"], ["x", "TERM"], ["", "TERM"], ["1@", "TERM"]),
        *(["@5", "TERM"], ["1@x", "TERM"], ["99999999999", "TERM"], ["TERM", "1"], ["1", "NO"]),
        *(["1", "0"], ["1"], [], ["1", "TERM", "2"], ["1", "TERM", "--value", "x"], ["--group"]),
        *(["1", "TERM", "--value", str(2**31)], ["٣", "TERM"], ["0@5", "TERM"]),
    ],
)
def test_wrong_usage(kin: Kin, words: list[str]) -> None:
    ended = kin.run("signal", *words)
    assert (ended.code, ended.out) == (2, b"")
    if words:
        one_line(ended)
