"""`system` and `popen`: what a command finds, what is so here meanwhile, and how it ended."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kinfolk.errors import AccessDenied, BrokenChannel, InvalidValue, NotFound
from kinfolk.processes import shell
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.shell import popen, system
from tests.conformance.peers import (
    FailedInPeer,
    Peers,
    Voice,
    open_descriptors,
    state,
    thread_of,
    until,
)


def exited(code: int) -> ExitStatus:
    return ExitStatus("exited", code=code)


def in_this_thread(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def in_another_thread(function: Callable[..., Any], *args: Any) -> Any:
    with thread_of(function, *args) as call:
        return call.result()


THREADS = pytest.mark.parametrize("call", [in_this_thread, in_another_thread])


# ---------------------------------------------------------------------------------------- system


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 255])
def test_system_gives_the_code(code: int) -> None:
    assert system(f"exit {code}") == exited(code)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGPIPE])
def test_system_gives_the_signal(number: signal.Signals) -> None:
    assert system(f"kill -{number.name[3:]} $$") == ExitStatus("signaled", signal=number)


def test_a_list_is_no_shells_business(tmp_path: Path) -> None:
    odd = tmp_path / "$HOME; echo *"
    assert system(["touch", odd]).success
    assert os.listdir(tmp_path) == [odd.name]
    assert system([b"test", b"-e", os.fsencode(odd)]).success


def test_a_program_that_is_missing(tmp_path: Path) -> None:
    """A list raises; a shell is there, and says 127 of what it can't find."""
    before = open_descriptors()
    with pytest.raises(NotFound, match="no directory of PATH has this program"):
        system(["no-such-program"])
    (tmp_path / "data").write_text("")
    with pytest.raises(AccessDenied, match="chmod"):
        popen([tmp_path / "data"])
    with pytest.raises(NotFound):
        popen(["no-such-program"], "w")
    assert open_descriptors() == before
    assert system("exec 2>/dev/null; no-such-program") == exited(127)


def test_a_command_may_begin_with_a_dash() -> None:
    assert system("-c true 2>/dev/null") == exited(127)


@pytest.mark.parametrize("command", [None, [], [""], 3, "a\0b", ["a", None], {"a"}])
@pytest.mark.parametrize("function", [system, popen])
def test_what_is_no_command(command: Any, function: Callable[[Any], Any]) -> None:
    with pytest.raises(InvalidValue):
        function(command)


def masks(path: str) -> dict[str, set[int]]:
    """The signals in the masks of a process or a thread."""
    lines = (line.split(":") for line in Path(path).read_text().splitlines() if "Sig" in line[:3])
    return {
        # 32 and 33 are the C library's own, and inherited.
        name: {n for n in range(1, 65) if int(mask, 16) >> (n - 1) & 1 and n not in (32, 33)}
        for name, mask in lines
        if name != "SigQ"
    }


OURS = {signal.SIGINT, signal.SIGQUIT}


@THREADS
def test_what_signals_do_here_and_in_the_command(
    call: Callable[..., Any], tmp_path: Path, peers: Peers
) -> None:
    def body(voice: Voice) -> list[Any]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

        def in_thread() -> list[Any]:
            me = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/status"
            before = masks(me)
            main = f"/proc/{os.getpid()}/status"
            # While a child is being started everything is blocked.
            begun = f"while grep -q 'SigBlk:.*ffff' {me}; do :; done"
            see = f"cat {me} > ours; cat {main} > main; cat /proc/self/status > its"
            status = system(f"{begun}; {see}")
            return [status, before, masks("ours"), masks("main"), masks("its"), masks(me)]

        os.chdir(tmp_path)
        return call(in_thread)

    status, before, ours, main, its, after = peers.fork(body).result()
    assert status.success
    assert not OURS & before["SigIgn"]
    assert ours["SigIgn"] == main["SigIgn"] == before["SigIgn"] | OURS
    assert ours["SigBlk"] == before["SigBlk"] | {signal.SIGCHLD}
    assert not its["SigBlk"]
    assert its["SigIgn"] == {signal.SIGHUP}  # what is ignored for longer than this moment
    assert before == after


@THREADS
def test_an_interrupt_is_for_the_command(call: Callable[..., Any], peers: Peers) -> None:
    def body(voice: Voice) -> Any:
        status = call(system, f"kill -INT {os.getpid()}; kill -QUIT {os.getpid()}; kill -INT $$")
        with pytest.raises(KeyboardInterrupt):  # and it is for us again
            os.kill(os.getpid(), signal.SIGINT)
        return status

    assert peers.fork(body).result() == ExitStatus("signaled", signal=signal.SIGINT)


def test_with_subprocess_it_is_for_both(peers: Peers) -> None:
    """Negative control of the test above."""

    def body(voice: Voice) -> None:
        subprocess.call(["sh", "-c", f"kill -INT {os.getpid()}"])

    with pytest.raises(FailedInPeer, match="KeyboardInterrupt"):
        peers.fork(body).result()


class Gate:
    """A command that says that it runs, and goes on when it is told so."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.command = f"echo > {path}; read x < {path}"
        os.mkfifo(path)

    def until_running(self) -> None:
        self.path.read_text()

    def open(self) -> None:
        self.path.write_text("\n")


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[list[Gate]]:
    made = [Gate(tmp_path / name) for name in "ab"]
    yield made
    for gate in made:
        gate.path.unlink()


def ignores_interrupts() -> bool:
    return masks("/proc/self/status")["SigIgn"] >= OURS


def test_of_several_threads_the_last_one_puts_back(gates: list[Gate]) -> None:
    handlers = [signal.getsignal(number) for number in OURS]
    a, b = gates
    assert not ignores_interrupts()
    with thread_of(system, a.command) as first, thread_of(system, b.command) as second:
        a.until_running()
        b.until_running()
        assert ignores_interrupts()
        a.open()
        assert first.result().success
        assert ignores_interrupts()
        b.open()
        assert second.result().success
    assert not ignores_interrupts()
    assert [signal.getsignal(number) for number in OURS] == handlers


def test_what_was_set_meanwhile_stays(peers: Peers, gates: list[Gate]) -> None:
    def body(voice: Voice) -> list[int]:
        got: list[int] = []
        with thread_of(system, gates[0].command) as call:
            gates[0].until_running()
            signal.signal(signal.SIGQUIT, lambda number, frame: got.append(number))
            gates[0].open()
            call.result()
        os.kill(os.getpid(), signal.SIGQUIT)
        until(lambda: got, "SIGQUIT handled")
        return got

    assert peers.fork(body).result() == [signal.SIGQUIT]


def test_a_fork_meanwhile_does_not_ignore_interrupts(peers: Peers, gates: list[Gate]) -> None:
    with thread_of(system, gates[0].command):
        gates[0].until_running()
        child = peers.fork(lambda voice: ignores_interrupts())
        gates[0].open()
    assert not child.result()


def test_a_handler_of_sigchld_does_not_get_the_status(peers: Peers) -> None:
    def body(voice: Voice) -> tuple[set[ExitStatus], bool]:
        handled = []

        def reap(number: int, frame: object) -> None:
            handled.append(number)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass

        signal.signal(signal.SIGCHLD, reap)
        return {system("exit 7") for _ in range(50)}, bool(handled)

    assert peers.fork(body).result() == ({exited(7)}, True)


def test_an_exception_of_a_handler_ends_the_command(peers: Peers, tmp_path: Path) -> None:
    def body(voice: Voice) -> list[str]:
        def handler(number: int, frame: object) -> None:
            raise TimeoutError("now")

        signal.signal(signal.SIGUSR1, handler)
        # What a signal asks of Python comes after the system call that is being entered.
        asleep = f"until grep -q ^State:.S /proc/{os.getpid()}/status; do :; done"
        with pytest.raises(TimeoutError, match="now"):
            system(
                f"echo $$ > {tmp_path}/a; sh -c 'echo $$ > {tmp_path}/b;"
                f" {asleep}; kill -USR1 {os.getpid()}; sleep 100'; true"
            )
        assert not ignores_interrupts()
        return [(tmp_path / name).read_text() for name in "ab"]

    shell, below = map(int, peers.fork(body).result())
    until(lambda: state(shell) in "XZ" and state(below) in "XZ", "both ended")


@pytest.mark.parametrize("function", [system, popen])
def test_a_handler_that_raises_during_the_start_has_to_wait_and_ends_it(
    peers: Peers, function: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(voice: Voice) -> str:
        def handler(number: int, frame: object) -> None:
            raise TimeoutError("now")

        started = []

        def start(*args: Any) -> Any:
            started.append(real(*args))
            os.kill(os.getpid(), signal.SIGUSR1)
            return started[0]

        real = shell._start
        monkeypatch.setattr(shell, "_start", start)
        signal.signal(signal.SIGUSR1, handler)
        with pytest.raises(TimeoutError, match="now"):
            function("sleep 100")
        assert len(started) == 1
        return state(started[0].pid)

    assert peers.fork(body).result() == "X"


def test_what_was_printed_comes_first(peers: Peers, tmp_path: Path) -> None:
    def body(voice: Voice) -> None:
        os.dup2(os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        print("first")
        system("echo second")
        print("third")
        popen(["sh", "-c", "cat; echo fifth"], "w").close()
        with popen("cat", "w") as file:
            file.write("sixth\n")
        print("seventh", flush=True)

    peers.fork(body).result()
    assert (tmp_path / "out").read_text().split() == [
        *("first", "second", "third", "fifth", "sixth", "seventh")
    ]


def test_the_command_has_its_standard_streams_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        with popen(["ls", "/proc/self/fd"]) as file:
            assert file.read().split() == ["0", "1", "2", "3"]  # 3 is the directory that it reads
    finally:
        os.close(reader)
        os.close(writer)


# ----------------------------------------------------------------------------------------- popen


def test_reading_text() -> None:
    with popen("printf 'a\\nb\\nü'; exit 3") as file:
        assert isinstance(file, io.TextIOBase)
        assert (file.mode, file.name) == ("r", "printf 'a\\nb\\nü'; exit 3")
        assert file.readline() == "a\n"
        assert list(file) == ["b\n", "ü"]
    assert file.closed
    assert file.close() == file.close() == exited(3)


def test_reading_bytes() -> None:
    with popen(["printf", r"\377\n\000"], "rb") as file:
        assert isinstance(file, io.BufferedReader)
        assert file.read() == b"\xff\n\0"
    assert file.close().success


def test_writing(tmp_path: Path) -> None:
    with popen(f"cat > {tmp_path}/a", "w") as text:
        assert text.write("ü\n") == 2
        print(1, 2, file=text)
        text.writelines(["x", "y"])
    assert text.close().success
    assert (tmp_path / "a").read_bytes() == "ü\n1 2\nxy".encode()
    with popen(f"cat > {tmp_path}/b; exit 4", "wb") as binary:
        binary.write(b"\xff\0")
    assert binary.close() == exited(4)
    assert (tmp_path / "b").read_bytes() == b"\xff\0"


def test_encodings() -> None:
    with popen(r"printf '\344'", encoding="latin-1") as file:
        assert file.read() == "ä"
    with popen(r"printf '\344'", encoding="utf-8", errors="replace") as file:
        assert file.read() == "\ufffd"
    with popen(r"printf '\344'", encoding="utf-8") as file, pytest.raises(UnicodeDecodeError):
        file.read()
    assert file.close().success


def test_other_code_takes_it_for_a_file(tmp_path: Path) -> None:
    with popen("echo a,b; echo '1,\"2\"'") as file:
        assert list(csv.reader(file)) == [["a", "b"], ["1", "2"]]
    with popen("echo '{\"a\": [1]}'") as file:
        assert json.load(file) == {"a": [1]}
    with popen("seq 1000", "rb") as source, popen("wc -l >&2", "wb") as sink:
        with popen(f"cat > {tmp_path}/copy", "wb") as copy:
            shutil.copyfileobj(source, copy)
        sink.write((tmp_path / "copy").read_bytes())
    assert (tmp_path / "copy").read_text().split() == [str(n) for n in range(1, 1001)]
    with popen("echo x", "rb") as binary, io.TextIOWrapper(binary) as wrapped:
        assert wrapped.read() == "x\n"


def test_the_wrong_way() -> None:
    with popen("true") as file, pytest.raises(io.UnsupportedOperation):
        file.write("x")
    with popen("true", "w") as file, pytest.raises(io.UnsupportedOperation):
        file.read()
    with popen("true", "rb") as binary, pytest.raises(io.UnsupportedOperation):
        binary.seek(0)


def test_closing_early_ends_what_writes_on() -> None:
    """SIGPIPE, which Python ignores, has its default in the command."""
    file = popen(["yes"])
    assert file.readline() == "y\n"
    assert file.close() == ExitStatus("signaled", signal=signal.SIGPIPE)


def test_a_command_that_reads_no_more() -> None:
    file = popen("exit 5", "w")
    file.process.wait()
    file.write("x")
    with pytest.raises(BrokenChannel, match="exit 5: the command reads no more") as caught:
        file.flush()
    assert isinstance(caught.value, BrokenPipeError)
    assert caught.value.errno == errno.EPIPE
    assert file.close() == exited(5)
    with popen("head -c1 >/dev/null", "wb") as binary:
        binary.write(bytes(1000))  # what it has not read by then is no error
    assert binary.close().success


@pytest.mark.parametrize(
    ("mode", "named"),
    [
        ("x", {}),
        ("rw", {}),
        ("r+", {}),
        (None, {}),
        ("r", {"encoding": "no-such"}),
        ("r", {"errors": "no-such"}),
        ("rb", {"encoding": "utf-8"}),
        ("wb", {"errors": "strict"}),
        ("r", {"encoding": "a\0b"}),
    ],
)
def test_modes_that_make_no_sense(mode: Any, named: dict[str, str]) -> None:
    with pytest.raises(InvalidValue):
        popen("true", mode, **named)


def test_its_process_is_a_process() -> None:
    with popen("read x; exit 2", "w") as file:
        assert file.process.status is None
        assert file.process.containment == "direct"
        assert state(file.process.pid) in "RS"
    assert file.process.wait() == exited(2)
    assert file.process.wait().usage is not None


def test_an_exception_in_the_block_closes_it_too() -> None:
    with pytest.raises(ZeroDivisionError), popen(["yes"]) as file:
        raise ZeroDivisionError
    assert file.close().signal == signal.SIGPIPE


def test_dropping_it_warns_and_the_command_is_reaped() -> None:
    before = open_descriptors()
    file = popen("cat >/dev/null; exit 6", "w")
    file.write("x")
    pid = file.process.pid
    with pytest.warns(ResourceWarning, match=rf"nobody waited for process {pid} \(cat"):
        del file
    until(lambda: state(pid) == "X", "reaped")
    until(lambda: open_descriptors() == before, "its descriptors closed")


@contextlib.contextmanager
def stranger() -> Iterator[list[str]]:
    """A child that inherits what it can; its files."""
    with subprocess.Popen(["sleep", "100"], close_fds=False) as other:
        try:
            yield files_of(other.pid)
        finally:
            other.kill()


def files_of(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def test_no_other_child_has_the_file() -> None:
    """Else the command would not see its end before that child's."""
    with popen("cat", "w") as first, popen("cat", "w") as second, stranger() as files:
        pipe = os.readlink(f"/proc/self/fd/{first.fileno()}")
        assert pipe not in files
        assert pipe not in files_of(second.process.pid)
        assert first.close().success


def test_a_file_that_is_inheritable_would_be_there() -> None:
    """Negative control of the test above."""
    with popen("cat", "w") as file:
        fcntl.fcntl(file, fcntl.F_SETFD, 0)
        with stranger() as files:
            assert os.readlink(f"/proc/self/fd/{file.fileno()}") in files


def test_standard_streams_that_are_closed(peers: Peers) -> None:
    """The pipe must not become standard input by taking its number."""

    def body(voice: Voice) -> tuple[str, ExitStatus]:
        sys.stdout = sys.stderr = None
        for number in range(3):
            os.close(number)
        with popen("ls -l /proc/self/fd | grep -c /dev/null; exit 3") as file:
            found = file.read()
        return found, file.close()

    assert peers.fork(body).result() == ("2\n", exited(3))


def test_the_program_of_the_source() -> None:
    """Reads what a command writes, and prints its status first."""

    def source(command: str) -> str:
        pp = popen(command, "r")
        output = pp.read(1024)
        status = pp.close()
        return f"status: {status.code}\n{output}" if status.code is not None else ""

    assert source("echo output") == "status: 0\noutput\n"
    assert source("echo output; exit 3") == "status: 3\noutput\n"
