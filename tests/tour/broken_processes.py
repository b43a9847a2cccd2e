"""What is broken for the stops about processes, and the check that must say so.

Each function breaks one thing in the parent, before the fork, so that the children have it too.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import subprocess
import sys
from types import SimpleNamespace

import kinfolk as kin
from kinfolk.tour import exit as exit_stop
from kinfolk.tour import fork, orphan, signals, system, vfork, zombie
from kinfolk.tour.processes import PATIENCE


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

    def run(argv):
        prctl = ctypes.CDLL(None).prctl
        prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        subprocess.run(argv, check=False)
        return SimpleNamespace(reaped=0)

    monkeypatch.setattr(zombie, "PATIENCE", 0.2)
    monkeypatch.setattr(kin, "run_as_init", run)


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


#: The stop, what is broken, a part of the sentence of the check.
PROCESSES = [
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
]
