"""`Process` with direct containment: waited for, signalled, stopped, dropped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import random
import resource
import select
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from kinfolk import watcher
from kinfolk.errors import (
    AccessDenied,
    Closed,
    ForkedCopy,
    InvalidValue,
    LimitReached,
    NotFound,
    Timeout,
)
from kinfolk.identity import Identity, is_dead
from kinfolk.processes import descendants, direct
from kinfolk.processes.custody import blocking
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.launch import Launch
from kinfolk.processes.launch import start as start_launch
from kinfolk.processes.process import Process
from kinfolk.processes.streams import Redirect
from tests.conformance.peers import (
    HANG,
    Call,
    FailedInPeer,
    open_descriptors,
    readable,
    state,
    until,
)
from tests.unit.starting import SLEEP, launch_of, ready, shell, start
from tests.unit.strangers import strangers_group
from tests.unit.striking import striking_at


@pytest.fixture
def sleeper():
    """A process that runs until it is ended."""
    with start(SLEEP) as process:
        yield process


def until_reaped(pid: int) -> None:
    until(lambda: state(pid) == "X", f"{pid} was reaped")


# ── waiting ──────────────────────────────────────────────────────────────────────────────────


def test_every_wait_gets_the_same():
    process = shell("exit 7")
    first = process.wait()
    assert first.code == 7
    assert all(process.wait(timeout) is first for timeout in (None, 0, 5))
    assert process.poll() is first
    assert process.status is first


def test_threads_wait_together(sleeper):
    calls = [Call(sleeper.wait) for _ in range(8)]
    limited = Call(sleeper.wait, 0.001)
    assert isinstance(limited.raised(), Timeout)
    sleeper.signal(signal.SIGTERM)
    statuses = [call.result() for call in calls]
    assert all(status is statuses[0] for status in statuses)
    assert statuses[0].signal == signal.SIGTERM


def test_tasks_wait_together(sleeper):
    async def main() -> None:
        async def plainly() -> ExitStatus:
            return await sleeper

        tasks = [asyncio.create_task(plainly()) for _ in range(4)]
        tasks += [asyncio.create_task(sleeper.await_exit(timeout=HANG)) for _ in range(4)]
        cancelled = asyncio.create_task(plainly())
        await asyncio.sleep(0)
        with pytest.raises(Timeout):
            await sleeper.await_exit(timeout=0.001)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        sleeper.signal(signal.SIGTERM)
        assert {status.signal for status in await asyncio.gather(*tasks)} == {signal.SIGTERM}

    asyncio.run(main())


def test_timeouts(sleeper):
    with pytest.raises(
        Timeout, match=rf"process {sleeper.pid} \(sleep\): has not ended: not within 0 s"
    ):
        sleeper.wait(0)
    with pytest.raises(TimeoutError):
        sleeper.wait(timeout=0.001)
    with pytest.raises(InvalidValue):
        sleeper.wait(-1)
    assert sleeper.poll() is None
    assert sleeper.status is None


def test_a_wait_takes_no_processor_time(sleeper):
    """No timer: a blocked wait sleeps until the end."""
    with_waiter = Call(sleeper.wait)
    until(lambda: state(os.getpid(), with_waiter.thread.native_id) == "S", "it sleeps")
    before = switches(with_waiter.thread.native_id)
    for _ in range(200):
        os.sched_yield()
    select.select([], [], [], 0.02)
    assert switches(with_waiter.thread.native_id) == before
    sleeper.signal(signal.SIGTERM)
    with_waiter.result()


def switches(tid: int | None) -> str:
    with open(f"/proc/self/task/{tid}/status") as file:
        return next(line for line in file if line.startswith("voluntary"))


def test_a_descriptor_tells_of_the_end(sleeper):
    number = sleeper.fileno()
    assert not readable(number, 0)
    assert sleeper.pidfd >= 0
    sleeper.signal(signal.SIGKILL)
    assert readable(number)
    sleeper.wait()
    assert sleeper.fileno() == number  # what was lent stays open
    assert is_dead(number)


def test_a_descriptor_of_one_that_has_ended():
    process = shell("exit 1")
    process.wait()
    with pytest.raises(Closed):
        _ = process.pidfd
    assert readable(process.fileno(), 0)


def test_ended_processes_cost_no_descriptor():
    before = open_descriptors()
    processes = [shell("exit 1") for _ in range(20)]
    assert [process.wait().code for process in processes] == [1] * 20
    assert open_descriptors() == before


def test_who_it_is(sleeper):
    assert sleeper.identity == Identity.of(sleeper.pid)
    assert sleeper.containment == "direct"
    assert sleeper.name == "sleep"
    assert repr(sleeper) == f"<kinfolk.Process {sleeper.pid} sleep: running, direct>"
    identity = sleeper.identity
    sleeper.stop(grace=0)
    assert sleeper.identity is identity
    assert repr(sleeper) == f"<kinfolk.Process {sleeper.pid} sleep: killed by SIGKILL, direct>"


def test_stopped_and_continued(sleeper):
    with pytest.raises(Timeout, match="has not changed"):
        sleeper.wait_change(0)
    call = Call(sleeper.wait_change)
    sleeper.signal(signal.SIGSTOP)
    assert call.result() == ExitStatus("stopped", signal=signal.SIGSTOP)
    assert sleeper.status is None  # it lives
    sleeper.signal(signal.SIGCONT)
    assert sleeper.wait_change(HANG) == ExitStatus("continued")
    sleeper.signal(signal.SIGKILL)
    assert asyncio.run(sleeper.await_change(HANG)) == ExitStatus("signaled", signal=signal.SIGKILL)


# ── signals ──────────────────────────────────────────────────────────────────────────────────


def test_no_signal_reaches_a_stranger(monkeypatch):
    """The number of an ended process is forced upon a new one; then the old handle is used."""
    if os.geteuid() != 0 or not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip("needs CAP_CHECKPOINT_RESTORE to choose the next pid (ns_last_pid)")
    for _ in range(50):
        old = start(SLEEP)
        pid = old.pid
        os.kill(pid, signal.SIGKILL)
        until_reaped(pid)  # its owner has not asked yet
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(pid - 1))
        with start(SLEEP) as stranger:
            if stranger.pid != pid:  # somebody else was quicker
                old.wait()
                continue
            assert old.signal(signal.SIGKILL) is False
            old.kill()
            assert old.stop().signal == signal.SIGKILL
            assert stranger.status is None
            assert state(pid) in "SR"
        return
    pytest.skip("other processes took the number each time")


LEADS: list[dict[str, bool | int]] = [{"new_session": True}, {"process_group": 0}]


def stop_and_kill(process: Process) -> None:
    """All that ends somebody, of a process that has ended."""
    process.kill()
    assert process.stop().success
    with process:
        pass


@pytest.mark.parametrize("how", LEADS)
@pytest.mark.parametrize("kernel", ["new", "old"])
def test_no_end_reaches_the_group_of_a_stranger(how, kernel, monkeypatch):
    """It has the number of the ended process, and its leader has gone too."""
    if kernel == "old":
        monkeypatch.setattr(direct, "has_a_group", lambda _: None)
        monkeypatch.setattr(descendants, "has_a_group", lambda _: None)
    with strangers_group(lambda: start(["true"], **how)) as (process, stranger):
        stop_and_kill(process)
        assert not gone([stranger])


def test_by_its_number_alone_a_group_would_be_taken_for_another(monkeypatch):
    """The negative control."""
    with strangers_group(lambda: start(["true"], new_session=True)) as (process, stranger):
        process._custody._leader = lambda: process._custody.pid  # type: ignore[attr-defined]
        monkeypatch.setattr(descendants, "has_a_group", lambda _: True)
        process.kill()
        until(lambda: gone([stranger]), "the stranger is killed")


def test_a_signal_says_whether_it_arrived(sleeper):
    assert sleeper.signal(0)
    assert sleeper.signal(signal.SIGKILL)
    sleeper.wait()
    assert not sleeper.signal(0)


@pytest.mark.parametrize("typed", ["TERM", "SIGTERM", "term", "15", 15, signal.SIGTERM])
def test_a_signal_as_people_write_it(sleeper, typed):
    assert sleeper.signal(typed)
    assert sleeper.wait().signal is signal.SIGTERM


@pytest.mark.parametrize("typed", [65, -1, 1 << 40, 32, "TREM", "", None, 1.5])
def test_no_such_signal(sleeper, typed):
    with pytest.raises(InvalidValue, match="there is no signal"):
        sleeper.signal(typed)


def test_a_handler_may_use_the_process_that_is_waited_for(sleeper):
    """The main thread waits; a handler in it asks, and stops."""
    seen = []

    def handler(*_: object) -> None:
        seen.append(sleeper.poll())
        seen.append(sleeper.stop())

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert sleeper.wait(HANG).signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [None, sleeper.status]


# ── stopping ─────────────────────────────────────────────────────────────────────────────────

FAMILY = "sleep 1000 & sleep 1000 & echo ready; wait"


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return list(map(int, file.read().split()))


def gone(pids: list[int]) -> bool:
    """Ended; whoever adopted them may not have reaped them yet."""
    return all(state(pid) in "XZ" for pid in pids)


def test_stop_ends_everything_below():
    with ready(FAMILY) as process:
        below = children_of(process.pid)
        assert len(below) == 2
        assert process.stop().signal == signal.SIGTERM
        assert gone(below)


def test_a_signal_alone_does_not():
    """The negative control."""
    with ready(FAMILY) as process:
        below = children_of(process.pid)
        process.signal(signal.SIGTERM)
        process.wait()
        assert not gone(below)
        for pid in below:
            os.kill(pid, signal.SIGKILL)
        until(lambda: gone(below), "they are gone")


def test_who_does_not_listen_is_killed():
    with ready("trap '' TERM; sleep 1000 & echo ready; while :; do wait; done") as process:
        below = children_of(process.pid)
        assert process.stop(grace=0.05).signal == signal.SIGKILL
        assert gone(below)


def test_without_grace_it_is_killed_at_once():
    with ready("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done") as process:
        assert process.stop(grace=0).signal == signal.SIGKILL


@pytest.mark.parametrize("grace", [-1, float("nan"), "soon"])
def test_a_grace_that_makes_no_sense(sleeper, grace):
    for stop in (sleeper.stop, lambda grace: asyncio.run(sleeper.astop(grace))):
        with pytest.raises(InvalidValue, match=rf"grace={grace!r} makes no sense \(.*0 or more"):
            stop(grace)
    assert sleeper.poll() is None


def test_grace_is_used():
    with ready("trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done") as process:
        assert process.stop().code == 3


def test_a_stopped_one_is_woken_for_it(sleeper):
    sleeper.signal(signal.SIGSTOP)
    until(lambda: state(sleeper.pid) == "T", "it has stopped")
    assert sleeper.stop(grace=None).signal == signal.SIGTERM


def orphaning(tmp_path, **options) -> tuple[Process, int]:
    """A process and the pid of one that it has started, whose parent has gone."""
    script = f"(sleep 1000 & echo $! > {tmp_path}/pid); echo ready; exec sleep 1000"
    process = ready(script, **options)
    return process, int((tmp_path / "pid").read_text())


@pytest.mark.parametrize("how", LEADS)
@pytest.mark.parametrize("asked", [False, True])
def test_who_is_in_its_group_is_found_when_it_has_ended(tmp_path, how, asked):
    """Also when it had ended before anybody looked; while a descriptor for that is kept, and no longer."""
    with_own = os.pidfd_open(os.getpid())
    is_told = descendants.has_a_group(with_own) is not None
    os.close(with_own)
    if not is_told:
        pytest.skip("before Linux 6.9 nobody tells whose group it is")
    before = open_descriptors()
    process = start(["sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/pid"], **how)
    if asked:
        assert process.wait(HANG).success
    else:
        until_reaped(process.pid)
    orphan = int((tmp_path / "pid").read_text())
    assert not gone([orphan])
    assert process.stop().success
    assert gone([orphan])
    with process:
        pass
    assert open_descriptors() == before


def test_nothing_is_kept_for_a_group_without_anybody():
    before = open_descriptors()
    process = start(["true"], new_session=True)
    process.wait()
    assert open_descriptors() == before


def test_another_child_that_has_joined_its_group_is_let_alone(tmp_path):
    """And what is below that one; an orphan of the leader's is not."""
    first, orphan = orphaning(tmp_path, process_group=0)
    with first, ready(FAMILY, process_group=first.pid) as second:
        below = children_of(second.pid)
        first.stop()
        until(lambda: gone([orphan]), "the orphan was ended")
        first.kill()
        assert second.status is None
        assert not gone(below)


@pytest.mark.parametrize("how", LEADS)
def test_who_is_in_its_group_is_found_without_a_parent(tmp_path, how):
    process, orphan = orphaning(tmp_path, **how)
    with process:
        assert orphan not in children_of(process.pid)
        process.stop()
        until(lambda: gone([orphan]), "the orphan was ended")


def test_without_a_group_of_its_own_an_orphan_escapes(tmp_path):
    """The negative control, and what direct containment can't do."""
    process, orphan = orphaning(tmp_path)
    with process:
        process.stop()
    assert not gone([orphan])
    os.kill(orphan, signal.SIGKILL)
    until(lambda: gone([orphan]), "it is gone")


#: It and one below it are of one user; another one, which it has started as root, is not. As su would do it.
MIXED = """
import os, time
for command in ("exec sleep 1000", "exec tail -f /dev/null"):
    if os.fork() == 0:
        if "tail" in command:
            os.setresuid(65534, 65534, 65534)
        os.execv("/bin/sh", ["sh", "-c", command])
os.setresuid(65534, 65534, 65534)
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("grace", [0, 0.02])
@pytest.mark.parametrize("how", ["stop", "astop"])
def test_whoever_may_not_be_ended_is_named(peers, how, grace):
    """After all others have ended."""
    if os.geteuid() != 0:
        pytest.skip("needs root to have a process of another user")

    def owner(voice):
        process = start([sys.executable, "-I", "-S", "-c", MIXED], stdout=Redirect.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        voice.say([process.pid, *children_of(process.pid)])
        voice.hear()
        os.setresuid(65534, 65534, 65534)
        if how == "stop":
            process.stop(grace)
        else:
            asyncio.run(process.astop(grace))

    peer = peers.fork(owner)
    pid, denied, below = peer.hear()
    until(lambda: names([denied, below]) == ["sleep", "tail"], "they are there")
    peer.say()
    try:
        with pytest.raises(FailedInPeer) as failed:
            peer.result()
        assert str(failed.value.error) == (
            f"process {pid} ({sys.executable}): can't end everything below it: another user's by now, and left "
            f"running: {denied} (sleep) (end it as that user, or as root)"
        )
        assert isinstance(failed.value.error, AccessDenied)
        assert gone([pid, below])
        assert not gone([denied])
    finally:
        os.kill(denied, signal.SIGKILL)
        until(lambda: gone([denied]), "it is gone")


def names(pids: list[int]) -> list[str]:
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


def test_kill_ends_everything_below():
    with ready(FAMILY) as process:
        below = children_of(process.pid)
        process.kill()
        assert process.wait(HANG).signal == signal.SIGKILL
        until(lambda: gone(below), "they are gone")
        process.kill()  # nobody is there


def test_a_tree_that_forks_meanwhile_is_ended(tmp_path):
    """It doubles itself as fast as it can, up to a depth; whoever is left would show by its directory."""
    script = tmp_path / "forking"
    script.write_text(
        '[ $1 -gt 0 ] && for i in 1 2; do sh "$0" $(($1-1)) & done\necho ready\nsleep 1000\n'
    )
    with start(["sh", str(script), "5"], cwd=tmp_path, stdout=Redirect.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stop(grace=0)
    until(lambda: not at_home(tmp_path), "none of them is left")


def at_home(directory) -> list[str]:
    """Living processes whose working directory it is."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.readlink(f"/proc/{name}/cwd") == str(directory):
                    found.append(name)
            except OSError:
                continue
    return found


def test_stop_on_asyncio():
    async def main() -> None:
        async with ready(FAMILY) as process:
            below = children_of(process.pid)
            assert (await process.astop()).signal == signal.SIGTERM
            assert gone(below)
        async with start(SLEEP) as other:
            assert other.status is None
        assert other.status is not None

    asyncio.run(main())


def test_leaving_the_block_stops_it():
    with ready(FAMILY) as process:
        below = children_of(process.pid)
    assert process.status is not None
    assert gone(below)
    assert process.stdout is not None
    assert process.stdout.closed


@pytest.mark.parametrize("call", [Process.stop, Process.kill, lambda process: process.identity])
@pytest.mark.parametrize("how", [{}, {"new_session": True}])
def test_without_descriptors_an_error_says_so(call, how):
    """Every number of free ones is tried; nothing bare comes out, and later the same call succeeds."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = []
    with start(SLEEP, **how) as process:
        for limit in range(3, limits[0]):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
                call(process)
                break
            except LimitReached as error:
                refused.append(error)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert refused


def test_stopping_again_says_the_same():
    process = start(SLEEP)
    assert process.stop() is process.stop()


# ── nobody is left behind ────────────────────────────────────────────────────────────────────


def test_a_kept_one_is_reaped_before_anybody_waits():
    process = shell("exit 5")
    until_reaped(process.pid)
    assert process.wait().code == 5


def test_one_that_was_waited_for_in_vain_is_reaped(sleeper):
    """Who waits reaps; the watcher takes over again when all of them have given up."""
    for _ in range(3):
        with pytest.raises(Timeout):
            sleeper.wait(0.001)
    waits = [Call(sleeper.wait, seconds) for seconds in (0.001, 0.002, 0.01)]
    assert all(isinstance(wait.raised(), Timeout) for wait in waits)
    sleeper.signal(signal.SIGKILL)
    until_reaped(sleeper.pid)
    assert sleeper.wait().signal == signal.SIGKILL


def resume_watcher():
    """What a fork does to it: in the parent it goes on."""
    watcher._watcher.before_fork()
    watcher._watcher.after_fork_in_parent()


def test_without_the_watcher_it_is_a_zombie():
    """The negative control."""
    watcher._watcher.stop()
    process = Process(direct.Direct(launch_of(["/bin/sh", "-c", "exit 5"])), "sh")
    try:
        watcher._watcher.stop()
        until(lambda: state(process.pid) in "ZX", "it has ended")
    finally:
        resume_watcher()
    assert process.wait().code == 5


def test_a_dropped_one_is_reaped_and_said():
    before = open_descriptors()
    processes = [start(SLEEP)]
    pid = processes[0].pid
    with pytest.warns(ResourceWarning, match=rf"nobody waited for process {pid} \(sleep\)"):
        processes.clear()
    assert state(pid) in "SR"  # it runs on
    os.kill(pid, signal.SIGKILL)
    until_reaped(pid)
    until(lambda: open_descriptors() == before, "its pidfd was closed")
    shell("exit 0").wait()  # the next start forgets it
    assert not direct._abandoned
    assert all(custody.pid != pid for custody in direct._living)


def test_a_warning_that_is_an_error_leaves_no_leak(monkeypatch):
    raised: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: raised.append(args.exc_type))
    before = open_descriptors()
    processes = [start(SLEEP)]
    pid = processes[0].pid
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        processes.clear()
    assert raised == [ResourceWarning]
    os.kill(pid, signal.SIGKILL)
    until_reaped(pid)
    until(lambda: open_descriptors() == before, "its pidfd was closed")


def test_one_that_was_waited_for_is_dropped_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        process = shell("exit 0")
        process.wait()
        _ = process.fileno()
        del process
        gc.collect()


def test_a_thousand_at_random():
    """Started, ended, dropped and waited for by 8 threads: no zombie, no lost or wrong status, no descriptor."""
    before = open_descriptors()
    seeds = random.Random(7)
    wrong: list[str] = []

    def live(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(125):
            code = chance.randrange(256)
            if chance.random() < 0.5:
                process = shell(f"exit {code}")
                expected = ExitStatus("exited", code=code)
            else:
                process = start(SLEEP)
                number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
                process.signal(number)
                expected = ExitStatus("signaled", signal=number)
            if chance.random() < 0.2:
                custody = process._custody
                custody.abandon()  # as a finalizer does, without its warning
                process._custody = None  # type: ignore[assignment]
            elif (status := process.wait(HANG)) != expected:
                wrong.append(f"{status} and not {expected}")

    threads = [Call(live, seeds.random()) for _ in range(8)]
    for thread in threads:
        thread.result()
    assert wrong == []
    until(lambda: not children_of(os.getpid()), "none is left")
    until(lambda: open_descriptors() == before, "no descriptor is left")
    until(lambda: "kinfolk-parent" not in thread_names(), "no parent is left")


def thread_names() -> list[str]:
    names = []
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
            names.append(file.read().strip())
    return names


def test_a_parent_of_its_own_only_off_the_main_thread():
    with start(SLEEP):
        assert "kinfolk-parent" not in thread_names()
        with Call(start, SLEEP).result():
            assert "kinfolk-parent" in thread_names()


SCRIPT = """
import sys
from tests.unit.starting import SLEEP, ready, launch_of
from kinfolk.processes.direct import Direct
if sys.argv[1] == "contained":
    process = ready("sleep 1000 & echo ready; exec sleep 1000")
else:
    process = Direct(launch_of(SLEEP, executables=[b"/bin/sleep"], descriptors=[]))
print(process.pid, flush=True)
"""


@pytest.mark.parametrize("how", ["contained", "free"])
def test_the_exit_of_the_interpreter(how):
    """What runs is killed, with what is below it; what was not to be contained is the negative control."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, how],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", "."), "."])},
        timeout=HANG,
    )
    pid = int(done.stdout)
    assert done.stderr == b""
    if how == "contained":
        assert gone([pid])
    else:
        assert not gone([pid])
        os.kill(pid, signal.SIGKILL)
        until(lambda: gone([pid]), "it is gone")


# ── lost statuses ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_watcher():
    """Nobody reaps but who is told to."""
    watcher._watcher.stop()
    yield
    resume_watcher()


@pytest.fixture
def forgetful_kernel(monkeypatch):
    """As before Linux 6.15: a status that was collected is gone."""
    monkeypatch.setattr(direct, "remembered", lambda _: ExitStatus.unknown("forgotten"))


def stolen() -> Process:
    """A process that exited with 0, whose status somebody else has collected."""
    process = start(["cat"], stdin=Redirect.PIPE)
    watcher._watcher.stop()
    assert process.stdin is not None
    process.stdin.close()
    assert os.waitpid(process.pid, 0)[1] == 0
    return process


def test_a_stolen_status_is_unknown_and_no_success(no_watcher, forgetful_kernel):
    status = stolen().wait()
    assert not status.known
    assert not status.success
    assert "os.wait()" in str(status)


def test_a_stolen_status_that_the_kernel_remembers(no_watcher):
    status = stolen().wait()
    if status.known:
        assert status == ExitStatus("exited", code=0)
    else:  # before Linux 6.15
        assert "os.wait()" in str(status)


def test_sigchld_ignored(peers, monkeypatch):
    def live(voice):
        monkeypatch.setattr(direct, "remembered", lambda _: ExitStatus.unknown("forgotten"))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return str(start(["true"]).wait())

    assert peers.fork(live).result() == (
        "unknown: SIGCHLD is ignored here, so the kernel reaped it (sigaction(2))"
    )


def test_a_program_that_can_not_be_started_is_no_cause_of_itself():
    with pytest.raises(NotFound) as caught:
        start(["/no/such/program"])
    assert caught.value.__cause__ is None


class OfTheHandler(OSError):
    """What a handler raises, and nobody else."""


def test_an_error_of_a_handler_comes_out_as_it_is():
    """At whatever instruction of a start it strikes; and of the start, with all that it has started, nothing is left."""

    def handler(*_: object) -> None:
        raise OfTheHandler(errno.EMFILE, "mine")

    begun: list[int] = []

    def start_family(launch: Launch, started: list[int]) -> int:
        sys.settrace(None)
        reading, writing = os.pipe()
        pid = start_launch(
            launch_of(["/bin/sh", "-c", FAMILY], descriptors=[(writing, 1)]), started
        )
        os.read(reading, 100)
        os.close(reading)
        os.close(writing)
        begun[:] = [pid, *children_of(pid)]
        sys.settrace(trace)
        sys._getframe(1).f_trace = trace
        return pid

    descriptors = open_descriptors()
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        for number in itertools.count(-1):
            # The first time nothing strikes: since CPython 3.12, code is traced by the instruction once it has run traced.
            trace = striking_at(number if number >= 0 else sys.maxsize, signal.SIGUSR1)
            sys.settrace(trace)
            try:
                custody = direct.Direct(launch_of(SLEEP), start_family)
                if number >= 0:
                    break
                custody.signal_tree(signal.SIGKILL)
                custody.send(signal.SIGKILL)
                blocking(custody.ended(), HANG, "has not ended")
                del custody
            except OSError as error:
                assert type(error) is OfTheHandler, number
            finally:
                sys.settrace(None)
            if any(custody.pid in begun for custody in direct._living):
                break  # it was complete: nobody but the caller can take it back
            until(lambda: gone(begun), f"after {number} instructions: all have ended")
            assert open_descriptors() == descriptors, number
        assert number > 50
    finally:
        signal.signal(signal.SIGUSR1, before)
        for custody in [each for each in direct._living if each.pid in begun]:
            custody.signal_tree(signal.SIGKILL)
            custody.send(signal.SIGKILL)
            blocking(custody.ended(), HANG, "has not ended")


def test_reaped_before_it_could_be_watched():
    """SIGCHLD ignored, or os.wait() in another thread, between the start and the pidfd."""

    def reaped(launch: Launch, started: list[int]) -> int:
        pid = start_launch(launch, started)
        os.waitpid(pid, 0)
        return pid

    process = Process(direct.Direct(launch_of(["/bin/true"]), reaped), "true")
    assert not process.wait().known
    assert readable(process.fileno(), 0)
    assert process.identity.start_time == 0
    assert not process.signal(signal.SIGTERM)
    assert process.stop() is process.status


# ── forked copies ────────────────────────────────────────────────────────────────────────────


def test_a_forked_copy_is_no_parent(sleeper, peers):
    def live(voice):
        refused = []
        for call in (
            sleeper.wait,
            sleeper.poll,
            sleeper.stop,
            sleeper.kill,
            sleeper.fileno,
            sleeper.wait_change,
            lambda: sleeper.signal(9),
            lambda: sleeper.pidfd,
        ):
            try:
                call()
            except ForkedCopy as error:
                refused.append(str(error))
        with sleeper:  # leaving the block in the copy ends nothing
            pass
        return refused, repr(sleeper), sleeper.pid

    refused, text, pid = peers.fork(live).result()
    assert len(refused) == 8
    assert set(refused) == {
        f"process {pid} is no child of this process: it is one of process {os.getpid()}, "
        "of which this is a forked copy (wait for it there, or start it here)"
    }
    assert text == f"<kinfolk.Process {pid} sleep: of another process, direct>"
    assert sleeper.status is None


def test_a_forked_copy_has_children_of_its_own(sleeper, peers):
    def live(voice):
        return shell("exit 9").wait().code

    assert peers.fork(live).result() == 9
    assert sleeper.status is None


def test_a_status_known_before_the_fork_is_known_after(peers):
    process = shell("exit 4")
    process.wait()
    assert peers.fork(lambda voice: process.wait().code).result() == 4


def test_forking_while_children_end(peers):
    """The watcher is ended and started again around each fork; nobody is forgotten."""
    processes = [shell("exit 6") for _ in range(10)]
    for _ in range(3):
        peers.fork(lambda voice: None).result()
    for process in processes:
        until_reaped(process.pid)
        assert process.wait().code == 6
