"""A command on a terminal: it has it, stops with its supervisor and goes on with it, and gives it back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

import kinfolk as kin
from kinfolk import _native
from kinfolk.processes import felling, foreground, init
from tests.conformance.peers import Peers, state, until
from tests.unit.job_shell import Change, Terminal
from tests.unit.supervised import (
    Line,
    enter_pid_namespace,
    need_pid_namespaces,
    pending,
    python,
    shell,
)


@pytest.fixture
def out() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture
def terminal(peers: Peers) -> Iterator[Terminal]:
    terminal = Terminal(peers)
    yield terminal
    terminal.close()


def job(out: Line, *argv: str, before: Callable[[], None] = lambda: None) -> Callable[[], int]:
    """A supervisor whose command speaks on the line."""

    def body() -> int:
        os.dup2(out.writer, 1)
        out.close()
        before()
        return kin.run_as_init(argv).status.shell_code

    return body


#: Says each line that comes, and SIGINT, SIGCONT and SIGHUP; reads only when there is something.
READER = """
import select
def say(text):
    os.write(1, text.encode() + b"\\n")
awake, waker = os.pipe()
os.set_blocking(waker, False)
signal.set_wakeup_fd(waker)
for number in (signal.SIGINT, signal.SIGCONT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: None)
say("ready")
while True:
    ready = select.select([0, awake], [], [])[0]
    if awake in ready:
        for number in os.read(awake, 64):
            say(signal.Signals(number).name)
    else:
        data = os.read(0, 1024)
        if not data:
            break
        for line in data.splitlines():
            say(line.decode())
"""


def command_of(supervisor: int) -> int:
    (command,) = felling.children_of(supervisor)
    return command


def test_it_reads_from_the_terminal_and_gives_it_back(terminal, out):
    running = terminal.run(job(out, *python(READER)))
    assert out.hear() == "ready"
    terminal.type("hello\n")
    assert out.hear() == "hello"
    terminal.type("\x04")
    assert running.change() == Change("exited", 0, had_terminal=True)


def test_it_has_it_from_its_first_instruction_on(terminal, out):
    """Not only when its parent comes to it, which may be after it has read."""
    for _ in range(20):
        running = terminal.run(job(out, *shell("read x; echo $x")))
        terminal.type("hello\n")
        assert running.change() == Change("exited", 0, had_terminal=True)
        assert out.hear() == "hello"


def test_without_lending_it_is_stopped_by_reading(terminal, out, monkeypatch):
    """The negative control of both."""

    def before() -> None:
        monkeypatch.setattr(foreground, "is_ours", lambda: False)

    running = terminal.run(job(out, *shell("read x; echo $x"), before=before))
    assert running.change() == Change("stopped", signal.SIGTTIN, had_terminal=True)
    running.shell.kill()


def test_ctrl_c_reaches_it_once_and_its_supervisor_never(terminal, out):
    running = terminal.run(job(out, *python(READER)))
    assert out.hear() == "ready"
    terminal.type("\x03")
    assert out.hear() == "SIGINT"
    terminal.type("still there\n\x04")
    assert running.change() == Change("exited", 0, had_terminal=True)
    assert out.everything() == ["still there"]


def test_killed_by_ctrl_c(terminal, out):
    running = terminal.run(job(out, *shell("echo ready; exec sleep 1000")))
    assert out.hear() == "ready"
    terminal.type("\x03")
    assert running.change() == Change("exited", 128 + signal.SIGINT, had_terminal=True)


def test_ctrl_z_and_fg(terminal, out):
    running = terminal.run(job(out, *python(READER)))
    assert out.hear() == "ready"
    for _ in range(3):
        terminal.type("\x1a")
        assert running.change() == Change("stopped", signal.SIGTSTP, had_terminal=True)
        assert state(command_of(running.pid)) == "T"
        running.foreground()
        assert out.hear() == "SIGCONT"
        terminal.type("again\n")
        assert out.hear() == "again"
    terminal.type("\x04")
    assert running.change() == Change("exited", 0, had_terminal=True)


def test_without_stopping_along_the_shell_never_hears(terminal, out, monkeypatch):
    """The negative control: the command stands still, and the shell waits for ever."""

    def before() -> None:
        monkeypatch.setattr(init._Supervision, "_stop_along", lambda self, number: None)

    running = terminal.run(job(out, *python(READER), before=before))
    assert out.hear() == "ready"
    terminal.type("\x1a")
    command = command_of(running.pid)
    until(lambda: state(command) == "T", "stopped")
    until(lambda: state(running.pid) == "S", "asleep")
    os.kill(running.pid, signal.SIGCONT)
    assert out.hear() == "SIGCONT"  # the shell had not seen a stop until then
    terminal.type("\x04")
    assert running.change().kind == "exited"


def test_ctrl_z_and_bg(terminal, out):
    """In the background it goes on, until it reads; the shell keeps the terminal."""
    running = terminal.run(job(out, *shell("echo ready; read x; echo $x")))
    assert out.hear() == "ready"
    terminal.type("\x1a")
    assert running.change().kind == "stopped"
    running.background()
    assert running.change() == Change("stopped", signal.SIGTTIN, had_terminal=False)
    running.foreground()
    terminal.type("hello\n")
    assert running.change() == Change("exited", 0, had_terminal=True)
    assert out.everything() == ["hello"]


def test_started_in_the_background_it_takes_nothing(terminal, out):
    running = terminal.run(job(out, *shell("read x; echo $x")), background=True)
    assert running.change() == Change("stopped", signal.SIGTTIN, had_terminal=False)
    running.foreground()
    terminal.type("hello\n")
    assert running.change() == Change("exited", 0, had_terminal=True)
    assert out.everything() == ["hello"]


def test_stopped_by_sigstop(terminal, out):
    """As by the `suspend` of a shell."""
    running = terminal.run(job(out, *python(READER)))
    assert out.hear() == "ready"
    os.kill(command_of(running.pid), signal.SIGSTOP)
    assert running.change() == Change("stopped", signal.SIGTSTP, had_terminal=True)
    running.foreground()
    assert out.hear() == "SIGCONT"
    terminal.type("\x04")
    assert running.change().kind == "exited"


def test_a_command_that_can_not_be_started_gives_it_back(terminal, out):
    def body() -> int:
        with pytest.raises(kin.AccessDenied):
            kin.run_as_init(["/etc/passwd"])  # fails at its execve, after it has had the terminal
        return 0 if foreground.is_ours() else 1

    assert terminal.run(body).change() == Change("exited", 0, had_terminal=True)


def test_one_that_takes_it_and_is_killed_leaves_it(terminal, out):
    """A shell that has put a job of its own into the foreground."""
    program = """
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    print("ready", flush=True)
    signal.pause()
signal.pause()
"""
    running = terminal.run(job(out, *python(program)))
    assert out.hear() == "ready"
    os.kill(command_of(running.pid), signal.SIGKILL)
    assert running.change() == Change("exited", 128 + signal.SIGKILL, had_terminal=True)


#: With a child, each of which sleeps for ever. (Not a shell: one that is inside vfork(2) can't stop.)
COUPLE = """
if os.fork() == 0:
    print(os.getpid(), flush=True)
while True:
    signal.pause()
"""


def ctrl_z_on_a_couple(
    terminal: Terminal, out: Line, child_stops: bool, before: Callable[[], None] = lambda: None
) -> None:
    """Standard input is no terminal, so we stay in the foreground, and get what the whole job should."""

    def elsewhere() -> None:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        before()

    running = terminal.run(job(out, *python(COUPLE), before=elsewhere))
    child = out.hear_pid()
    terminal.type("\x1a")
    assert running.change() == Change("stopped", signal.SIGTSTP, had_terminal=True)
    command = command_of(running.pid)
    assert state(command) == "T"
    if child_stops:
        until(lambda: state(child) == "T", "the child stopped, too")
    else:
        assert state(child) != "T"
    running.foreground()
    until(lambda: "T" not in (state(command), state(child)), "both go on")
    os.kill(command, signal.SIGKILL)
    assert running.change().number == 128 + signal.SIGKILL


def test_what_the_terminal_sends_to_us_goes_to_the_whole_group(terminal, out):
    ctrl_z_on_a_couple(terminal, out, child_stops=True)


def test_without_that_rule_it_goes_to_the_command_alone(terminal, out, monkeypatch):
    """The negative control."""

    def before() -> None:
        monkeypatch.setattr(init, "_BY_TERMINAL", ())

    ctrl_z_on_a_couple(terminal, out, child_stops=False, before=before)


# ── without a shell ──────────────────────────────────────────────────────────────────────────


def test_without_a_shell_ctrl_z_does_nothing(terminal, out):
    """In a container: nobody could ever continue it."""
    peer = terminal.lead(lambda voice: job(out, *python(READER))())
    assert out.hear() == "ready"
    terminal.type("\x1a")
    assert out.hear() == "SIGCONT"
    terminal.type("hello\n\x04")
    assert out.hear() == "hello"
    assert peer.result() == 0


def test_without_a_shell_sigstop_holds(terminal, out):
    """Somebody has a reason for it; the terminal stays with the command meanwhile."""
    peer = terminal.lead(lambda voice: job(out, *python(READER))())
    assert out.hear() == "ready"
    command = command_of(peer.pid)
    os.kill(command, signal.SIGSTOP)
    until(lambda: state(command) == "T", "stopped")
    peer.signal(signal.SIGUSR2)  # is taken after the stop was seen
    until(lambda: pending(command) & 1 << signal.SIGUSR2 - 1, "passed on")
    assert state(command) == "T"
    os.kill(command, signal.SIGCONT)
    assert peer.result() == 128 + signal.SIGUSR2


def test_who_wants_a_terminal_that_nobody_can_give_is_hung_up(terminal, out, peers):
    """As the kernel does with who stands still in an orphaned process group; else it would stand there for ever."""
    peer = peers.fork(lambda voice: in_an_orphaned_group(terminal, job(out, *shell("read x"))))
    assert peer.result() == 128 + signal.SIGHUP


def in_an_orphaned_group(terminal: Terminal, body: Callable[[], int]) -> int:
    """Run it in the background of a terminal; its parent is the calling process, of another session."""
    _native.set_child_subreaper(True)
    leader = os.fork()
    if leader == 0:
        terminal.become_leader()
        parent = os.fork()
        if parent == 0:
            here, there = os.pipe()
            if os.fork() > 0:
                os._exit(0)
            os.close(there)
            os.read(here, 1)  # ends when the parent has
            os.setpgid(0, 0)
            os._exit(body())
        signal.pause()
    code = os.waitstatus_to_exitcode(os.wait()[1])
    os.kill(leader, signal.SIGKILL)
    os.waitpid(leader, 0)
    return code


def no_input() -> None:
    os.dup2(os.pipe()[0], 0)


def test_without_a_terminal_a_stop_is_not_followed(peers, out):
    """Who stops it continues it; a supervisor that stood still as well would never be woken."""

    peer = peers.fork(lambda voice: job(out, *python(READER), before=no_input)())
    assert out.hear() == "ready"
    command = command_of(peer.pid)
    os.kill(command, signal.SIGSTOP)
    until(lambda: state(command) == "T", "stopped")
    peer.until_asleep()
    os.kill(command, signal.SIGCONT)
    assert out.hear() == "SIGCONT"
    os.kill(command, signal.SIGKILL)
    assert peer.result() == 128 + signal.SIGKILL


# ── in a pid namespace, where our process group, outside, has no number ──────────────────────


def as_pid_1(body: Callable[[], int]) -> Callable[[], int]:
    """As `unshare --pid --fork` does it."""
    need_pid_namespaces()

    def outside() -> int:
        enter_pid_namespace()
        pid = os.fork()
        if pid == 0:
            try:
                assert (os.getpid(), os.getpgrp()) == (1, 0)
                os._exit(body())
            finally:
                os._exit(98)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return outside


def test_as_pid_1_it_has_the_terminal(terminal, out):
    running = terminal.run(as_pid_1(job(out, *shell("read x; echo $x"))))
    terminal.type("hello\n")
    change = running.change()
    assert (change.kind, change.number) == ("exited", 0)
    assert out.everything() == ["hello"]


def test_as_pid_1_in_the_background_it_takes_nothing(terminal, out):
    running = terminal.run(as_pid_1(job(out, *shell("read x; echo $x"))), background=True)
    assert running.change() == Change("exited", 128 + signal.SIGHUP, had_terminal=False)
    assert out.everything() == []


def test_without_asking_the_kernel_it_would(terminal, out, monkeypatch):
    """The negative control: two groups outside look alike."""

    def before() -> None:
        monkeypatch.setattr(foreground, "_may_read", lambda: True)

    job_ = as_pid_1(job(out, *shell("read x; echo $x"), before=before))
    running = terminal.run(job_, background=True)
    terminal.type("hello\n")
    assert running.change().number == 0
    assert out.everything() == ["hello"]
