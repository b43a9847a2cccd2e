"""Programs as daemons: what they are in /proc, how they say that they are ready, what becomes of those that fail."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, Voice, until
from tests.other_user import User
from tests.unit.daemons import Daemons, Seen, Start, adopter
from tests.unit.daemons import daemons as daemons
from tests.unit.daemons import path as path


def start_program(daemons: Daemons, command: list[str], **options: Any) -> Start:
    def body(voice: Voice) -> None:
        try:
            voice.say(kin.start_daemon(command, **options))
        except kin.KinfolkError as error:
            voice.say(error)
        voice.hear()

    return daemons.start(body)


def program(daemons: Daemons, command: list[str], **options: Any) -> Seen:
    """A program that is a daemon."""
    who = start_program(daemons, command, **options).hear()
    assert isinstance(who, kin.Identity), who
    seen = daemons.seen(who.pid)
    assert kin.Identity.of(who.pid) == who
    return seen


def test_a_program_becomes_a_daemon(daemons: Daemons, path: Path) -> None:
    stray = os.dup(0)
    os.set_inheritable(stray, True)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        daemon = program(daemons, ["sleep", "100"], pidfile=path)
    finally:
        signal.signal(signal.SIGHUP, previous)
        os.close(stray)
    assert Path(f"/proc/{daemon.pid}/cmdline").read_bytes() == b"sleep\x00100\x00"
    assert daemon.parent == adopter()
    assert daemon.group == daemon.pid != daemon.session
    assert daemon.terminal == 0
    assert daemon.cwd == "/"
    assert int(daemon.status("Umask"), 8) == 0o027
    for key in ("SigBlk", "SigIgn", "SigCgt"):
        assert daemon.signals(key) == set()
    found = daemon.descriptors()
    assert sorted(found) == [0, 1, 2, max(found)]
    assert [found[number] for number in range(3)] == ["/dev/null"] * 3
    assert os.stat(f"/proc/{daemon.pid}/fd/{max(found)}").st_ino == path.stat().st_ino
    assert kin.PidFile(path).holder() == kin.Identity.of(daemon.pid)
    assert kin.stop_daemon(path) == signal.SIGTERM
    assert daemon.ended()
    assert not path.exists()


def test_a_program_that_closes_its_descriptors_loses_its_lock(daemons: Daemons, path: Path) -> None:
    """As the page says; a negative control of the lock, too."""
    script = (
        "import os, sys; os.closerange(3, 100); os.write(1, b'x'); import signal; signal.pause()"
    )
    log = path.parent / "log"
    daemon = program(daemons, [sys.executable, "-c", script], pidfile=path, log=log)
    until(log.read_bytes, "the descriptors closed")
    assert kin.PidFile(path).holder() is None
    assert kin.PidFile(path).read() == daemon.pid


def test_the_options_of_a_program(daemons: Daemons, tmp_path: Path) -> None:
    script = 'pwd; umask; echo "$A" >&2; exec sleep 100'
    log = tmp_path / "log"
    options: dict[str, Any] = {"chdir": tmp_path, "umask": 0o077, "log": log, "env": {"A": "b"}}
    program(daemons, ["/bin/sh", "-c", script], **options)
    until(lambda: log.read_text() == f"{tmp_path}\n0077\nb\n", "the log")


def test_a_relative_program_counts_from_the_caller(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "prog"
    script.write_text("#!/bin/sh\nexec sleep 100\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    program(daemons, ["./prog"])


def test_from_a_directory_that_was_removed(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    assert program(daemons, ["/bin/sleep", "100"]).cwd == "/"
    for error in (
        start_program(daemons, ["./sleep", "100"]).hear(),
        start_program(daemons, ["/bin/sleep", "100"], pidfile="app.pid").hear(),
        start_program(daemons, ["/bin/sleep", "100"], chdir=".").hear(),
    ):
        assert isinstance(error, kin.NotFound)


DEATHS = {
    "exited 3": "exit 3",
    "exited 0 (it has to stay in the foreground": "exit 0",
    "killed by SIGTERM": "kill -TERM $$",
}


@pytest.mark.parametrize("said", DEATHS)
def test_a_program_that_ends_at_once_has_not_started(daemons: Daemons, said: str) -> None:
    error = start_program(daemons, ["sh", "-c", DEATHS[said]], settle=HANG).hear()
    assert type(error) is kin.SystemProblem
    assert f"sh: the daemon ended before it was ready: {said}" in str(error)


def test_a_time_limit_holds_while_a_program_settles(daemons: Daemons) -> None:
    error = start_program(daemons, ["sleep", "1000"], settle=HANG, timeout=0.05).hear()
    assert isinstance(error, kin.Timeout)
    assert "it was not ready within 0.05 s" in str(error)
    assert "(give it more time; give it a log by log= or --log to see why)" in str(error)


@pytest.mark.parametrize("limited", ["the guard", "the daemon"])
def test_no_more_processes(as_plain_user: User, limited: str) -> None:
    """Neither for the first fork nor for the second."""

    def body() -> str:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

        if limited == "the guard":
            limit()
        else:
            os.register_at_fork(after_in_child=limit)
        with pytest.raises(kin.LimitReached, match="no daemon can be forked") as caught:
            kin.start_daemon(["true"])
        assert caught.value.errno == errno.EAGAIN
        return str(caught.value)

    assert "ulimit -u" in as_plain_user.run(body)


def test_a_time_to_settle_that_makes_no_sense(daemons: Daemons) -> None:
    error = start_program(daemons, ["true"], settle=-1).hear()
    assert isinstance(error, kin.InvalidValue)
    assert "settle=-1 makes no sense" in str(error)


def test_a_program_that_can_not_be_executed_is_said(daemons: Daemons, path: Path) -> None:
    error = start_program(daemons, ["no-such-program"], pidfile=path).hear()
    assert isinstance(error, kin.NotFound)
    assert "no-such-program" in str(error)
    assert not path.exists()
    assert isinstance(start_program(daemons, ["/"]).hear(), kin.AccessDenied)
    assert isinstance(start_program(daemons, []).hear(), kin.InvalidValue)
    assert isinstance(start_program(daemons, ["sleep", "a\0b"]).hear(), kin.InvalidValue)


@pytest.mark.parametrize("number", [3, 4, 5, 9, 200])
def test_a_newline_on_its_descriptor_says_that_it_is_ready(
    daemons: Daemons, path: Path, number: int
) -> None:
    """Whatever else had that number in whoever started it."""
    script = (
        "import os, sys; n = int(sys.argv[1]); os.write(1, b'.'); sys.stdin = open(sys.argv[2]); "
        "sys.stdin.read(); os.write(n, b'rea'); os.write(n, b'dy\\n'); "
        "import signal; signal.pause()"
    )
    fifo, log = path.parent / "go", path.parent / "log"
    os.mkfifo(fifo)
    command = [sys.executable, "-c", script, str(number), str(fifo)]
    started = start_program(daemons, command, pidfile=path, ready=number, log=log)
    until(lambda: log.exists() and log.read_bytes(), "the program")
    assert not started.original.talk.poll(0)
    fifo.write_text("go")
    who = started.hear()
    assert isinstance(who, kin.Identity), who
    daemon = daemons.seen(who.pid)
    assert number in daemon.descriptors()
    assert kin.PidFile(path).holder() == who
    fifo.unlink()


NOTIFYING = (
    "import os, socket, sys, signal; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
    "a = os.environ['NOTIFY_SOCKET']; os.write(1, a.encode()); "
    "s.sendto(b'STATUS=coming', a.replace('@', chr(0))); open(sys.argv[1]).read(); "
    "s.sendto(b'STATUS=there' + bytes([10]) + b'READY=1', a.replace('@', chr(0))); signal.pause()"
)


def test_a_notification_says_that_it_is_ready(
    daemons: Daemons, short_directory: Path, as_plain_user: User
) -> None:
    fifo, log = short_directory / "go", short_directory / "log"
    os.mkfifo(fifo)
    command = [sys.executable, "-c", NOTIFYING, str(fifo)]
    started = start_program(daemons, command, ready="notify", log=log)
    until(lambda: log.exists() and log.read_bytes(), "the program")
    if as_plain_user.uid is not None:  # a stranger, who is not believed
        name = log.read_text().replace("@", "\0")

        def lie() -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as liar:
                liar.sendto(b"READY=1", name)

        as_plain_user.run(lie)
    assert not started.original.talk.poll(0.01)
    fifo.write_text("go")
    who = started.hear()
    assert isinstance(who, kin.Identity), who
    daemons.seen(who.pid)
    fifo.unlink()


@pytest.mark.parametrize("ready", [3, "notify"])
def test_a_program_that_is_never_ready_is_ended_in_time(
    daemons: Daemons, path: Path, ready: Any
) -> None:
    command = ["sleep", "100"]
    error = start_program(daemons, command, pidfile=path, ready=ready, timeout=0.05).hear()
    assert isinstance(error, kin.Timeout)
    assert "sleep: the daemon did not start: it was not ready within 0.05 s" in str(error)
    assert kin.PidFile(path).holder() is None


@pytest.mark.parametrize("ready", [0, 2, -1, 10**7, "soon", None])
def test_a_sign_that_makes_no_sense_is_refused(daemons: Daemons, ready: Any) -> None:
    assert isinstance(start_program(daemons, ["sleep", "1"], ready=ready).hear(), kin.InvalidValue)


def test_an_interrupt_calls_the_start_off(daemons: Daemons, path: Path) -> None:
    def body(voice: Voice) -> None:
        def interrupt(number: int, frame: Any) -> None:
            raise InterruptedError("by the test")

        signal.signal(signal.SIGTERM, interrupt)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(InterruptedError, match="by the test"):
            kin.start_daemon(["sleep", "100"], ready=3, pidfile=path, timeout=None)
        voice.say(len(os.listdir("/proc/self/fd")) - before)

    started = daemons.start(body)
    until(lambda: kin.PidFile(path).holder() is not None, "the daemon")
    started.original.signal(signal.SIGTERM)
    assert started.hear() == 0
    assert kin.PidFile(path).holder() is None


def test_a_start_leaves_no_child_and_no_descriptor(daemons: Daemons, path: Path) -> None:
    def body(voice: Voice) -> None:
        before = os.listdir("/proc/self/fd")
        who = kin.start_daemon(["sleep", "100"], pidfile=path, log=path.parent / "log")
        for sign in ("alive", "notify", 3):
            with pytest.raises(kin.SystemProblem):
                kin.start_daemon(["false"], ready=sign, settle=HANG)
        with pytest.raises(ChildProcessError):
            os.wait()
        assert os.listdir("/proc/self/fd") == before
        assert kin.stop_daemon(path) == signal.SIGTERM
        voice.say(who.pid)

    started = daemons.start(body)
    started.original.result()


def test_a_plain_user_may_do_all_of_it(as_plain_user: User, daemons: Daemons, path: Path) -> None:
    path.parent.chmod(0o1777)

    def body(voice: Voice) -> None:
        as_plain_user.become()
        who = kin.start_daemon(["sleep", "100"], pidfile=path, log=path.parent / "log")
        voice.say(who.pid)
        assert kin.PidFile(path).holder() == who
        voice.hear()
        assert kin.stop_daemon(path) == signal.SIGTERM

    started = daemons.start(body)
    daemon = daemons.seen(started.hear())
    started.say()
    started.original.result()
    assert daemon.ended()
    assert not path.exists()
