"""`kin run`: a wrapper that nobody notices, an init, and the end of a whole tree."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from typing import Any

import pytest

from kinfolk.cli.exit_codes import ExitCode
from tests.cli.conftest import COMMAND, Ended, Kin, Running, one_line
from tests.conformance.peers import readable, until
from tests.unit.supervised import lives


def say(running: Running) -> str:
    """The next line of its standard output."""
    assert running.process.stdout is not None
    assert readable(running.process.stdout.fileno())
    line: bytes = running.process.stdout.readline()
    return line.decode().strip()


def shell(script: str) -> tuple[str, ...]:
    return ("--", "sh", "-c", script)


LOOP = "while :; do sleep 0.01; done"


# ── the exit code ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [0, 1, 2, 70, 124, 255])
def test_the_code_of_the_command(kin: Kin, code: int) -> None:
    assert kin.run("run", *shell(f"exit {code}")) == Ended(code, b"", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGPIPE])
def test_it_exits_with_128_and_the_signal_and_does_not_die_of_it(kin: Kin, number: int) -> None:
    running = kin.start("run", *shell(f"kill -{int(number)} $$"))
    assert running.end() == Ended(128 + number, b"", "")
    assert running.process.returncode == 128 + number


def test_a_crash_is_remarked_upon(kin: Kin) -> None:
    script = "ulimit -c 0; kill -SEGV $$"
    ended = kin.run("run", *shell(script))
    assert (ended.code, one_line(ended)) == (139, "kin run: sh: killed by SIGSEGV")
    assert kin.run("run", "--quiet", *shell(script)) == Ended(139, b"", "")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--", "kinfolk-no-such-program"], ExitCode.NOT_FOUND),
        (["--", "/kinfolk/no/such"], ExitCode.NOT_FOUND),
        (["--", "/etc/passwd"], ExitCode.NOT_EXECUTABLE),
        (["--", "/"], ExitCode.NOT_EXECUTABLE),
        (["--", ""], ExitCode.NOT_RUN),
        ([], ExitCode.NOT_RUN),
        (["--"], ExitCode.NOT_RUN),
        (["--no-such-option", "true"], ExitCode.NOT_RUN),
        (["--grace", "-1", "true"], ExitCode.NOT_RUN),
        (["--grace", "nan", "true"], ExitCode.NOT_RUN),
        (["--timeout", "never", "true"], ExitCode.NOT_RUN),
        (["--timeout", "-1", "true"], ExitCode.NOT_RUN),
        (["--pdeath", "SIGNONE", "true"], ExitCode.NOT_RUN),
        (["--pdeath", "STOP", "true"], ExitCode.NOT_RUN),
    ],
)
def test_what_is_not_run_has_a_code_and_a_line(kin: Kin, words: list[str], code: int) -> None:
    """Also with --quiet: that is about remarks, not about errors."""
    for quiet in ([], ["--quiet"]):
        ended = kin.run("run", *quiet, *words)
        assert ended.code == code
        assert one_line(ended).startswith("kin run: ")


def test_as_env_and_timeout_have_them(kin: Kin) -> None:
    """The codes of the wrappers that everybody knows."""
    env = {**os.environ, "PATH": "/usr/bin:/bin"}  # directories that anybody may look into
    for words in (["kinfolk-no-such-program"], ["/etc/passwd"]):
        expected = subprocess.run(["env", *words], capture_output=True, check=False, env=env)
        assert kin.run("run", *words, env=env).code == expected.returncode
    timed_out = subprocess.run(["timeout", "0.01", "sleep", "1000"], check=False).returncode
    assert kin.run("run", "--timeout", "0.01", "sleep", "1000").code == timed_out


def test_its_time_is_up(kin: Kin) -> None:
    ended = kin.run("run", "--timeout", "0.01", "--", "sleep", "1000")
    assert ended.code == ExitCode.TIMEOUT
    assert one_line(ended) == "kin run: sleep: it took longer than 0.01 s, and was ended"


def test_signals_at_the_end_do_not_change_the_code(kin: Kin) -> None:
    running = kin.start("run", *shell("trap '' TERM; echo ready; read x; exit 7"))
    assert say(running) == "ready"
    assert running.process.stdin is not None
    running.process.stdin.write(b"\n")
    while running.process.poll() is None:
        running.signal(signal.SIGTERM)
    assert running.process.returncode == 7


# ── nobody notices it ────────────────────────────────────────────────────────────────────────


def test_streams_go_through(kin: Kin) -> None:
    data = bytes(range(256)) * 1000
    assert kin.succeed("run", "cat", stdin=data) == data


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "printf", "%s|", "-x", "--json", "--"], b"-x|--json|--|"),
        (["printf", "%s|", "--", "--json"], b"--|--json|"),
        (["--quiet", "--", "printf", "%s|", "--quiet"], b"--quiet|"),
    ],
)
def test_options_after_the_command_are_its_own(kin: Kin, words: list[str], said: bytes) -> None:
    assert kin.succeed("run", *words) == said


def test_the_command_inherits_what_an_exec_would_hand_on(kin: Kin) -> None:
    reader, writer = os.pipe()
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, reader)
        closing.callback(os.close, writer)
        words = (*COMMAND, "run", "ls", "/proc/self/fd")
        ended = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", *words],
            pass_fds=(writer,),
            capture_output=True,
            check=True,
        )
    numbers = {int(word) for word in ended.stdout.split()}
    assert {1, 2, writer} <= numbers
    assert reader not in numbers
    # Where standard input is closed it stays so: ls has opened the directory in its place.
    assert len(numbers - {0}) == len(numbers) - 1


def test_under_nohup_a_hang_up_does_nothing(kin: Kin) -> None:
    running = kin.start(
        "run", *shell(f"echo ready; {LOOP}"), command=("nohup", *COMMAND), stdin=subprocess.DEVNULL
    )
    assert say(running) == "ready"
    running.signal(signal.SIGHUP)
    running.signal(signal.SIGTERM)
    assert running.end().code == 128 + signal.SIGTERM  # and not of the first one


# ── the report ───────────────────────────────────────────────────────────────────────────────


def report(ended: Ended) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(ended.err.splitlines()[-1])
    return facts


def test_the_report(kin: Kin) -> None:
    ended = kin.run("run", "--json", *shell("echo out; exit 3"))
    facts = report(ended)
    assert (ended.code, ended.out) == (3, b"out\n")
    assert facts.pop("seconds") > 0
    assert facts.pop("usage")["max_resident_bytes"] > 0
    assert facts == {
        "command": "run",
        "argv": ["sh", "-c", "echo out; exit 3"],
        "exit_code": 3,
        "status": "exited",
        "code": 3,
        "signal": None,
        "core_dumped": False,
        "why": "",
        "timed_out": False,
        "reaped": 0,
        "killed": 0,
        "left": [],
    }


def test_the_report_of_one_that_was_ended(kin: Kin) -> None:
    options = ("--json", "--quiet", "--timeout", "0.01")
    facts = report(kin.run("run", *options, "sleep", "1000"))
    assert facts["timed_out"]
    assert (facts["exit_code"], facts["signal"], facts["code"]) == (124, "SIGTERM", None)


def test_nobody_reads_the_report(kin: Kin) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    running = kin.start("run", "--json", *shell("exit 5"), stderr=writer)
    os.close(writer)
    assert running.end().code == 5


# ── what is passed on, and what is ended ─────────────────────────────────────────────────────


def test_signals_are_passed_on(kin: Kin) -> None:
    script = f"trap 'echo hup' HUP; trap 'echo int; exit 4' INT; echo ready; {LOOP}"
    running = kin.start("run", *shell(script))
    assert say(running) == "ready"
    running.signal(signal.SIGHUP)
    assert say(running) == "hup"
    running.signal(signal.SIGINT)
    assert say(running) == "int"
    assert running.end() == Ended(4, b"", "")


def test_to_the_group(kin: Kin) -> None:
    script = f"trap 'echo one' USR1; sh -c 'trap \"echo two\" USR1; echo ready; {LOOP}' & {LOOP}"
    running = kin.start("run", "--group", *shell(script), stderr=subprocess.DEVNULL)
    assert say(running) == "ready"
    running.signal(signal.SIGUSR1)
    assert {say(running), say(running)} == {"one", "two"}
    running.signal(signal.SIGTERM)
    assert running.end().code == 128 + signal.SIGTERM


def test_what_it_leaves_is_ended(kin: Kin) -> None:
    ended = kin.run("run", *shell("setsid sh -c 'sleep 1000 & echo $!'; exit 6"))
    assert (ended.code, ended.err) == (6, "")
    assert not lives(int(ended.out))


def test_what_has_to_be_killed_is_remarked_upon(kin: Kin) -> None:
    script = "sh -c 'trap \"\" TERM; echo ready; exec sleep 1000' & read x; exit 6"
    for options, remark in (
        (["--grace", "0.05"], "kin run: sh: 1 process that it had started did not end within 0.05 s, and had to be killed\n"),
        (["--grace", "0"], ""),
        (["--grace", "0.05", "--quiet"], ""),
    ):  # fmt: skip
        running = kin.start("run", *options, *shell(script))
        assert say(running) == "ready"
        ended = running.end(b"\n")
        assert (ended.code, ended.err) == (6, remark)


def test_the_parent_dies(kin: Kin) -> None:
    words = (*COMMAND, "run", "--pdeath", "KILL", *shell("echo $$; echo $PPID; exec sleep 1000"))
    parent = kin.start(*words, command=("sh", "-c", '"$@" & wait', "sh"), stdin=subprocess.DEVNULL)
    command, supervisor = int(say(parent)), int(say(parent))
    parent.signal(signal.SIGKILL)
    parent.end()  # when nobody has its pipes any more
    until(lambda: not lives(command) and not lives(supervisor), "both have ended")


# ── PID 1 ────────────────────────────────────────────────────────────────────────────────────


def in_namespace() -> tuple[str, ...]:
    """The words that make `kin` PID 1 of a namespace of its own; skips where nobody may."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    own: tuple[str, ...] = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if os.geteuid() != 0:
        own = (*own, "--user", "--map-root-user")
    tried = subprocess.run([*own, "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.decode().strip()}")
    return (*own, *COMMAND)


def test_as_pid_1(kin: Kin) -> None:
    """It reaps what it adopts, passes SIGTERM on although PID 1 has no default actions, and ends the rest."""
    script = (
        "echo $PPID; setsid sleep 1000 & sh -c 'sleep 0.01 &' | cat; "
        f"trap 'ps --ppid 1 -o stat= | grep -c Z; exit 9' TERM; echo ready; {LOOP}"
    )
    running = kin.start("run", "--json", *shell(script), command=in_namespace())
    assert [say(running), say(running)] == ["1", "ready"]
    (pid_1,) = children(running.process.pid)
    until(lambda: len(children(pid_1)) == 1, "all reaped but the command")
    os.kill(pid_1, signal.SIGTERM)
    ended = running.end()
    assert (ended.code, ended.out) == (9, b"0\n")
    assert report(ended)["reaped"] >= 2


def test_as_pid_1_the_end_of_its_time(kin: Kin) -> None:
    ended = kin.run("run", "-q", "--timeout", "0.1", "sleep", "1000", command=in_namespace())
    assert ended == Ended(124, b"", "")


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def zombies(pid: int) -> list[int]:
    return [child for child in children(pid) if not lives(child)]
