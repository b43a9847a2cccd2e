"""What the tour is worth: when something is broken, a check must say so.

Each case breaks one thing, in the parent before the fork, so that the children have it too.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import kinfolk as kin
from kinfolk.tour import (
    echo,
    ends,
    fifo,
    file,
    fork,
    orphan,
    pipe,
    route,
    signals,
    system,
    sysv_mq,
    vfork,
)
from kinfolk.tour import exit as exit_stop
from kinfolk.tour.evidence import Watched
from kinfolk.tour.links import Link
from kinfolk.tour.processes import PATIENCE
from kinfolk.tour.stop import Stop


def corrupt_one_byte(monkeypatch):
    """The receiver writes the first byte of each message wrongly to its file."""
    store = file._store
    monkeypatch.setattr(
        file, "_store", lambda fd, piece: store(fd, bytes([piece[0] ^ 1]) + piece[1:])
    )


def answer_something_else(monkeypatch):
    def answer(line, connection):
        with connection:
            heard = connection.recv(timeout=PATIENCE)
            connection.send("something else", timeout=PATIENCE)
            return heard

    monkeypatch.setattr(pipe, "_answer", answer)


def write_no_more_than_pipe_buf(monkeypatch):
    """Small writes are atomic, so nothing is mixed up."""
    monkeypatch.setattr(fifo, "_LARGE", 1024)


def deliver_half_a_message(monkeypatch):
    """A receiver that gives out what a killed sender left, as a naive one would."""
    recv_bytes = kin.Receiver.recv_bytes
    monkeypatch.setattr(
        kin.Receiver, "recv_bytes", lambda self, **how: recv_bytes(self, **how) + b"x" * 8
    )


def forget_the_mode(monkeypatch):
    serve = echo.serve
    monkeypatch.setattr(
        "kinfolk.tour.unix.serve",
        lambda line, address, count, options: serve(line, address, count, {}),
    )


def steal_live_names(monkeypatch):
    """As the source's server does: unlink, then bind."""
    listen = kin.listen

    def steal(address, **how):
        path = address.partition(":")[2]
        if os.path.exists(path):
            os.unlink(path)
        return listen(address, **how)

    monkeypatch.setattr(kin, "listen", steal)
    monkeypatch.setattr("kinfolk.tour.unix.PATIENCE", 1)  # for what can't be reached any more


def swap_two_numbers(monkeypatch):
    send = kin.Sender.send

    def swapped(self, obj, **how):
        send(self, {100: 101, 101: 100}.get(obj, obj), **how)

    monkeypatch.setattr(kin.Sender, "send", swapped)


def echo_one_byte_less(monkeypatch):
    def shorten(connection):
        for message in connection:
            connection.send_bytes(bytes(message)[:-1], timeout=PATIENCE)

    monkeypatch.setattr(echo, "_echo", shorten)


def forget_the_priority(monkeypatch):
    send = kin.Sender.send

    def forgetful(self, obj, *, priority=None, **how):
        send(self, obj, **how)

    monkeypatch.setattr(kin.Sender, "send", forgetful)


def ask_for_any_type(monkeypatch):
    work = sysv_mq._work
    monkeypatch.setattr(sysv_mq, "_work", lambda line, address, kind: work(line, address, 0))


def leave_sigpipe_ignored(monkeypatch):
    def write(line):
        reading, writing = os.pipe()
        os.close(reading)
        os.write(writing, b"hello?")

    monkeypatch.setattr(ends, "_write_where_nobody_reads", write)


def take_a_stopped_process_for_dead(monkeypatch):
    """The sender is killed where it should only be stopped."""
    monkeypatch.setattr(signal, "SIGSTOP", signal.SIGKILL)


# ── processes ────────────────────────────────────────────────────────────────────────────────


def share_what_is_forked(monkeypatch):
    """As vfork would: what the child writes, the parent has."""
    monkeypatch.setattr(fork, "_FLAGS", mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


def copy_at_once(monkeypatch):
    """The child gets its copies before it writes, as fork did once."""

    def read(memory):
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset] = memory[offset]

    monkeypatch.setattr(fork, "_read", read)


def start_what_fails(monkeypatch):
    monkeypatch.setattr(vfork, "_WANTED", 1 << 20)
    monkeypatch.setattr(
        vfork,
        "_posix_spawn",
        lambda program: subprocess.run(["false"], check=False).returncode == 0,
    )
    monkeypatch.setitem(vfork.WAYS, "posix_spawn", vfork._posix_spawn)


def fork_without_tables(monkeypatch):
    """The tables of shared memory are not copied, but made anew when it is touched."""
    monkeypatch.setattr(vfork, "_WANTED", 64 << 20)
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    monkeypatch.setattr(vfork, "_FLAGS", flags)


def leave_it_unpopulated(monkeypatch):
    monkeypatch.setattr(vfork, "_WANTED", 64 << 20)
    monkeypatch.setattr(vfork, "_FLAGS", mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def adopt_nothing(monkeypatch):
    """A command is run by somebody who is no subreaper."""

    def run(argv):
        subprocess.run(argv, check=False)
        return SimpleNamespace(reaped=0)

    monkeypatch.setattr(kin, "run_as_init", run)


def let_children_go(monkeypatch):
    monkeypatch.setattr(orphan, "PATIENCE", 0.2)
    monkeypatch.setattr(kin, "spawn", functools.partial(kin.spawn, detach=True))


def diagnose_nothing(monkeypatch):
    monkeypatch.setattr(kin, "diagnose_zombies", lambda tree: [])


def ignore_nothing(monkeypatch):
    monkeypatch.setattr(kin.signals, "ignore", lambda name: contextlib.nullcontext())


def adopt_and_never_wait(monkeypatch):
    """As the first process of many containers."""
    monkeypatch.setattr(Watched, "gone", lambda self, timeout: False)


def name_the_first(monkeypatch):
    monkeypatch.setattr(kin, "wait_any", lambda several, timeout: several[0])


def take_what_is_lost_for_success(monkeypatch):
    monkeypatch.setattr(
        "kinfolk.processes.direct._lost", lambda pidfd: kin.ExitStatus("exited", code=0)
    )


def stop_like_the_dead(monkeypatch):
    """Whoever waits for changes is told of ends alone."""
    monkeypatch.setattr(kin.Process, "wait_change", lambda self, timeout: self.stop())


def execute_in_a_child(monkeypatch):
    """As system would: the other program is not this process."""

    def execute(path, argv=(), env=None):
        if not os.path.exists(path):
            raise kin.NotFound("there is none")
        sys.stdout.flush()
        subprocess.run(argv, executable=path, env=env, check=False)
        os._exit(0)

    monkeypatch.setattr(kin, "execute", execute)


def return_in_silence(monkeypatch):
    execute = kin.execute

    def silent(path, *args):
        with contextlib.suppress(kin.NotFound):
            execute(path, *args)

    monkeypatch.setattr(kin, "execute", silent)


def _handlers_in_another_order():
    for name in ("func1", "func2", "func3"):
        kin.at_exit(functools.partial(exit_stop._func_n, name))
    for name in ("on_exit1", "on_exit2", "on_exit3"):
        kin.on_exit(exit_stop._func, name)
    with kin.fork() as side:
        if side.child is not None:
            side.child.wait(PATIENCE)


def _handlers_for_the_parent():
    for name in ("on_exit3", "on_exit2", "on_exit1"):
        kin.on_exit(exit_stop._func, name)
    for name in ("func3", "func2", "func1"):
        kin.at_exit(functools.partial(exit_stop._func_n, name))
    with kin.fork(exit_handlers=False) as side:
        if side.child is not None:
            side.child.wait(PATIENCE)


def _exits_twice():
    """In an interpreter of its own, where _exit is exit."""
    kin.exit_now = kin.exit
    exit_stop._exits()


def first_in_first_out(monkeypatch):
    monkeypatch.setattr(exit_stop, "_program", _handlers_in_another_order)


def inherit_nothing(monkeypatch):
    monkeypatch.setattr(exit_stop, "_program", _handlers_for_the_parent)


def flush_at_any_end(monkeypatch):
    monkeypatch.setattr(exit_stop, "_exits", _exits_twice)


def stay_in_the_directory(monkeypatch):
    monkeypatch.setattr(kin, "start_daemon", functools.partial(kin.start_daemon, chdir=None))


def lock_no_pid_file(monkeypatch):
    """The second one gets a pid file of its own."""
    start = kin.start_daemon

    def careless(command, *, pidfile, **how):
        taken = pidfile is not None and os.path.exists(pidfile)
        # The second ends at once, so that it leaves nothing.
        return start(
            ["/bin/sh", "-c", "echo >&3"] if taken else command,
            pidfile=None if taken else pidfile,
            **how,
        )

    monkeypatch.setattr(kin, "start_daemon", careless)


def stop_nobody(monkeypatch):
    monkeypatch.setattr(kin, "stop_daemon", lambda pidfile, timeout: None)


def interrupt_everybody(monkeypatch):
    """Who waits for a command does not ignore SIGINT."""
    monkeypatch.setattr(
        system,
        "_run",
        lambda line, command: str(
            kin.spawn(["/bin/sh", "-c", command], containment="direct").wait()
        ),
    )


def see_no_signal(monkeypatch):
    """A status is what the shell shows of it."""
    run = system._run

    def shown(line, command):
        status = run(line, command)
        return "exited 143" if status == "killed by SIGTERM" else status

    monkeypatch.setattr(system, "_run", shown)


def close_without_status(monkeypatch):
    close = kin.CommandText.close

    def forgetful(self):
        close(self)

    monkeypatch.setattr(kin.CommandText, "close", forgetful)


def give_lists_to_the_shell(monkeypatch):
    popen = kin.popen

    def shell(command, mode="r"):
        return popen(command if isinstance(command, str) else " ".join(command), mode)

    monkeypatch.setattr(kin, "popen", shell)


def block_nothing(monkeypatch):
    monkeypatch.setattr(kin.signals, "blocked", lambda number: contextlib.nullcontext())


def send_without_value(monkeypatch):
    send = kin.signals.send
    monkeypatch.setattr(
        kin.signals, "send", lambda pid, name, value=None, **how: send(pid, name, **how)
    )


def merge_real_time_ones(monkeypatch):
    monkeypatch.setattr(signals, "_QUEUED", "USR2")


def queue_ordinary_ones(monkeypatch):
    monkeypatch.setattr(signals, "_ORDINARY", "RTMIN+2")


def inherit_what_python_ignores(monkeypatch):
    """As os.posix_spawn does."""

    @contextlib.contextmanager
    def popen(command):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, restore_signals=False
        ) as child:
            yield child.stdout

    monkeypatch.setattr(kin, "popen", popen)


CASES = [
    ("file", corrupt_one_byte, "same SHA-256"),
    ("fork", share_what_is_forked, "the parent's memory is as it was"),
    ("fork", copy_at_once, "reading copied nothing"),
    ("vfork", start_what_fails, "every /bin/true ran"),
    ("vfork", fork_without_tables, "fork copied the page tables"),
    ("vfork", leave_it_unpopulated, "the memory was resident"),
    ("orphan", adopt_nothing, "the subreaper adopted the orphan"),
    ("orphan", let_children_go, "did not outlive its owner"),
    ("zombie", diagnose_nothing, "the diagnosis names who has to wait"),
    ("zombie", ignore_nothing, "and no status"),
    ("zombie", adopt_and_never_wait, "who adopted it reaped it"),
    ("wait", name_the_first, "the one that ended was named"),
    ("wait", take_what_is_lost_for_success, "never success"),
    ("wait", stop_like_the_dead, "each kind was told apart"),
    ("exec", execute_in_a_child, "the pid is the same"),
    ("exec", return_in_silence, "never returns in silence"),
    ("exit", first_in_first_out, "so did the parent"),
    ("exit", inherit_nothing, "the child inherited all six"),
    ("exit", flush_at_any_end, "_exit does neither"),
    ("daemon", stay_in_the_directory, "keeps no directory busy"),
    ("daemon", lock_no_pid_file, "has its pid file locked"),
    ("daemon", stop_nobody, "it was stopped"),
    ("system", interrupt_everybody, "SIGINT ended the command"),
    ("system", see_no_signal, "the status says exited, killed"),
    ("popen", close_without_status, "close gave the command's status"),
    ("popen", give_lists_to_the_shell, "no shell interprets a list"),
    ("signals", block_nothing, "it was pending, and not handled"),
    ("signals", send_without_value, "it came with its value"),
    ("signals", merge_real_time_ones, "real-time ones were queued"),
    ("signals", queue_ordinary_ones, "ordinary ones became one"),
    ("signals", inherit_what_python_ignores, "in a child it kills again"),
    ("pipe", answer_something_else, "the parent read what its child wrote"),
    ("fifo", write_no_more_than_pipe_buf, "mixed up"),
    ("fifo", deliver_half_a_message, "of the killed one nothing was delivered"),
    ("unix", forget_the_mode, "the mode that was asked for"),
    ("unix", steal_live_names, "a live name was not taken away"),
    ("unix", echo_one_byte_less, "the echo came back"),
    ("unix-dgram", swap_two_numbers, "they came in order"),
    ("unix-seqpacket", echo_one_byte_less, "every message came back whole"),
    ("mq", forget_the_priority, "the most urgent came first"),
    ("sysv-mq", ask_for_any_type, "the worker for type 2 got all of its own"),
    ("tcp", echo_one_byte_less, "the echo came back"),
    ("ends", leave_sigpipe_ignored, "SIGPIPE kills by default"),
    ("ends", take_a_stopped_process_for_dead, "a stopped sender is no dead one"),
]


@pytest.mark.parametrize(("name", "breaking", "sentence"), CASES)
def test_what_is_broken_is_seen(walk, monkeypatch, name, breaking, sentence):
    breaking(monkeypatch)
    ok, report = walk(name)
    assert not ok
    assert not report["ok"]
    (stop,) = report["stops"]
    assert not stop["ok"]
    failed = [check["check"] for check in stop["checks"] if not check["ok"]]
    assert any(sentence in check for check in failed), failed


def test_every_stop_has_a_negative_control():
    assert {name for name, _, _ in CASES} == {stop.name for stop in route.STOPS}


def test_the_rest_goes_on_after_a_failure(walk, monkeypatch):
    corrupt_one_byte(monkeypatch)
    ok, report = walk("file", "pipe")
    assert not ok
    assert [stop["ok"] for stop in report["stops"]] == [False, True]


def test_the_rest_goes_on_after_an_error_nobody_thought_of(walk, monkeypatch):
    def visit(narrator, walk):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(route, "STOPS", (Stop("odd", "odd", "none", visit), *route.STOPS))
    ok, report = walk("odd", "pipe")
    assert not ok
    odd, following = report["stops"]
    assert odd["checks"][0]["detail"] == "ZeroDivisionError: of all things"
    assert "of all things" in odd["traceback"]
    assert following["ok"]


def test_a_stop_without_any_check_does_not_pass(walk, monkeypatch):
    monkeypatch.setattr(
        route, "STOPS", (Stop("idle", "idle", "none", lambda narrator, walk: None),)
    )
    ok, _ = walk("idle")
    assert not ok


def test_what_the_kernel_lacks_is_said_and_is_no_failure(walk, monkeypatch):
    def lacking(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(kin, "open_receiver", lacking)
    ok, report = walk("mq")
    assert ok
    assert report["stops"][0]["lacking"]
    assert not report["stops"][0]["checks"]


def test_a_mechanism_that_fails_is_a_row_and_a_failed_check(walk, monkeypatch):
    two = [Link("pipe", "pipe:", anonymous=True), Link("odd", "fifo:/tmp/x?no=1")]
    monkeypatch.setattr("kinfolk.tour.file.links", lambda directory: two)
    ok, report = walk("file")
    assert not ok
    (stop,) = report["stops"]
    assert [check["ok"] for check in stop["checks"]] == [False, True]
    assert "there is no option 'no'" in stop["figures"]["transfers"][1]["verdict"]
