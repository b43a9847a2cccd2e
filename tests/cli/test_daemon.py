"""`kin daemon`: a program becomes a daemon or says in a line why not; --status, --stop; what the caller sees."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kinfolk.cli.exit_codes import ExitCode
from tests.cli.conftest import COMMAND, HANG_LIMIT, Ended, Kin, one_line
from tests.conformance.peers import readable, until


class Daemons:
    """Those of one test, by their pidfds."""

    def __init__(self) -> None:
        self._pidfds: list[int] = []

    def add(self, pid: int) -> int:
        self._pidfds.append(os.pidfd_open(pid))
        return self._pidfds[-1]

    def end(self) -> None:
        for pidfd in self._pidfds:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            assert readable(pidfd)
            os.close(pidfd)


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    made = Daemons()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def pidfile(short_directory: Path) -> Path:
    return short_directory / "app.pid"


def report(ended: Ended) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(ended.out)
    return facts


def test_it_starts_says_and_stops(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    assert kin.succeed("daemon", "--pidfile", pidfile, "sleep", "100") == b""
    pid = int(pidfile.read_text())
    pidfd = daemons.add(pid)
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00100\x00"
    assert (
        kin.succeed("daemon", "--status", "--pidfile", pidfile)
        == f"running: process {pid}\n".encode()
    )
    assert kin.succeed("daemon", "--stop", "--pidfile", pidfile) == b""
    assert readable(pidfd, 0), "it is gone when the command returns"
    assert not pidfile.exists()
    assert kin.succeed("daemon", "--stop", "--pidfile", pidfile) == b"", "stopped is stopped"


def test_reports_for_programs(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    options = ("--json", "--pidfile", pidfile)
    started = report(kin.run("daemon", *options, "--", "sleep", "100"))
    pidfd = daemons.add(started["pid"])
    common = {"command": "daemon", "pidfile": str(pidfile)}
    who = {"pid": started["pid"], "start_time": started["start_time"]}
    assert started == {**common, "action": "start", **who}
    status = report(kin.run("daemon", "--status", *options))
    assert status == {
        **common, **who, "action": "status", "running": True, "written": started["pid"],
    }  # fmt: skip
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert readable(pidfd)
    ended = kin.run("daemon", "--status", *options)
    assert ended.code == ExitCode.GONE
    assert report(ended) == {
        **common, "action": "status", "running": False, "pid": None, "start_time": None,
        "written": started["pid"],
    }  # fmt: skip
    assert f"does not run: process {started['pid']} left its pid file" in one_line(ended)
    assert report(kin.run("daemon", "--stop", *options)) == {
        **common, "action": "stop", "pid": None, "signal": None,
    }  # fmt: skip


def test_status_without_a_file(kin: Kin, pidfile: Path) -> None:
    ended = kin.run("daemon", "--status", "--pidfile", pidfile)
    assert (ended.code, ended.out) == (ExitCode.GONE, b"")
    assert (
        one_line(ended) == f"kin daemon: {pidfile}: its daemon does not run: there is no pid file"
    )


def test_status_of_a_file_without_a_number(kin: Kin, pidfile: Path) -> None:
    pidfile.write_text("notes\n")
    ended = kin.run("daemon", "--status", "--pidfile", pidfile)
    assert ended.code == ExitCode.GONE
    assert one_line(ended).endswith("its daemon does not run: its pid file names nobody")
    ended = kin.run("daemon", "--pidfile", pidfile, "--", "sleep", "1000")
    assert ended.code == ExitCode.DENIED
    assert "holds something other than a pid" in one_line(ended)
    ended = kin.run("daemon", "--stop", "--pidfile", pidfile)
    assert ended.code == ExitCode.DENIED
    assert "holds something other than a pid" in one_line(ended)
    assert pidfile.read_text() == "notes\n"


def test_a_second_one_is_busy(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    kin.succeed("daemon", "--pidfile", pidfile, "sleep", "100")
    pid = int(pidfile.read_text())
    daemons.add(pid)
    ended = kin.run("daemon", "--pidfile", pidfile, "sleep", "100")
    assert ended.code == ExitCode.BUSY
    assert f"process {pid} (start time " in one_line(ended)


def test_stop_kills_after_the_grace(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    script = "trap '' TERM; echo; while :; do sleep 0.1; done"
    log = pidfile.parent / "log"
    kin.succeed("daemon", "--pidfile", pidfile, "--log", log, "--", "sh", "-c", script)
    pidfd = daemons.add(int(pidfile.read_text()))
    until(log.read_bytes, "the trap")
    late = kin.run("daemon", "--stop", "--pidfile", pidfile, "--timeout", "0.05")
    assert late.code == ExitCode.TIMEOUT
    assert "does not end" in one_line(late)
    assert not readable(pidfd, 0)
    ended = kin.run("daemon", "--stop", "--pidfile", pidfile, "--grace", "0", "--json")
    assert report(ended)["signal"] == "SIGKILL"
    assert readable(pidfd, 0)


def test_a_pid_that_another_process_has_now_is_left_alone(kin: Kin, pidfile: Path) -> None:
    with subprocess.Popen(["sleep", "100"]) as innocent:
        pidfile.write_text(f"{innocent.pid}\n")
        ended = kin.run("daemon", "--status", "--pidfile", pidfile)
        assert ended.code == ExitCode.GONE
        assert f"process {innocent.pid}, which it names, has not locked it" in one_line(ended)
        kin.succeed("daemon", "--stop", "--pidfile", pidfile)
        assert innocent.poll() is None
        innocent.kill()


FAILURES: dict[str, tuple[list[str], int, str]] = {
    "not found": (["no-such-program"], ExitCode.MISSING, "no-such-program: "),
    "ended at once": (["--settle", "60", "sh", "-c", "exit 3"], ExitCode.FAILED, "exited 3"),
    "ended well at once": (["--settle", "60", "true"], ExitCode.FAILED, "stay in the foreground"),
    "crashed": (["--settle", "60", "sh", "-c", "kill -SEGV $$"], ExitCode.FAILED, "SIGSEGV"),
    "a wrong time to settle": (["--settle", "nan", "true"], ExitCode.USAGE, "--settle nan"),
    "a wrong grace": (["--stop", "--pidfile", "/x", "--grace", "-1"], ExitCode.USAGE, "--grace -1"),
    "without a log": (["--settle", "60", "false"], ExitCode.FAILED, "(give it a log by log= or --log to see why)"),
    "with a log": (["--settle", "60", "--log", "/dev/null", "false"], ExitCode.FAILED, "(see its log)"),
    "never ready": (
        ["--timeout", "0.05", "--ready-fd", "3", "sleep", "100"], ExitCode.TIMEOUT, "0.05 s",
    ),
    "no notification": (
        ["--timeout", "0.05", "--notify", "sleep", "100"], ExitCode.TIMEOUT, "0.05 s",
    ),
    "no directory": (["--chdir", "/no/where", "sleep", "1"], ExitCode.MISSING, "/no/where"),
    "no log": (["--log", "/no/where", "sleep", "1"], ExitCode.MISSING, "/no/where"),
    "no command": ([], ExitCode.USAGE, "kin daemon -- CMD"),
    "no command after --": (["--"], ExitCode.USAGE, "kin daemon -- CMD"),
    "a wrong umask": (["--umask", "9", "sleep", "1"], ExitCode.USAGE, "octal"),
    "a wrong descriptor": (["--ready-fd", "1", "sleep", "1"], ExitCode.USAGE, "descriptor"),
    "two signs": (["--ready-fd", "3", "--notify", "sleep", "1"], ExitCode.USAGE, "exclude"),
    "status of nothing": (["--status"], ExitCode.USAGE, "needs --pidfile"),
    "status and stop": (["--status", "--stop", "--pidfile", "/x"], ExitCode.USAGE, "--status"),
    "status and a command": (["--status", "--pidfile", "/x", "true"], ExitCode.USAGE, "starts nothing"),
    "stop and a log": (["--stop", "--pidfile", "/x", "--log", "y"], ExitCode.USAGE, "starts nothing"),
    "grace of a start": (["--grace", "1", "true"], ExitCode.USAGE, "--stop"),
    "an empty pid file": (["--pidfile", "", "true"], ExitCode.USAGE, "no file name"),
    "an empty log": (["--log", "", "true"], ExitCode.USAGE, "no file name"),
    "an unknown option": (["--pid", "x", "true"], ExitCode.USAGE, "--pid"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_is_one_line_and_a_code(kin: Kin, what: str) -> None:
    words, code, text = FAILURES[what]
    ended = kin.run("daemon", *words)
    assert (ended.code, ended.out) == (code, b"")
    assert text in one_line(ended)
    assert ended.err.startswith("kin daemon: ")


def test_options_of_the_program_are_its_own(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    log = pidfile.parent / "log"
    script = 'echo "$0 $*"; exec sleep 100'
    words = ("sh", "-c", script, "--stop", "--", "-q")
    kin.succeed("daemon", "--pidfile", pidfile, "--log", log, *words)
    daemons.add(int(pidfile.read_text()))
    until(lambda: log.read_text() == "--stop -- -q\n", "the words in the log")


def test_chdir_umask_and_name(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    log, directory = pidfile.parent / "log", str(pidfile.parent)
    script = "pwd; umask; exec sleep 100"
    options = ("--chdir", directory, "--umask", "0077", "--name", "app", "--log", log)
    kin.succeed("daemon", "--pidfile", pidfile, *options, "--", "sh", "-c", script)
    daemons.add(int(pidfile.read_text()))
    until(lambda: log.read_text() == f"{directory}\n0077\n", "the log")
    ended = kin.run("daemon", "--name", "app", "--settle", "60", "--", "false")
    assert one_line(ended).startswith("kin daemon: app: ")


def test_it_waits_for_the_newline(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    fifo = pidfile.parent / "go"
    os.mkfifo(fifo)
    script = f"read x <{fifo}; echo ready >&4; exec sleep 100"
    running = kin.start("daemon", "--pidfile", pidfile, "--ready-fd", "4", "--", "sh", "-c", script)
    running.wait_until(pidfile.exists)
    daemons.add(int(pidfile.read_text()))
    assert running.process.poll() is None
    fifo.write_text("\n")
    assert running.end().code == 0
    fifo.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_calls_the_start_off(
    kin: Kin, daemons: Daemons, pidfile: Path, number: signal.Signals
) -> None:
    running = kin.start("daemon", "--pidfile", pidfile, "--ready-fd", "3", "--", "sleep", "100")
    running.wait_until(pidfile.exists)
    pidfd = daemons.add(int(pidfile.read_text()))
    running.signal(number)
    ended = running.end()
    assert (ended.code, ended.err) == (128 + number, "")
    assert readable(pidfd)


def test_the_callers_pipe_ends_with_the_command(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    """As in x=$(kin daemon …), which would wait for a daemon that has the pipe."""
    shell = 'x=$("$@"); echo "=$x="'
    command = [
        "sh",
        "-c",
        shell,
        "sh",
        *COMMAND,
        "daemon",
        "--pidfile",
        str(pidfile),
        "sleep",
        "100",
    ]
    done = subprocess.run(command, capture_output=True, check=False, timeout=HANG_LIMIT)
    daemons.add(int(pidfile.read_text()))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"==\n", b"")


def test_closed_standard_streams(kin: Kin, daemons: Daemons, pidfile: Path) -> None:
    words = [*COMMAND, "daemon", "--pidfile", str(pidfile), "--", "sleep", "100"]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words], check=False)
    assert done.returncode == 0
    pid = int(pidfile.read_text())
    daemons.add(pid)
    assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)] == ["/dev/null"] * 3


def test_from_a_terminal(daemons: Daemons, pidfile: Path) -> None:
    """The daemon has none, and lives on when the terminal and its session end."""
    words = [*COMMAND, "daemon", "--pidfile", str(pidfile), "--", "sleep", "100"]
    master, slave = pty.openpty()
    script = 'tty >&2; exec "$@"'
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", "sh", "-c", script, "sh", *words],
        stdin=slave, stdout=slave, stderr=subprocess.PIPE,
    ) as session:  # fmt: skip
        assert session.stderr is not None
        assert session.stderr.read().startswith(b"/dev/")
    assert session.returncode == 0
    pid = int(pidfile.read_text())
    pidfd = daemons.add(pid)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert fields[4] == "0"
    os.close(slave)
    os.close(master)
    assert not select.select([pidfd], [], [], 0)[0]


def test_the_program_is_not_a_python_process_any_more(
    kin: Kin, daemons: Daemons, pidfile: Path
) -> None:
    kin.succeed("daemon", "--pidfile", pidfile, "sleep", "100")
    pid = int(pidfile.read_text())
    daemons.add(pid)
    assert os.readlink(f"/proc/{pid}/exe") != os.path.realpath(sys.executable)
    left = set(os.listdir(f"/proc/{pid}/fd")) - {"0", "1", "2"}
    assert len(left) == 1, "its lock"
