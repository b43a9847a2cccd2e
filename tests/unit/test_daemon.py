"""Daemons, as /proc shows them: what they are, when their starter goes on, and what each death before that leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import record_locks
from kinfolk.processes import daemon_guard, daemon_shape, exit_handlers, felling
from tests.conformance.peers import HANG, Voice, readable, state, until
from tests.unit.daemons import Daemons, Seen, adopter, keeping, live_as_daemon
from tests.unit.daemons import daemons as daemons
from tests.unit.daemons import path as path

# -------------------------------------------------------------------------- what a daemon is


def test_a_daemon_is_alone(daemons: Daemons) -> None:
    """Its own process group in a session without a leader and a terminal, with init as its parent."""
    started, daemon = daemons.simple()
    assert started.code() == 0
    assert started.said() == ""
    assert daemon.parent == adopter()
    assert daemon.session not in (daemon.pid, os.getsid(0))
    assert not os.path.exists(f"/proc/{daemon.session}"), "its guard, the leader, has gone"
    assert daemon.group == daemon.pid
    assert daemon.terminal == 0


def test_directory_umask_and_streams(daemons: Daemons, tmp_path: Path) -> None:
    _, daemon = daemons.simple()
    assert daemon.cwd == "/"
    assert int(daemon.status("Umask"), 8) == 0o027
    assert [daemon.descriptors()[number] for number in range(3)] == ["/dev/null"] * 3


def test_other_choices(daemons: Daemons, tmp_path: Path) -> None:
    before = os.umask(0o123)
    try:
        _, daemon = daemons.simple(chdir=tmp_path, umask=0o077)
        assert daemon.cwd == str(tmp_path)
        assert int(daemon.status("Umask"), 8) == 0o077
        _, other = daemons.simple(chdir=False, umask=None)
        assert other.cwd == os.getcwd()
        assert int(other.status("Umask"), 8) == 0o123
    finally:
        os.umask(before)


def test_streams_may_stay(daemons: Daemons) -> None:
    reader, writer = os.pipe()

    def body(voice: Voice) -> None:
        os.dup2(writer, 1)
        kin.daemonize(close=False, keep=keeping(voice))
        os.write(1, b"still there")
        voice.say(os.getpid())
        voice.hear()

    started = daemons.start(body)
    daemon = daemons.seen(started.hear())
    assert os.read(reader, 100) == b"still there"
    assert daemon.descriptors()[1].startswith("pipe:")
    os.close(reader)
    os.close(writer)


def terminal_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4])


def test_a_daemon_has_no_terminal_and_gets_none(daemons: Daemons) -> None:
    """It is started from a terminal, whose session it leaves, and then opens one, as the leader of a session
    would get it for good: which is the negative control.
    """
    master, slave = os.openpty()
    name = os.ttyname(slave)

    def body(voice: Voice, becomes_daemon: bool) -> None:
        os.setsid()
        os.open(name, os.O_RDWR)  # without O_NOCTTY: it is the controlling terminal now
        voice.say(terminal_of(os.getpid()))
        if becomes_daemon:
            kin.daemonize(keep=keeping(voice))
        else:  # one fork and setsid, the second fork left out
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # of its old session, which ends
            if os.fork():
                os._exit(0)
            os.setsid()
        voice.say(os.getpid())
        voice.hear()
        os.open(name, os.O_RDWR)
        with pytest.raises(PermissionError):
            os.setsid()
        voice.say()
        voice.hear()

    for becomes_daemon in (True, False):
        started = daemons.start(body, becomes_daemon)
        assert started.hear() != 0
        daemon = daemons.seen(started.hear())
        assert started.code() == 0
        assert daemon.terminal == 0
        started.say()
        started.hear()
        assert (daemon.terminal == 0) == becomes_daemon
        daemon.close()
        daemons._seen.remove(daemon)
    os.close(master)
    os.close(slave)


def test_signals_start_afresh_but_handlers_stay(daemons: Daemons) -> None:
    ours = {signal.SIGHUP, signal.SIGINT, signal.SIGTSTP, signal.SIGRTMIN + 1}

    def body(voice: Voice) -> None:
        for number in ours:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda number, frame: voice.say("handled"))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        kin.daemonize(keep=keeping(voice))
        voice.say(os.getpid())
        voice.hear()

    started = daemons.start(body)
    daemon = daemons.seen(started.hear())
    assert daemon.signals("SigBlk") == set()
    assert daemon.signals("SigIgn") == {signal.SIGPIPE, signal.SIGXFSZ}, "which Python needs"
    assert signal.SIGINT in daemon.signals("SigCgt"), "Python's own: KeyboardInterrupt"
    signal.pidfd_send_signal(daemon.pidfd, signal.SIGUSR1)
    assert started.hear() == "handled"


# ------------------------------------------------------------------------------------ descriptors


def test_descriptors_are_let_go_but_those_that_are_kept(daemons: Daemons, path: Path) -> None:
    def body(voice: Voice) -> None:
        file = tempfile.TemporaryFile()  # noqa: SIM115
        inherited = os.dup(file.fileno())
        os.set_inheritable(inherited, True)
        kept, _ = socket.socketpair()
        kin.daemonize(
            pidfile=path,
            keep=keeping(
                voice,
                kept,
            ),
        )
        voice.say((os.getpid(), file.fileno(), inherited, kept.fileno(), voice._talk.fileno()))
        voice.hear()

    started = daemons.start(body)
    pid, file, inherited, kept, talk = started.hear()
    found = daemons.seen(pid).descriptors()
    assert found[file] == found[inherited] == "tombstone"
    others = {number: what for number, what in found.items() if what != "tombstone"}
    assert [others[number] for number in range(3)] == ["/dev/null"] * 3
    logging_of_pytest = {number for number in others if others[number] == "/dev/null"}
    locked = others.keys() - logging_of_pytest - {kept, talk}
    assert len(locked) == 1, others
    assert os.stat(f"/proc/{pid}/fd/{locked.pop()}").st_ino == path.stat().st_ino


def close_all(kept: Set[int]) -> None:
    for number in daemon_shape._open_descriptors():
        if number > 2 and number not in kept:
            os.close(number)


@pytest.mark.parametrize("buried", [True, False], ids=["tombstones", "closed"])
def test_an_object_that_was_let_go_of_harms_no_new_file(
    daemons: Daemons, tmp_path: Path, buried: bool
) -> None:
    """Closing the descriptors instead, as others do, is the negative control: the old object writes into the new file."""

    def body(voice: Voice) -> None:
        old = open(tmp_path / "old", "wb", buffering=0)  # noqa: SIM115
        if not buried:
            daemon_shape.bury_descriptors = close_all
        kin.daemonize(keep=keeping(voice))
        new = [open(tmp_path / f"new{n}", "wb", buffering=0) for n in range(40)]  # noqa: SIM115
        try:
            old.write(b"to the old one")
        except OSError:
            voice.say("refused")
        else:
            voice.say("written")
        with contextlib.suppress(OSError):
            old.close()
        voice.say([os.fstat(file.fileno()).st_size for file in new if is_open(file)])

    started = daemons.start(body)
    answer, sizes = started.hear(), started.hear()
    assert answer == ("refused" if buried else "written")
    assert (sizes == [0] * 40) == buried
    started.original.ended()


def is_open(file: Any) -> bool:
    try:
        os.fstat(file.fileno())
    except OSError:
        return False
    return True


def test_the_logging_module_goes_on(daemons: Daemons, tmp_path: Path) -> None:
    def body(voice: Voice) -> None:
        handlers = [logging.FileHandler(tmp_path / "root"), logging.FileHandler(tmp_path / "one")]
        logging.getLogger().addHandler(handlers[0])
        logging.getLogger("kf.one").addHandler(
            logging.handlers.MemoryHandler(1, target=handlers[1])
        )
        logging.getLogger("kf.one").warning("before")
        kin.daemonize(keep=keeping(voice))
        logging.getLogger("kf.one").warning("after")
        voice.say()

    import logging.handlers

    started = daemons.start(body)
    started.hear()
    for name in ("root", "one"):
        assert (tmp_path / name).read_text() == "before\nafter\n"


@pytest.mark.parametrize("thing", [-1, 10**6, "x", object()], ids=repr)
def test_what_can_not_be_kept_is_said(daemons: Daemons, thing: Any) -> None:
    daemons.refuses(kin.InvalidValue, "no open descriptor", keep=(thing,))


# -------------------------------------------------------------------------------- logs, journal

#: The environment of a Python that keeps what it prints for a while.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_a_log_gets_what_is_printed_line_by_line(daemons: Daemons, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    script = """if True:
        import os, sys, kinfolk as kin
        print("from the original")
        kin.daemonize(log=sys.argv[1], pidfile=sys.argv[2])
        print("a line")
        os.write(2, b"an error\\n")
        import signal; signal.pause()
    """
    pidfile = tmp_path / "pid"
    command = [sys.executable, "-c", script, str(log), str(pidfile)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, env=BUFFERED)
    assert (done.returncode, done.stdout) == (0, b"from the original\n")
    daemon = daemons.seen(int(pidfile.read_text()))
    until(lambda: log.read_text() == "old\na line\nan error\n", "the lines in the log")
    assert daemon.descriptors()[1] == daemon.descriptors()[2] == str(log)


def test_a_new_log_is_private(daemons: Daemons, tmp_path: Path) -> None:
    daemons.simple(log=tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_log_that_can_not_be_is_refused(
    daemons: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(daemon_shape, "JOURNAL", str(tmp_path / "no"))
    daemons.refuses(kin.NotFound, "the log can't be opened", log=tmp_path / "no" / "log")
    daemons.refuses(kin.KernelError, "the log can't be opened", log=tmp_path / "fifo")
    daemons.refuses(kin.NotFound, r"there is no journal.*give a file", log="journal")
    (tmp_path / "fifo").unlink()


def test_the_journal_gets_a_stream_of_its_own(
    daemons: Daemons, short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the protocol of systemd-cat: seven lines of header, then the lines of the log."""
    monkeypatch.setattr(daemon_shape, "JOURNAL", str(short_directory / "stdout"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(short_directory / "stdout"))
        listener.listen()

        def body(voice: Voice) -> None:
            kin.daemonize(log="journal", name="my\napp", keep=keeping(voice))
            os.write(1, b"one\n")
            os.write(2, b"<3>two\n")
            voice.say()

        daemons.start(body).hear()
        texts = []
        for _ in range(2):  # the first is the trial before the forks
            stream, _ = listener.accept()
            with stream, stream.makefile("rb") as file:
                texts.append(file.read())
    assert texts == [b"kinfolk\n\n6\n1\n0\n0\n0\n", b"my app\n\n6\n1\n0\n0\n0\none\n<3>two\n"]


# ------------------------------------------------------------------------------- the original


def test_what_was_printed_is_written_once_and_the_pipe_ends(
    daemons: Daemons, tmp_path: Path
) -> None:
    script = """if True:
        import signal, sys, kinfolk as kin
        print("once")
        sys.stderr.write("also once\\n")
        kin.daemonize(pidfile=sys.argv[1])
        print("into the void")
        signal.pause()
    """
    pidfile = tmp_path / "pid"
    command = [sys.executable, "-c", script, str(pidfile)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=HANG, env=BUFFERED)
    daemons.seen(int(pidfile.read_text()))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"once\n", b"also once\n")


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
def test_streams_may_be_closed_at_the_start(daemons: Daemons, tmp_path: Path, closed: str) -> None:
    script = """if True:
        import os, signal, sys, kinfolk as kin
        kin.daemonize(pidfile=sys.argv[1])
        print("no error"); sys.stderr.write("none")
        open(sys.argv[1] + ".printed", "w").close()
        signal.pause()
    """
    pidfile = tmp_path / "pid"
    redirections = " ".join(f"{number}>&-" for number in closed)
    shell = f'exec "$@" {redirections}'
    command = ["sh", "-c", shell, "sh", sys.executable, "-c", script, str(pidfile)]
    assert subprocess.run(command, check=False, timeout=HANG).returncode == 0
    daemon = daemons.seen(int(pidfile.read_text()))
    until((tmp_path / "pid.printed").exists, "something printed")
    found = daemon.descriptors()
    assert [found[number] for number in range(3)] == ["/dev/null"] * 3
    assert kin.PidFile(pidfile).holder() == kin.Identity.of(daemon.pid)


def test_exit_handlers_are_the_daemons(tmp_path: Path) -> None:
    script = """if True:
        import atexit, os, sys, kinfolk as kin
        def note(who): os.write(out, f"{who} {os.getpid() == first}\\n".encode())
        out, first = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.getpid()
        atexit.register(note, "atexit")
        from kinfolk.processes.exit_handlers import at_exit
        at_exit(lambda: note("at_exit"))
        kin.daemonize(keep=[out], pidfile=sys.argv[2])
        if os.fork() == 0: sys.exit()  # its child must not remove the pid file
        os.wait()
        note(os.path.exists(sys.argv[2]))
    """
    out, pidfile = tmp_path / "out", tmp_path / "pid"
    subprocess.run([sys.executable, "-c", script, out, pidfile], check=True)
    until(lambda: not pidfile.exists(), "the end of the daemon")
    lines = out.read_text().splitlines()
    assert all(line.endswith(" False") for line in lines)
    assert lines.count("True False") == 1
    until(lambda: len(out.read_text().splitlines()) == 5, "its exit handlers")


# ------------------------------------------------------------------------------------- readiness


def test_the_original_waits_until_the_daemon_is_ready(daemons: Daemons) -> None:
    def body(voice: Voice) -> None:
        with kin.daemonize(until_ready=True, keep=keeping(voice)) as daemon:
            voice.say(os.getpid())
            voice.hear()
            daemon.ready()
            daemon.ready()
            voice.hear()

    started = daemons.start(body)
    daemon = daemons.seen(started.hear())
    assert daemon.parent != adopter(), "its guard is"
    assert not readable(started.original.pidfd, 0)
    started.say()
    assert started.code() == 0
    assert daemon.parent == adopter()
    assert not readable(daemon.pidfd, 0)


def fails(action: Callable[[], Any]) -> Callable[[Voice], None]:
    def body(voice: Voice) -> None:
        with kin.daemonize(until_ready=True, keep=keeping(voice), name="app", timeout=HANG):
            voice.say(os.getpid())
            voice.hear()
            action()

    return body


def _raise(error: BaseException) -> None:
    raise error


FAILURES: dict[str, tuple[Callable[[], Any], int, str]] = {
    "an exception": (
        lambda: _raise(RuntimeError("no such camera")), 1, "did not start: RuntimeError: no such camera",
    ),
    "an error of kinfolk": (
        lambda: kin.open_sender("unix:/nowhere/sock", timeout=0), 1, "app: /nowhere: ",
    ),
    "several lines": (lambda: _raise(RuntimeError("a\n\x1b[1mb\udc80")), 1, r"Error: a \x1b[1mb\udc80"),
    "sys.exit with a text": (lambda: sys.exit("no camera"), 1, "did not start: no camera"),
    "sys.exit with a code": (lambda: sys.exit(42), 42, "did not start: exit 42"),
    "kin.exit": (lambda: exit_handlers.exit(43), 43, "did not start: exit 43"),
    "sys.exit with 0": (lambda: sys.exit(0), 1, "without saying that it is ready"),
    "the end of the block": (lambda: None, 1, "without saying that it is ready"),
    "os._exit": (lambda: os._exit(7), 7, "ended before it was ready: exited 7"),
    "os._exit with 0": (lambda: os._exit(0), 1, "ended before it was ready: exited 0"),
    "a signal": (
        lambda: os.kill(os.getpid(), signal.SIGUSR1), 128 + signal.SIGUSR1, "killed by SIGUSR1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", FAILURES)
def test_a_daemon_that_fails_before_it_is_ready_is_said(daemons: Daemons, how: str) -> None:
    action, code, text = FAILURES[how]
    started = daemons.start(fails(action))
    daemon = daemons.seen(started.hear())
    started.say()
    assert started.code() == code
    assert daemon.ended(), "before the original"
    said = started.said()
    assert said.startswith("app: ")
    assert said.endswith("\n")
    assert said.count("\n") == 1
    assert text in said


def test_a_daemon_that_is_never_ready_is_ended_in_time(daemons: Daemons, path: Path) -> None:
    def body(voice: Voice) -> None:
        kin.daemonize(until_ready=True, timeout=0.05, pidfile=path)
        signal.pause()

    started = daemons.start(body)
    assert started.code() == 124
    assert (
        "not ready within 0.05 s, and was ended (say that it is ready with ready()"
        in started.said()
    )
    assert not path.exists(), "it could not remove its pid file itself"


def test_one_that_fails_is_left_to_its_clean_up(
    daemons: Daemons, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM would come in the middle of it, and end it."""
    reader, writer = os.pipe()
    end = daemon_guard.Guard._end

    def says_so(guard: daemon_guard.Guard, **options: Any) -> None:
        os.write(writer, b"x")
        end(guard, **options)

    monkeypatch.setattr(daemon_guard.Guard, "_end", says_so)

    def body(voice: Voice) -> None:
        try:
            with kin.daemonize(until_ready=True, keep=keeping(voice), pidfile=path, timeout=HANG):
                voice.say(os.getpid())
                raise RuntimeError("no such camera")
        finally:
            voice.say("cleaning up")
            voice.hear()
            voice.say("clean")

    started = daemons.start(body)
    daemon = daemons.seen(started.hear())
    assert started.hear() == "cleaning up"
    os.read(reader, 1)
    until(lambda: state(guard_of(daemon)) == "S", "the guard has been told, and waits")
    os.close(reader)
    os.close(writer)
    assert not path.exists()
    started.say()
    assert started.hear() == "clean"
    assert started.code() == 1
    assert "no such camera" in started.said()
    assert daemon.ended()


def guard_of(daemon: Seen) -> int:
    pid = felling.parent_of(daemon.pid)
    assert pid is not None
    return pid


def test_one_that_says_that_it_fails_and_goes_on_is_ended(
    daemons: Daemons, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_guard, "GRACE", 0.05)

    def body(voice: Voice) -> None:
        with contextlib.suppress(RuntimeError):
            with kin.daemonize(until_ready=True, keep=keeping(voice), pidfile=path, timeout=HANG):
                voice.say(os.getpid())
                raise RuntimeError("no such camera")
        signal.pause()

    started = daemons.start(body)
    daemon = daemons.seen(started.hear())
    assert started.code() == 1
    assert daemon.ended()
    assert not path.exists()


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGSEGV])
def test_one_that_is_killed_before_it_is_ready_leaves_no_pid_file(
    daemons: Daemons, path: Path, by: signal.Signals
) -> None:
    def body(voice: Voice) -> None:
        with kin.daemonize(until_ready=True, pidfile=path, timeout=HANG):
            os.kill(os.getpid(), by)

    started = daemons.start(body)
    assert started.code() == 128 + by
    assert not path.exists()


def test_a_pid_file_of_an_earlier_daemon_stays(daemons: Daemons, path: Path) -> None:
    """It is not this start's; the next one that comes so far replaces it."""
    path.write_text("999999999\n")

    def body(voice: Voice) -> None:
        daemon_shape.bury_descriptors = lambda kept: os._exit(3)  # before the lock
        kin.daemonize(pidfile=path)

    assert daemons.start(body).code() == 3
    assert path.read_text() == "999999999\n"


def test_one_that_is_called_off_may_clean_up_for_a_while(
    daemons: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_guard, "GRACE", 0.1)

    def body(voice: Voice) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: voice.say("cleaning up"))
        kin.daemonize(until_ready=True, timeout=HANG, keep=keeping(voice))
        voice.say(os.getpid())
        while True:
            signal.pause()

    started = daemons.start(body)
    daemon = daemons.seen(started.hear())
    started.original.kill()
    assert started.hear() == "cleaning up"
    assert daemon.ended(), "by SIGKILL"


def test_a_block_ends_with_its_pid_file(daemons: Daemons, path: Path) -> None:
    def body(voice: Voice) -> None:
        with kin.daemonize(keep=keeping(voice), pidfile=path) as daemon:
            assert daemon.pid_file is not None
            voice.say(daemon.pid_file.locked)
            voice.hear()
        voice.say(os.path.exists(path))
        voice.hear()

    started = daemons.start(body)
    assert started.hear() is True
    assert path.exists()
    started.say()
    assert started.hear() is False
    started.say()


# ----------------------------------------------------------------------------------- crash points


def child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def waits(voice: Voice) -> None:
    with kin.daemonize(until_ready=True, keep=keeping(voice), name="app", timeout=HANG) as daemon:
        voice.say((os.getpid(), os.getppid()))
        voice.hear()
        try:
            daemon.ready()
        except kin.BrokenChannel as error:
            voice.say(str(error))
            raise


def test_an_original_that_is_killed_takes_all_along(daemons: Daemons) -> None:
    started = daemons.start(waits)
    daemon, guard = map(daemons.seen, started.hear())
    started.original.kill()
    assert daemon.ended()
    assert guard.ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_original_that_is_ended_takes_all_along(daemons: Daemons, number: int) -> None:
    started = daemons.start(waits)
    daemon, guard = map(daemons.seen, started.hear())
    started.original.signal(number)
    started.original.ended()
    assert daemon.ended()
    assert guard.ended()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_guard_that_is_killed_takes_the_daemon_along(
    daemons: Daemons, number: signal.Signals
) -> None:
    def body(voice: Voice) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # not the guard's
        waits(voice)

    started = daemons.start(body)
    daemon, guard = map(daemons.seen, started.hear())
    signal.pidfd_send_signal(guard.pidfd, number)
    assert started.code() == 1
    assert daemon.ended()
    why = f"the process that started it was lost: killed by {number.name} (start it again)"
    assert why in started.said()


def test_a_daemon_that_lost_both_ends_when_it_is_ready(daemons: Daemons) -> None:
    started = daemons.start(waits)
    daemon, guard = map(daemons.seen, started.hear())
    started.original.signal(signal.SIGSTOP)
    signal.pidfd_send_signal(guard.pidfd, signal.SIGKILL)
    assert guard.ended()
    started.original.kill()
    started.say()
    assert "nobody waits for this daemon" in started.hear()
    assert daemon.ended()


def killed_at(fork: int, side: str) -> Callable[..., Any]:
    """Makes the fork number ``fork`` end in the death of one side, before the other goes on."""
    forks = iter(range(1, 10))
    real = os.fork

    def forking() -> int:
        number, parent = next(forks), os.pidfd_open(os.getpid())
        pid = real()
        if number == fork and (pid == 0) == (side == "child"):
            os.kill(os.getpid(), signal.SIGKILL)
        if number == fork and pid == 0:  # whoever is killed has its descriptors for a while yet
            assert readable(parent)
        os.close(parent)
        return pid

    return forking


@pytest.mark.parametrize(
    ("fork", "side", "code"),
    [(1, "parent", -9), (1, "child", 1), (2, "parent", 1), (2, "child", 137)],
    ids=["original", "guard before its fork", "guard after its fork", "daemon"],
)
def test_a_kill_at_a_fork_leaves_nothing_in_the_way(
    daemons: Daemons, path: Path, fork: int, side: str, code: int
) -> None:
    reader, writer = os.pipe()

    def body(voice: Voice) -> None:
        os.fork = killed_at(fork, side)
        kin.daemonize(pidfile=path, keep=(writer,))
        signal.pause()

    started = daemons.start(body)
    os.close(writer)
    assert started.code() == code
    if code > 0:
        assert "the daemon " in started.said()
    assert readable(reader), "the end of all of them"
    os.close(reader)
    assert kin.PidFile(path).holder() is None
    _, daemon = daemons.simple(pidfile=path)
    assert kin.PidFile(path).holder() == kin.Identity.of(daemon.pid)


def test_a_kill_between_lock_and_name_leaves_nothing_in_the_way(
    daemons: Daemons, path: Path
) -> None:
    def body(voice: Voice) -> None:
        real = record_locks.try_to_set

        def dying(*args: Any) -> bool:
            taken = real(*args)
            os.kill(os.getpid(), signal.SIGKILL)
            return taken

        record_locks.try_to_set = dying  # type: ignore[assignment]
        kin.daemonize(pidfile=path)

    started = daemons.start(body)
    assert started.code() == 128 + signal.SIGKILL
    assert "killed by SIGKILL" in started.said()
    assert list(path.parent.iterdir()) == []
    daemons.simple(pidfile=path)


# ---------------------------------------------------------------------------------------- pid file


def test_of_two_daemons_of_a_name_the_second_is_refused(daemons: Daemons, path: Path) -> None:
    _, daemon = daemons.simple(pidfile=path)
    daemons.refuses(kin.Busy, f"process {daemon.pid} ", pidfile=path)
    daemon.close()
    daemons._seen.remove(daemon)
    assert path.exists(), "stale"
    daemons.simple(pidfile=path)


def test_one_that_another_start_overtook_says_so(
    daemons: Daemons, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, daemon = daemons.simple(pidfile=path)
    monkeypatch.setattr(kin.PidFile, "refuse_if_held", lambda self: None)
    started = daemons.start(live_as_daemon, {"pidfile": path})
    assert started.code() == 1
    assert f"{path}: its daemon is running: process {daemon.pid} " in started.said()


def test_the_lock_is_the_daemons_own(daemons: Daemons, path: Path) -> None:
    def body(voice: Voice) -> None:
        kin.daemonize(pidfile=path, keep=keeping(voice))
        voice.say((os.getpid(), child := os.fork()))
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        voice.say()
        voice.hear()

    started = daemons.start(body)
    pid, _ = started.hear()
    daemon = daemons.seen(pid)
    while started.hear() is not None:
        pass
    assert kin.PidFile(path).holder() == kin.Identity.of(pid)
    assert path.read_text() == f"{pid}\n"
    assert kin.stop_daemon(path) == signal.SIGTERM
    assert daemon.ended()


# ---------------------------------------------------------------------------------------- refused


def test_other_threads_are_refused_by_name(daemons: Daemons) -> None:
    def body(voice: Voice) -> None:
        threading.Thread(target=signal.pause, name="camera", daemon=True).start()
        os.fork = lambda: pytest.fail("forked")
        for attempt in (kin.daemonize, lambda: kin.start_daemon(["sleep", "100"])):
            with pytest.raises(kin.UsageError, match=r"camera \(.*kin daemon -- CMD"):
                attempt()

    daemons.start(body).original.result()


def test_a_running_loop_is_refused(daemons: Daemons) -> None:
    async def attempt() -> None:
        with pytest.raises(kin.UsageError, match="asyncio loop"):
            kin.daemonize()

    daemons.start(lambda voice: asyncio.run(attempt())).original.result()


@pytest.mark.parametrize(
    "options",
    [{"umask": -1}, {"umask": 0o1000}, {"log": "x", "close": False}, {"timeout": -1}, {"log": ""},
     {"chdir": "a\0"}, {"pidfile": ""}],
    ids=repr,
)  # fmt: skip
def test_what_makes_no_sense_is_refused(daemons: Daemons, options: dict[str, Any]) -> None:
    daemons.refuses(kin.InvalidValue, r"\(.+\)$", **options)


def test_a_directory_that_is_not_there_is_refused(daemons: Daemons) -> None:
    daemons.refuses(kin.NotFound, "/no/where: a daemon can't change to it", chdir="/no/where")


def test_no_more_processes_is_said(daemons: Daemons, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def first(voice: Voice) -> None:
        os.fork = refusing
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(kin.SystemProblem, match=r"no daemon can be forked.*ulimit -u"):
            kin.daemonize()
        assert len(os.listdir("/proc/self/fd")) == before
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()

    daemons.start(first).original.result()

    def second(voice: Voice) -> None:
        forks, real = iter((1, 2)), os.fork
        os.fork = lambda: real() if next(forks) == 1 else refusing()
        kin.daemonize()

    started = daemons.start(second)
    assert started.code() == 1
    assert "no daemon can be forked" in started.said()


# ------------------------------------------------------------------------------ kinfolk's own things


def test_channels_and_their_watcher_work_on_in_a_daemon(daemons: Daemons) -> None:
    """What a blocking call keeps (an eventfd, the watcher's thread and epoll) is made anew, and is no thread in the way."""

    def use() -> int:
        """The threads then."""
        for mechanism, threads in (("pipe:", 1), ("sysv-mq:", 2)):
            receiver, sender = kin.channel(mechanism)
            with receiver, sender:
                timeout = 0.001  # which may pass on the way to where it blocks
                while timeout < HANG and (timeout == 0.001 or running() < threads):
                    with contextlib.suppress(kin.Timeout):
                        receiver.recv(timeout=timeout)
                    timeout *= 2
                sender.send("x")
                assert receiver.recv(timeout=HANG) == "x"
        return running()

    def running() -> int:
        return len(os.listdir("/proc/self/task"))

    def body(voice: Voice) -> None:
        before = use()
        kin.daemonize(keep=keeping(voice))
        voice.say((before, use()))

    assert daemons.start(body).hear() == (2, 2)


def test_a_daemon_has_a_keeper_of_its_own(daemons: Daemons) -> None:
    """What its original has spawned ends with that; what it spawns itself is its own."""

    def body(voice: Voice) -> None:
        before = kin.spawn(["sleep", "100"])
        voice.say(before.pid)
        voice.hear()
        kin.daemonize(keep=keeping(voice))
        voice.say(kin.spawn(["sh", "-c", "exit 5"]).wait(timeout=HANG).code)
        with pytest.raises(kin.ForkedCopy):
            before.wait(timeout=0)
        voice.say(None)

    started = daemons.start(body)
    before = daemons.seen(started.hear())
    started.say()
    assert started.hear() == 5
    assert started.hear() is None
    assert started.code() == 0
    assert before.ended()
