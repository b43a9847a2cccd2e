"""What is left when the owner, its thread or its keeper is killed: nothing. Each with a keeper that lacks the guard.

Processes are found by a mark in the environment with which they were started. A function's process is a fork of the
keeper, and has the keeper's.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk import _native
from kinfolk.processes import felling, keeper_line, keeping
from kinfolk.processes.process import Process
from tests.conformance.peers import (
    HANG,
    Peers,
    open_descriptors,
    state,
    thread_of,
    until,
)

MARK = "KINFOLK_TEST_FAMILY"

SLEEP = ["sleep", "1000"]


@pytest.fixture
def peers() -> Iterator[Peers]:
    them = Peers()
    yield them
    them.end()


class Family:
    """The processes that carry a mark."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def pids(self) -> set[int]:
        """All that live; zombies have no environment any more."""
        wanted = f"{MARK}={self.mark}\0".encode()
        found = set()
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError):
                    if wanted in Path(f"/proc/{name}/environ").read_bytes():
                        found.add(int(name))
        return found

    def until(self, count: int) -> set[int]:
        until(lambda: len(self.pids()) == count, f"{count} processes of {self.mark}")
        return self.pids()

    def killed(self) -> int:
        """Kill what is left; how many."""
        left = self.pids()
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return len(left)


@pytest.fixture
def family(unique_name: str) -> Iterator[Family]:
    them = Family(unique_name)
    yield them
    assert them.killed() == 0, "processes that nobody ended"


def daemonise_and_sleep(ignoring: int) -> None:
    """A process that leaves its family by the book: fork, setsid, fork."""
    if os.fork() == 0:
        signal.signal(ignoring, signal.SIG_IGN)
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    time.sleep(1000)


def own_everything(voice, mark: str, keeper: str | None, containment="keeper") -> None:
    """Be an owner: of a program with a child, one that has left it, and a function with a daemon. Nine processes, with the keeper and its own."""
    os.environ[MARK] = mark
    if keeper is not None:
        keeper_line.PROGRAMS["keeper"] = keeper
    kept = [
        kin.spawn(SLEEP, containment=containment),
        kin.spawn(["sh", "-c", "sleep 1000 & sleep 1000 & wait"], containment=containment),
        kin.spawn(["sh", "-c", "(sleep 1000 &)"], containment=containment),
        kin.spawn(daemonise_and_sleep, signal.SIGTERM, containment=containment),
    ]
    kept[2].wait()
    voice.say([keeping.keeping(containment).keeper_pid, *(process.pid for process in kept)])
    voice.hear()
    # … and does not come back from there


#: Keeper, its anchor or in a pid namespace its porter, sleep, sh and two sleeps, one orphan, function, daemon.
EVERYTHING = 9


def test_nothing_outlives_a_killed_owner(peers: Peers, family: Family) -> None:
    owner = peers.fork(own_everything, family.mark, None)
    owner.hear()
    family.until(EVERYTHING)
    owner.kill()
    family.until(0)


@pytest.fixture
def _namespaces() -> None:
    """Skips where no pid namespace can be had."""
    try:
        kin.spawn(["true"], containment="kernel").wait(HANG)
    except kin.Unsupported as error:
        pytest.skip(str(error))
    finally:
        keeping.keeping("kernel").end(0)


@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize("victim", ["owner", "keeper"])
def test_nothing_leaves_a_pid_namespace(peers: Peers, family: Family, victim: str) -> None:
    owner = peers.fork(own_everything, family.mark, None, "kernel")
    keeper, *children = owner.hear()
    everybody = family.until(EVERYTHING)
    children.pop(2)  # has ended
    assert everybody >= {keeper, *children}
    if victim == "owner":
        owner.kill()
    else:
        os.kill(keeper, signal.SIGKILL)
    family.until(0)


@pytest.mark.parametrize(
    "weakness",
    [
        "without_subreaper",  # the orphan and the daemon live on
        "without_owner_watch",  # everybody does
        "with_one_round",  # what its own children had started does
    ],
)
def test_without_its_guards_something_does(peers: Peers, family: Family, weakness: str) -> None:
    owner = peers.fork(own_everything, family.mark, f"tests.faults.weak_keepers:{weakness}")
    keeper, *children = owner.hear()
    family.until(EVERYTHING)
    owner.kill()
    if weakness == "without_owner_watch":
        assert state(keeper) in "SR"
        assert family.killed() == EVERYTHING
    else:
        until(lambda: not {keeper, *children} & family.pids(), "the end of its own children")
        assert family.killed() >= 1


def test_a_normal_end_takes_everything_along(peers: Peers, family: Family) -> None:
    def ends(voice) -> None:
        own_everything(voice, family.mark, None)
        keeping._at_exit()  # as the interpreter does; a peer ends by _exit
        voice.say(len(family.pids()))

    owner = peers.fork(ends)
    owner.hear()
    family.until(EVERYTHING)
    owner.say()
    assert owner.hear() == 0  # before the owner ends
    owner.result()


def test_the_end_of_the_interpreter_is_a_normal_end(family: Family) -> None:
    program = "import kinfolk as kin; kin.spawn(['sh', '-c', 'sleep 1000 & sleep 1000'])"
    command = [sys.executable, "-W", "ignore", "-c", program]
    environment = {**os.environ, MARK: family.mark, "PYTHONPATH": ":".join(filter(None, sys.path))}
    with kin.spawn(command, env=environment, containment="direct") as owner:
        assert owner.wait(HANG).code == 0
    assert family.pids() == set()


def test_the_thread_that_started_them_may_end(peers: Peers, family: Family) -> None:
    def spawns_in_a_thread(voice) -> None:
        os.environ[MARK] = family.mark
        processes: list[Process] = []
        thread = threading.Thread(
            target=lambda: processes.extend((kin.spawn(SLEEP), kin.spawn(time.sleep, 1000)))
        )
        thread.start()
        tid = thread.native_id
        thread.join()
        until(lambda: not os.path.exists(f"/proc/self/task/{tid}"), "the end of the thread")
        voice.say([process.poll() for process in processes])
        voice.hear()

    owner = peers.fork(spawns_in_a_thread)
    assert owner.hear() == [None, None]
    family.until(4)  # with keeper and anchor
    owner.kill()
    family.until(0)


def test_a_killed_keeper_takes_its_children_along(peers: Peers, family: Family) -> None:
    def loses_its_keeper(voice) -> None:
        os.environ[MARK] = family.mark
        program, function = kin.spawn(SLEEP), kin.spawn(time.sleep, 1000)
        first = keeping.keeping().keeper_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        for process in (program, function):
            status = process.wait(HANG)
            # The kernel tells how (6.15), or nobody can.
            assert status.signal == signal.SIGKILL or not status.known
        again = kin.spawn(["sh", "-c", "exit 7"])
        assert again.wait(HANG).code == 7
        assert keeping.keeping().keeper_pid != first
        voice.say(len(family.pids()))
        keeping.keeping().end()

    owner = peers.fork(loses_its_keeper)
    assert owner.hear() == 2  # the new keeper and its anchor
    owner.result()
    family.until(0)


def test_an_owner_that_reaps_strangers_gets_them_of_a_dead_keeper(peers: Peers) -> None:
    def adopts(voice) -> None:
        _native.set_child_subreaper(True)
        keeper_line.PROGRAMS["keeper"] = "tests.faults.weak_keepers:without_death_signal"
        reader, writer = os.pipe()
        process = kin.spawn(["sh", "-c", "read line; exit 6"], stdin=reader)
        pid = keeping.keeping().keeper_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: felling.parent_of(process.pid) == os.getpid(), "adopted")
        voice.say(process.poll())
        os.close(writer)
        os.close(reader)
        voice.say(process.wait(HANG).code)

    owner = peers.fork(adopts)
    assert owner.hear() is None
    assert owner.hear() == 6
    owner.result()


def test_without_the_death_signal_they_would_live_on(peers: Peers, family: Family) -> None:
    def loses_its_keeper(voice) -> None:
        os.environ[MARK] = family.mark
        keeper_line.PROGRAMS["keeper"] = "tests.faults.weak_keepers:without_death_signal"
        process = kin.spawn(SLEEP)
        pid = keeping.keeping().keeper_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: state(pid) == "X", "the end of the keeper")
        voice.say((process.poll(), state(process.pid)))
        process.signal(signal.SIGKILL)
        voice.say(process.wait(HANG).kind in ("signaled", "unknown"))

    owner = peers.fork(loses_its_keeper)
    status, letter = owner.hear()
    assert status is None
    assert letter in "RS"
    assert owner.hear()
    owner.result()


def test_a_keeper_sleeps_while_it_waits_for_what_it_can_not_kill(
    peers: Peers, family: Family
) -> None:
    owner = peers.fork(own_everything, family.mark, "tests.faults.weak_keepers:that_can_not_kill")
    keeper, *children = owner.hear()
    family.until(EVERYTHING)
    owner.kill()
    before = sleeps(keeper)
    until(lambda: sleeps(keeper) > before + 3, "a keeper that sleeps")
    for pid in children[:2]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: {state(pid) for pid in children[:2]} == {"X"}, "what has ended is reaped")
    assert state(keeper) in "SR"
    family.killed()
    until(lambda: state(keeper) in "ZX", "the keeper's end")


def sleeps(pid: int) -> int:
    """How often a process has given its processor away to wait."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "voluntary_ctxt_switches":
            return int(value)
    raise KeyError(pid)


def test_a_keeper_that_dies_of_a_request_is_told(peers: Peers, family: Family) -> None:
    def asks(voice, weakness: str) -> None:
        os.environ[MARK] = family.mark
        keeper_line.PROGRAMS["keeper"] = f"tests.faults.weak_keepers:{weakness}"
        with pytest.raises(kin.KeeperDied) as caught:
            kin.spawn(SLEEP)
        voice.say(str(caught.value))
        with pytest.raises(kin.KeeperDied):
            kin.preload("json")
        keeper_line.PROGRAMS["keeper"] = "kinfolk.processes.keeper:main"
        voice.say(kin.spawn(["true"]).wait(HANG).code)
        keeping.keeping().end()

    for weakness, words in (
        ("that_dies_of_requests", "killed by SIGKILL"),
        ("that_can_not_run", "no keeper today"),
    ):
        owner = peers.fork(asks, weakness)
        assert words in owner.hear()
        assert owner.hear() == 0
        owner.result()
    family.until(0)


def test_a_request_that_was_never_read_is_sent_again(peers: Peers) -> None:
    def asks(voice) -> None:
        kin.spawn(["true"]).wait(HANG)
        first = keeping.keeping().keeper_pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        until(lambda: state(first) == "T", "a stopped keeper")
        with thread_of(lambda: kin.spawn(["sh", "-c", "exit 5"]).wait(HANG).code) as call:
            os.kill(first, signal.SIGKILL)
            voice.say(call.result())
        keeping.keeping().end()

    owner = peers.fork(asks)
    assert owner.hear() == 5
    owner.result()


def test_a_forked_owner_has_children_of_its_own(peers: Peers, family: Family) -> None:
    def forks(voice) -> None:
        os.environ[MARK] = family.mark
        process = kin.spawn(SLEEP)
        mine = keeping.keeping().keeper_pid
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                with pytest.raises(kin.ForkedCopy):
                    process.wait()
                kin.spawn(SLEEP)
                os.write(writer, str(keeping.keeping().keeper_pid).encode())
                signal.pause()
            os._exit(1)
        theirs = int(os.read(reader, 100))
        voice.say((mine, theirs, process.poll()))
        voice.hear()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        voice.hear()
        voice.say(process.poll())
        keeping.keeping().end()

    owner = peers.fork(forks)
    mine, theirs, status = owner.hear()
    assert mine != theirs
    assert status is None
    family.until(6)  # two keepers, two anchors, two programs
    owner.say()
    assert family.until(3) >= {mine}
    owner.say()
    assert owner.hear() is None
    owner.result()


def test_an_owner_that_executes_another_program_keeps_its_children(
    peers: Peers, family: Family
) -> None:
    def executes(voice) -> None:
        os.environ[MARK] = family.mark
        kin.spawn(SLEEP)
        voice.say()
        voice.hear()
        os.execvp("sleep", SLEEP)

    owner = peers.fork(executes)
    owner.hear()
    family.until(3)  # keeper, anchor, program
    owner.say()
    family.until(4)
    owner.kill()
    family.until(0)


BOMB = """
import os, time
end = time.monotonic() + 20
while time.monotonic() < end:  # a chain: each forks the next and goes
    if os.fork():
        os._exit(0)
"""


def test_a_chain_of_forks_is_outrun(peers: Peers, family: Family) -> None:
    def bombs(voice) -> None:
        os.environ[MARK] = family.mark
        for _ in range(2):
            kin.spawn([sys.executable, "-I", "-S", "-c", BOMB])
        voice.say()
        voice.hear()

    owner = peers.fork(bombs)
    owner.hear()
    until(lambda: len(family.pids()) >= 3, "the bombs")
    owner.kill()
    family.until(0)


# ── many at a time ───────────────────────────────────────────────────────────────────────────


def storm(voice, children: int, threads: int, seed: int) -> None:
    """Start children in several threads, kill some at random, and say what came of them."""
    kin.spawn(["true"]).wait(HANG)
    kin.spawn(len, ()).wait(HANG)
    with suppress(kin.Timeout), kin.spawn(SLEEP) as process:
        process.wait(0.001)
    before = open_descriptors()
    wrong: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        dice = random.Random(seed + number)
        for _ in range(children // threads):
            code = dice.randrange(256)
            match dice.randrange(4):
                case 0:
                    process = kin.spawn(["sh", "-c", f"exit {code}"])
                    right = process.wait(HANG).code == code
                case 1:
                    process = kin.spawn(sys.exit, code)
                    right = process.wait(HANG).code == code
                case 2:
                    process = kin.spawn(["sh", "-c", "sleep 1000 & wait"])
                    number = dice.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1))
                    process.signal(number)
                    right = process.wait(HANG).signal == number
                case _:
                    process = kin.spawn(time.sleep, 1000)
                    process.kill()
                    right = process.wait(HANG).signal == signal.SIGKILL
            if not right:
                with lock:
                    wrong.append(f"{process}: {process.poll()}")

    crew = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    process = kin.spawn(["true"])  # what is left of the others is swept now
    process.wait(HANG)
    del process
    voice.say((wrong, open_descriptors() - before, zombies(os.getpid())))
    voice.hear()


def zombies(pid: int) -> list[int]:
    """Children of a process that nobody has reaped, and those of its keeper."""
    found = []
    for name in os.listdir("/proc"):
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) in (pid, keeping.keeping().keeper_pid) and fields[0] == "Z":
                found.append(int(name))
    return found


def weather(peers: Peers, family: Family, children: int, threads: int, seed: int) -> None:
    def owner_of_many(voice) -> None:
        os.environ[MARK] = family.mark
        storm(voice, children, threads, seed)

    owner = peers.fork(owner_of_many)
    wrong, descriptors, dead = owner.hear()
    assert wrong == []
    assert descriptors == 0
    assert dead == []
    owner.kill()
    family.until(0)


def test_many_children_from_many_threads(peers: Peers, family: Family) -> None:
    weather(peers, family, children=48, threads=8, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_children(peers: Peers, family: Family, seed: int) -> None:
    weather(peers, family, children=1000, threads=8, seed=1000 * seed)
