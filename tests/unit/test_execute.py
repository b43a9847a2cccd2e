"""Another program in this process: what it finds there, and what is said when it can't run."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kinfolk.errors import (
    AccessDenied,
    InvalidValue,
    KernelError,
    KinfolkError,
    LimitReached,
    NoSpace,
    NotFound,
)
from kinfolk.processes.execute import execute
from kinfolk.processes.exit_handlers import at_exit
from kinfolk.processes.exit_status import ExitStatus
from tests.conformance.peers import FailedInPeer, Peers, until
from tests.unit.streams import no_more_descriptors

RETURNED = 98


def run(function: Callable[[], Any]) -> tuple[ExitStatus, str]:
    """Call a function in a child that it is to turn into another program; how that ended, and what it wrote."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - buffered, as a pipe is
            function()
        finally:
            os._exit(RETURNED)
    os.close(writer)
    with open(reader, errors="surrogateescape") as file:
        written = file.read()
    return ExitStatus.from_wait(os.waitpid(pid, 0)[1]), written


def refusal(peers: Peers, *args: Any, **named: Any) -> KinfolkError:
    """The error that a call raises in a child; this process must not become another program by mistake."""
    peer = peers.fork(lambda voice: execute(*args, **named))
    with pytest.raises(FailedInPeer) as failed:
        peer.result()
    assert isinstance(failed.value.error, KinfolkError), failed.value
    return failed.value.error


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes, mode: int = 0o755) -> Path:
        path = tmp_path / "script"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path

    return write


# ---------------------------------------------------------------------------- what the program finds


def test_the_pid_stays_and_the_program_is_another() -> None:
    read, write = os.pipe()

    def body() -> None:
        os.write(write, str(os.getpid()).encode())
        execute("/bin/sh", ["a name", "-c", "echo $$ $0"])

    status, written = run(body)
    assert written.split() == [os.read(read, 20).decode(), "a", "name"]
    assert status.success
    os.close(read)
    os.close(write)


def test_a_bare_name_is_searched_for_and_needs_no_arguments() -> None:
    assert run(lambda: execute("true"))[0].success
    assert run(lambda: execute("false"))[0] == ExitStatus("exited", code=1)


def test_path_may_lack_it_at_first(
    tmp_path: Path, script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not be executed is passed over for what may, further on."""
    script("#!/bin/sh\necho wrong", 0o644)
    later = tmp_path / "later"
    later.mkdir()
    (later / "script").write_text("#!/bin/sh\necho right")
    (later / "script").chmod(0o755)
    monkeypatch.setenv("PATH", f"/nowhere:{script('x')}:{tmp_path}:{later}")
    script("#!/bin/sh\necho wrong", 0o644)
    assert run(lambda: execute("script"))[1] == "right\n"
    monkeypatch.setenv("PATH", ":/nowhere")  # an empty element is the working directory
    monkeypatch.chdir(later)
    assert run(lambda: execute("script"))[1] == "right\n"


def test_without_a_path_the_usual_one_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    assert run(lambda: execute("true"))[0].success


def test_its_environment_is_ours_or_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINFOLK_A", "\udcff from us")
    argv = ["sh", "-c", "printf '%s' \"$KINFOLK_A\" | od -An -tx1 -N1; echo $KINFOLK_B"]
    assert run(lambda: execute("/bin/sh", argv))[1] == " ff\n\n"
    env = {"KINFOLK_B": "b=c", "PATH": os.environ["PATH"]}
    assert run(lambda: execute("/bin/sh", argv, env))[1] == "b=c\n"
    assert run(lambda: execute("env", ["env"], {}))[1] == ""
    assert run(lambda: execute("env", ["env"], {b"\xff": b"\n"}))[0].success


def test_what_was_printed_comes_first_and_no_handler_runs() -> None:
    def body() -> None:
        at_exit(lambda: os.write(1, b"handler"))
        print("printed", end=" ")  # and left in the buffer
        execute("echo", ["echo", "by the program"])

    assert run(body)[1] == "printed by the program\n"


# Not by a shell, which clears the mask itself.
SIGNALS = ["grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"]


def signals_seen(before: Callable[[], Any]) -> dict[str, set[int]]:
    def body() -> None:
        before()
        execute("grep", SIGNALS)

    found = {}
    for line in run(body)[1].splitlines():
        name, mask = line.split()
        found[name] = {number for number in range(1, 65) if int(mask, 16) >> (number - 1) & 1}
    assert len(found) == 3
    return found


def in_thread(function: Callable[[], Any]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.parametrize("call", [lambda function: function(), in_thread])
def test_what_python_ignores_is_default_again_and_nothing_is_blocked(
    call: Callable[[Callable[[], Any]], Any],
) -> None:
    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        signal.signal(signal.SIGUSR2, lambda number, frame: None)
        call(lambda: execute("grep", SIGNALS))

    seen = signals_seen(body)
    assert seen["SigIgn:"] & {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP} == {signal.SIGHUP}
    assert not seen["SigBlk:"]
    assert signal.SIGUSR2 not in seen["SigCgt:"]


def test_os_execv_leaves_sigpipe_ignored() -> None:
    """Negative control: what is held above is the work of `execute`."""

    def body() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        os.execvp("grep", SIGNALS)

    seen = signals_seen(body)
    assert signal.SIGPIPE in seen["SigIgn:"]
    assert signal.SIGUSR1 in seen["SigBlk:"]


def test_descriptors_stay_only_when_they_are_passed(tmp_path: Path) -> None:
    def body() -> None:
        with open(tmp_path / "a", "w") as kept, open(tmp_path / "b", "w") as lost:
            os.dup2(lost.fileno(), 8, inheritable=False)
            os.dup2(kept.fileno(), 7, inheritable=False)
            os.dup2(kept.fileno(), 9, inheritable=False)
            program = "echo object >&7; echo number >&9; echo lost >&8"
            execute("/bin/sh", ["sh", "-c", program], pass_fds=[os.fdopen(7, "w"), 9])

    assert run(body)[0].code == 2
    assert (tmp_path / "a").read_text() == "object\nnumber\n"
    assert (tmp_path / "b").read_text() == ""


def test_what_was_inherited_does_not_stay(tmp_path: Path) -> None:
    """As a shell leaves it open: ``exec 9<file``."""

    def body() -> None:
        for number in (7, 9):
            os.dup2(os.open("/dev/null", os.O_RDONLY), number, inheritable=True)
        execute("ls", ["ls", "/proc/self/fd"], pass_fds=[7])

    assert run(body)[1].split() == ["0", "1", "2", "3", "7"]  # 3 is what ls has opened


def test_other_threads_end() -> None:
    def body() -> None:
        threading.Thread(target=threading.Event().wait).start()
        execute("/bin/sh", ["sh", "-c", "ls /proc/$$/task | wc -l"])

    assert run(body)[1].strip() == "1"


def test_children_stay_children() -> None:
    def body() -> None:
        child = subprocess.Popen(["sleep", "100"])
        see = f"grep PPid /proc/{child.pid}/status; echo $$; kill {child.pid}; wait"
        execute("/bin/sh", ["sh", "-c", see])

    _, parent, pid = run(body)[1].split()
    assert parent == pid


# ----------------------------------------------------------------------------------- what is said


def test_nothing_of_that_name(peers: Peers, tmp_path: Path) -> None:
    error = refusal(peers, "no-such-program-anywhere")
    assert isinstance(error, NotFound)
    assert "no directory of PATH has this program" in str(error)
    assert str(error).startswith("no-such-program-anywhere: ")
    error = refusal(peers, tmp_path / "absent")
    assert isinstance(error, NotFound)
    assert isinstance(error, FileNotFoundError)
    assert error.errno == errno.ENOENT
    assert error.filename == str(tmp_path / "absent")
    (tmp_path / "dangling").symlink_to("nothing")
    assert "leads nowhere" in str(refusal(peers, tmp_path / "dangling"))


def test_an_interpreter_that_is_missing_is_named(peers: Peers, script: Callable[..., Path]) -> None:
    error = refusal(peers, script("#! /no/such/interpreter -x\n"))
    assert isinstance(error, NotFound)
    assert "its interpreter /no/such/interpreter is not there" in str(error)
    assert "CR LF" in str(refusal(peers, script("#!/bin/sh\r\necho\r\n")))


def test_a_loader_that_is_missing(peers: Peers, script: Callable[..., Path]) -> None:
    program = Path("/bin/true").read_bytes()
    broken = program.replace(b"/lib64/ld-linux-x86-64.so.2", b"/lib64/ld-nowhere-x86-64.so")
    if broken == program:
        pytest.skip("/bin/true names another loader")
    assert "dynamic loader" in str(refusal(peers, script(broken)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("echo I lack the first line\n", "no #! line"),
        ("", "empty"),
        (b"\x7fELF" + bytes(100), "another machine"),
    ],
)
def test_no_program(
    peers: Peers, script: Callable[..., Path], content: str | bytes, said: str
) -> None:
    error = refusal(peers, script(content))
    assert isinstance(error, KernelError)
    assert error.errno == errno.ENOEXEC
    assert said in str(error)


def test_what_may_not_be_executed(peers: Peers, script: Callable[..., Path]) -> None:
    error = refusal(peers, script("#!/bin/sh\n", 0o644))
    assert isinstance(error, AccessDenied)
    assert error.errno == errno.EACCES
    assert "not executable" in str(error)
    assert "it is a directory" in str(refusal(peers, "/tmp"))
    assert "no regular file" in str(refusal(peers, "/dev/null"))


def test_denied_beats_missing(
    peers: Peers, script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script("#!/bin/sh\n", 0o644)
    monkeypatch.setenv("PATH", f"{path.parent}:/nowhere")
    assert isinstance(refusal(peers, "script"), AccessDenied)


def test_a_directory_of_path_that_may_not_be_searched_is_no_denial(
    as_plain_user: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}/closed:/usr")
    said = as_plain_user.run(_refused, "no-such-program")
    (tmp_path / "closed").chmod(0o700)
    assert said.startswith("NotFound: no-such-program: no directory of PATH has this program")


def test_of_several_on_path_the_one_that_is_there_is_explained(
    peers: Peers, script: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = script("#!/no/such/interpreter\n")
    monkeypatch.setenv("PATH", f"/nowhere:{path.parent}:/usr")
    assert str(refusal(peers, "script")).startswith(f"{path}: its interpreter /no/such/interpreter")


def test_what_is_being_written(peers: Peers, script: Callable[..., Path]) -> None:
    path = script("#!/bin/sh\n")
    with path.open("ab"):
        error = refusal(peers, path)
    assert error.errno == errno.ETXTBSY
    assert "somebody writes" in str(error)


def test_too_much_says_how_much_and_what_the_limit_is(peers: Peers) -> None:
    error = refusal(peers, "true", ["true", "x" * 200_000])
    assert isinstance(error, LimitReached)
    assert error.errno == errno.E2BIG
    assert "argument 1 is too long: 200,000 bytes, and 131,071 is the limit" in str(error)
    error = refusal(peers, "true", env={"HUGE": "x" * 200_000})
    assert "variable HUGE is too long" in str(error)

    def body(voice: object) -> None:
        hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
        resource.setrlimit(resource.RLIMIT_STACK, (4 * 1024 * 1024, hard))
        execute("true", ["true", *["x" * 1000] * 2000], {})

    with pytest.raises(FailedInPeer) as failed:
        peers.fork(body).result()
    assert "2,018,013 and 0 bytes, and 1,048,576 is the limit for both" in str(failed.value)


@pytest.mark.parametrize(("length", "fits"), [(131_071, True), (131_072, False)])
def test_the_limit_for_one_is_what_we_say(peers: Peers, length: int, fits: bool) -> None:
    if fits:
        assert run(lambda: execute("true", ["true", "x" * length]))[0].success
    else:
        assert "131,071 is the limit" in str(refusal(peers, "true", ["true", "x" * length]))


@pytest.mark.parametrize("argv", [[], "ls", b"ls", [""], None, 3, ["a", 1], ["a\0b"], {"a"}])
def test_arguments_that_make_no_sense(peers: Peers, argv: Any) -> None:
    path = "" if argv is None else "/bin/true"
    assert isinstance(refusal(peers, path, argv), InvalidValue)


@pytest.mark.parametrize("env", [{"": "x"}, {"a=b": "c"}, {"a": 1}, {"a\0": "b"}, ["a=b"], "a"])
def test_environments_that_make_no_sense(peers: Peers, env: Any) -> None:
    assert isinstance(refusal(peers, "/bin/true", None, env), InvalidValue)


@pytest.mark.parametrize("thing", [-1, 1000, 2**40, "1", object()])
def test_descriptors_that_are_none(peers: Peers, thing: Any) -> None:
    error = refusal(peers, "/bin/true", pass_fds=[thing])
    assert isinstance(error, InvalidValue)
    assert "no open descriptor" in str(error)


def test_a_full_disk_under_what_was_printed(peers: Peers) -> None:
    def body(voice: object) -> None:
        sys.stdout = open("/dev/full", "w")  # noqa: SIM115
        print("lost")
        execute("/bin/true")

    with pytest.raises(FailedInPeer) as failed:
        peers.fork(body).result()
    assert isinstance(failed.value.error, NoSpace)


def test_after_a_refusal_everything_is_as_before(peers: Peers) -> None:
    def body(voice: object) -> list[bool]:
        reader, writer = os.pipe()
        os.dup2(1, 9, inheritable=True)
        handled = []
        signal.signal(signal.SIGUSR2, lambda number, frame: handled.append(number))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        with pytest.raises(NotFound):
            execute("/nowhere", pass_fds=[writer])
        os.close(reader)
        with pytest.raises(BrokenPipeError):  # SIGPIPE is ignored
            os.write(writer, b"x")
        os.kill(os.getpid(), signal.SIGUSR2)
        until(lambda: handled, "SIGUSR2 handled")
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return [os.get_inheritable(writer), os.get_inheritable(9), blocked == {signal.SIGUSR1}]

    assert peers.fork(body).result() == [False, True, True]


def test_without_a_descriptor_to_look_with(peers: Peers) -> None:
    def body(voice: object) -> None:
        with no_more_descriptors():
            execute("/bin/true")

    with pytest.raises(FailedInPeer) as failed:
        peers.fork(body).result()
    assert isinstance(failed.value.error, LimitReached)


def test_a_plain_user_is_told_the_same(as_plain_user: Any, script: Callable[..., Path]) -> None:
    path = script("#!/bin/sh\n", 0o600)
    for directory in path.parents[:3]:
        directory.chmod(0o755)
    path.parent.chmod(0o700)
    error = as_plain_user.run(_refused, str(path))
    assert "AccessDenied" in error


def _refused(path: str) -> str:
    try:
        execute(path)
    except KinfolkError as error:
        return f"{type(error).__name__}: {error}"
