"""The tree of processes: who is whose child, who was adopted, why a zombie is there and what is done about it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinfolk as kin
from kinfolk.identity import Identity
from kinfolk.inspection.procfs import Procfs
from kinfolk.inspection.tree import read_tree
from tests.conformance.peers import Peers, state, until
from tests.other_user import User
from tests.unit import families
from tests.unit.fake_proc import FakeProc
from tests.unit.families import (
    Family,
    Scenario,
    family,
    fork,
    libc,
    orphan_of,
    pause,
    until_ended,
)
from tests.unit.test_procfs import mount_proc

CLONE_WORKS = bool(families.SYS_CLONE)
KERNEL_THREAD = 0x00200000


@pytest.fixture
def fake(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


def read(fake: FakeProc) -> kin.ProcessTree:
    return read_tree(Procfs(str(fake.root)))


def found(pid: int) -> kin.ProcessInfo:
    return kin.process_tree().process(pid)


def diagnosis(members: Family) -> kin.ZombieDiagnosis:
    tree = kin.process_tree()
    (one,) = [each for each in kin.diagnose_zombies(tree) if each.zombie.pid == members.child]
    return one


# ------------------------------------------------------------------------------------ the tree


def test_parents_children_and_ancestors(peers: Peers):
    peer = peers.fork(lambda voice: voice.hear())
    tree = kin.process_tree()
    child, own = tree.process(peer.pid), tree.process(os.getpid())
    assert tree.parent(child) == own
    assert child in tree.children(own)
    assert own in tree.ancestors(child)
    assert child.identity == Identity.of(peer.pid)
    assert (child.uid, child.parent) == (os.geteuid(), os.getpid())
    assert child.age < own.age
    flags = (child.zombie, child.stopped, child.kernel_thread, child.leader_ended)
    assert not any(flags)
    order = [process.pid for process in tree]
    assert order.index(own.pid) < order.index(child.pid)
    assert len(order) == len(tree) == len(set(order))
    assert peer.pid in tree
    peer.kill()
    tree = kin.process_tree()
    assert peer.pid not in tree
    assert tree.get(peer.pid) is None
    with pytest.raises(kin.NotFound, match=f"process {peer.pid}"):
        tree.process(peer.pid)


def test_what_is_read_now_is_of_the_same_process(peers: Peers):
    peer = peers.fork(lambda voice: voice.hear())
    child = found(peer.pid)
    assert child.exe() == os.readlink("/proc/self/exe")
    assert child.environ()
    until(child.wchan, "asleep")
    peer.kill()
    assert (child.exe(), child.environ(), child.wchan()) == (None, None, None)
    assert child.control_group() is None


def test_what_is_read_now_is_not_of_who_got_the_pid(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(9, 1, start=5)
    process = read(fake).process(9)
    assert process.control_group() == "/fake"
    fake.add(9, 1, start=6)
    assert process.control_group() is None


def test_threads_are_listed_when_asked_for(peers: Peers):
    def child(voice: Any) -> None:
        threading.Thread(target=families.pause_in_thread, daemon=True).start()
        voice.say(sorted(map(int, os.listdir("/proc/self/task"))))
        voice.hear()

    peer = peers.fork(child)
    threads = peer.hear()
    process = kin.process_tree(threads=True).process(peer.pid)
    assert process.thread_count == 2
    assert process.threads is not None
    assert [thread.tid for thread in process.threads] == threads
    assert found(peer.pid).threads is None


def test_a_stopped_process(peers: Peers):
    peer = peers.fork(lambda voice: pause())
    peer.signal(signal.SIGSTOP)
    until(lambda: state(peer.pid) == "T", "stopped")
    tree = kin.process_tree()
    assert tree.process(peer.pid) in tree.stopped
    assert tree.process(peer.pid).condition == "stopped"
    peer.signal(signal.SIGCONT)
    until(lambda: state(peer.pid) == "S", "asleep")
    assert not found(peer.pid).stopped


def trace(pid: int, *, halt: bool) -> Callable[[Any], None]:
    """A peer that traces a process, and waits for nothing."""

    def tracer(voice: Any) -> None:
        assert libc.ptrace(families.PTRACE_SEIZE, pid, 0, 0) == 0, os.strerror(ctypes.get_errno())
        if halt:
            assert libc.ptrace(families.PTRACE_INTERRUPT, pid, 0, 0) == 0
        voice.say()
        pause()

    return tracer


def test_a_traced_process_and_by_whom(peers: Peers):
    with family(peers, families.waits_to_be_traced, zombie=False) as members:
        until(lambda: state(members.child) == "S", "asleep")
        tracer = peers.fork(trace(members.child, halt=True))
        tracer.hear()
        until(lambda: state(members.child) == "t", "halted by its tracer")
        process = found(members.child)
        assert (process.stopped, process.condition) == (True, "traced")
        assert process.tracer == tracer.pid
        tracer.kill()
        until(lambda: state(members.child) == "S", "let go")
        assert found(members.child).tracer == 0


# ------------------------------------------------------------------------------------ torn snapshots


def test_a_parent_that_vanishes_while_we_read(fake: FakeProc):
    """Its child was read as its child, and then adopted: it is read again."""
    fake.add(1, 0, start=0)
    fake.add(10, 1, start=5)
    fake.add(20, 10, start=6)
    procfs = Procfs(str(fake.root))
    listed = procfs.pids()
    fake.remove(10)

    class Late(Procfs):
        def pids(self) -> list[int]:
            fake.add(20, 10, start=6)
            return listed

        def open(self, pid: int) -> Any:
            if pid == 10:  # asked for, and gone: the kernel has given its child to init
                fake.add(20, 1, start=6)
            return super().open(pid)

    tree = read_tree(Late(procfs.root))
    assert [process.pid for process in tree.roots] == [1]
    assert tree.process(20).parent == 1
    assert 10 not in tree


def test_a_parent_that_is_younger_than_the_listing_is_looked_for(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(5, 1, start=7)
    fake.add(30, 5, start=8)

    class Early(Procfs):
        def pids(self) -> list[int]:
            return [1, 30]

    assert [each.pid for each in read_tree(Early(str(fake.root)))] == [1, 5, 30]


def test_who_got_the_pid_of_a_parent_is_no_parent(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(10, 1, start=50)
    fake.add(20, 10, start=6)
    tree = read(fake)
    assert tree.parent(tree.process(20)) is None
    assert {process.pid for process in tree.roots} == {1, 20}


def test_circles_hang_nothing(fake: FakeProc):
    fake.add(1, 0, start=0)
    for pid, parent in ((10, 12), (11, 10), (12, 11), (13, 13), (14, 12)):
        fake.add(pid, parent, start=9)
    tree = read(fake)
    assert sorted(process.pid for process in tree) == [1, 10, 11, 12, 13, 14]
    assert len(list(tree)) == 6
    for process in tree:
        assert len(tree.ancestors(process)) < 6


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=12))
def test_any_parents_whatever_are_a_forest(tmp_path_factory, wanted):
    """Each process is there once, below its parent or as a root."""
    fake = FakeProc(tmp_path_factory.mktemp("proc"))
    for pid, (parent, start) in enumerate(wanted, start=1):
        fake.add(pid, parent, start=start)
    tree = read(fake)
    assert sorted(process.pid for process in tree) == list(range(1, len(wanted) + 1))
    depth = {process.pid: level for process, level in tree.walk(tree.roots)}
    for process in tree:
        assert len(tree.ancestors(process)) == depth[process.pid]


def test_who_is_being_reaped_has_gone(fake: FakeProc):
    """The kernel shows session -1 and parent 0 of it for a moment."""
    fake.add(1, 0, start=0)
    fake.add(9, 0, state="Z", session=-1)
    assert 9 not in read(fake)


def test_a_zombie_that_is_collected_while_we_read_is_no_news(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(9, 1, state="Z")
    looks = []

    class Watched(Procfs):
        def open(self, pid: int) -> Any:
            looks.append(pid)
            if pid == 9 and looks.count(9) == 2:
                fake.remove(9)
            return super().open(pid)

    assert 9 not in read_tree(Watched(str(fake.root)))
    fake.add(9, 1, state="Z")
    assert read(fake).zombies != ()  # the control: one that stays is


def test_many_processes_are_read_once_each(fake: FakeProc):
    """2,000 of them, half in one deep line: no work grows with their square."""
    fake.add(1, 0, start=0)
    fake.add_task(1)
    for pid in range(2, 1001):
        fake.add(pid, pid - 1, start=pid)
    for pid in range(1001, 2001):
        fake.add(pid, 1, start=pid, state="Z")
    opened = []

    class Counted(Procfs):
        def open(self, pid: int) -> Any:
            opened.append(pid)
            return super().open(pid)

    tree = read_tree(Counted(str(fake.root)))
    assert len(opened) == 2000 + 1000  # the zombies twice
    assert len(tree) == len(list(tree)) == 2000
    assert len(tree.ancestors(tree.process(1000))) == 999
    opened.clear()
    assert len(kin.diagnose_zombies(tree)) == 1000
    assert len(opened) == 1000 + 1  # their parent once


# ------------------------------------------------------------------------------------ orphans


@pytest.mark.parametrize(
    ("how", "certainty"),
    [
        ({"own_session": True}, "certain"),
        ({"own_session": True, "adopter_leads": True}, "likely"),
        ({"own_session": True, "adopter_leads": True, "middle_stays": True}, "certain"),
        ({"own_session": False}, None),
    ],
    ids=["daemon", "adopter leads a session", "its leader is younger", "nothing shows it"],
)
def test_an_orphan_under_a_subreaper(how, certainty, peers: Peers):
    peer = peers.fork(orphan_of(**how))
    daemon = peer.hear()
    tree = kin.process_tree()
    adopted = tree.process(daemon).adopted
    if certainty is None:
        assert adopted is None
    else:
        assert adopted is not None
        assert (adopted.adopter, adopted.by) == (peer.pid, "subreaper")
        assert adopted.certainty == certainty
        assert str(adopted.evidence)
        assert tree.process(daemon) in tree.orphans
    # The control: its adopter, our own child, was adopted by nobody.
    assert tree.process(peer.pid).adopted is None
    peer.say()
    peer.result()


def test_orphans_of_init_and_what_is_none(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(2, 0, start=0, flags=KERNEL_THREAD, session=0, group=0)
    fake.add(3, 2, start=0, flags=KERNEL_THREAD, session=0, group=0)
    fake.add(10, 1, session=10, group=10)  # a service, or a daemon of one fork: nobody can say
    fake.add(11, 1, session=7, group=7)  # a daemon of two forks
    fake.add(12, 1, session=1, group=6)  # what a script left behind
    fake.add(13, 1)
    fake.add(14, 1, session=0, group=0)  # of a session outside of this pid namespace
    fake.add(20, 10, session=10, group=20)
    fake.add(21, 20, session=10, group=19)  # second in a pipeline of a shell
    orphans = {each.pid: each.adopted for each in read(fake).orphans}
    assert {pid: (o.adopter, o.by, o.certainty) for pid, o in orphans.items() if o} == {
        11: (1, "init", "certain"),
        12: (1, "init", "likely"),
    }


def test_a_shell_as_process_1_controls_jobs(fake: FakeProc):
    fake.add(1, 0, start=0, terminal=34816)
    fake.add(12, 1, session=1, group=6, terminal=34816)
    assert read(fake).orphans == ()


def test_the_init_of_another_pid_namespace_adopts_too(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(50, 1, session=50, group=50, namespace_pids="50\t1")
    fake.add(60, 50, session=55, group=55, namespace_pids="60\t7")
    adopted = read(fake).process(60).adopted
    assert adopted is not None
    assert (adopted.adopter, adopted.by, adopted.certainty) == (50, "init", "likely")


# ------------------------------------------------------------------------------------ zombies

CASES: list[tuple[Scenario, kin.ZombieCause, str]] = [
    (families.never_waits, kin.ZombieCause.NEVER_WAITS, "kill {parent}"),
    (families.blocked, kin.ZombieCause.BLOCKED, "kill {parent}"),
    (families.ignored_late, kin.ZombieCause.IGNORED, "kill {parent}"),
    (families.one_signal_for_two, kin.ZombieCause.HANDLER, "kill -CHLD {parent}"),
    (families.busy_handler, kin.ZombieCause.HANDLER, "kill {parent}"),
    (families.waits_for_another, kin.ZombieCause.WAITS_ELSEWHERE, "kill {parent}"),
    (families.clone_child, kin.ZombieCause.CLONE_CHILD, "kill {parent}"),
]


def apply(diagnosed: kin.ZombieDiagnosis, command: str) -> None:
    """Type one of its cures."""
    offered = [cure.command for cure in diagnosed.cures]
    assert command in offered
    subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize(
    ("scenario", "cause", "cure"), CASES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_zombie_its_cause_and_its_cure(scenario, cause, cure, peers: Peers):
    if scenario is families.clone_child and not CLONE_WORKS:
        pytest.skip("the number of clone(2) is known for x86-64 and arm64 only")
    with family(peers, scenario) as members:
        one = diagnosis(members)
        assert (one.cause, one.zombie.pid) == (cause, members.child)
        assert one.reaper is not None
        assert one.reaper.pid == members.parent
        assert f"process {members.parent}" in one.why
        # Signals do nothing, and no cure is one.
        os.kill(members.child, signal.SIGKILL)
        assert state(members.child) == "Z"
        assert not any(each.command.endswith(f" {members.child}") for each in one.cures)
        apply(one, cure.format(parent=members.parent))
        members.until_collected()


def test_busy_says_what_it_does(peers: Peers):
    with family(peers, families.busy_handler) as members:
        assert "is running" in diagnosis(members).why
    with family(peers, families.one_signal_for_two) as members:
        assert "pause" in diagnosis(members).why


def test_a_stopped_parent_collects_once_it_goes_on(peers: Peers):
    with family(peers, families.would_wait, zombie=False) as members:
        until(lambda: state(members.parent) == "S", "waits")
        os.kill(members.parent, signal.SIGSTOP)
        until(lambda: state(members.parent) == "T", "stopped")
        os.kill(members.child, signal.SIGKILL)
        members.until_zombie()
        one = diagnosis(members)
        assert one.cause is kin.ZombieCause.STOPPED
        assert [cure.command.split()[1] for cure in one.cures] == ["-CONT", "-KILL"]
        apply(one, f"kill -CONT {members.parent}")
        members.until_collected()
        assert state(members.parent) != "X"  # it collected, and lives


def test_an_uninterruptible_parent(peers: Peers):
    with family(peers, families.uninterruptible, zombie=False) as members:
        try:
            members.until_zombie()
            until(lambda: state(members.parent) == "D", "in vfork")
            one = diagnosis(members)
            assert one.cause is kin.ZombieCause.UNINTERRUPTIBLE
            apply(one, f"kill -KILL {members.parent}")
            members.until_collected()
        finally:
            Path(f"/tmp/kf{members.parent}").unlink()


def test_sigchld_blocked_in_one_thread_of_two_is_not_blocked(peers: Peers):
    """The other thread took the signal; Python's handler waits for the main one, which sleeps on."""
    with family(peers, families.blocked_in_one_thread, zombie=False) as members:
        until(lambda: "pause" in (found(members.parent).wchan() or ""), "in pause")
        os.kill(members.child, signal.SIGKILL)
        members.until_zombie()
        assert diagnosis(members).cause is kin.ZombieCause.HANDLER


def test_a_dead_main_thread_is_no_zombie(peers: Peers):
    if not CLONE_WORKS:
        pytest.skip("the number of exit(2) is known for x86-64 and arm64 only")
    with family(peers, families.dead_leader, zombie=False) as members:
        members.until_zombie()  # so says /proc
        tree = kin.process_tree()
        process = tree.process(members.child)
        assert (process.zombie, process.leader_ended, process.state) == (False, True, "S")
        assert process not in tree.zombies
        assert not [each for each in kin.diagnose_zombies(tree) if each.zombie == process]


def test_a_traced_parent_collects_when_its_tracer_has_ended(peers: Peers):
    with family(peers, families.waits_to_be_traced, zombie=False) as members:
        until(lambda: state(members.child) == "S", "asleep")
        tracer = peers.fork(trace(members.parent, halt=True))
        tracer.hear()
        until(lambda: state(members.parent) == "t", "halted")
        os.kill(members.child, signal.SIGKILL)
        members.until_zombie()
        one = diagnosis(members)
        assert one.cause is kin.ZombieCause.TRACED
        assert f"process {tracer.pid}" in one.why
        apply(one, f"kill {tracer.pid}")
        members.until_collected()


def test_a_zombie_that_its_tracer_holds(peers: Peers):
    with family(peers, families.waits_to_be_traced, zombie=False) as members:
        until(lambda: state(members.child) == "S", "asleep")
        tracer = peers.fork(trace(members.child, halt=False))
        tracer.hear()
        os.kill(members.child, signal.SIGKILL)
        members.until_zombie()
        one = diagnosis(members)
        assert one.cause is kin.ZombieCause.HELD_BY_TRACER
        assert one.reaper is not None
        assert one.reaper.pid == tracer.pid
        apply(one, f"kill {tracer.pid}")
        members.until_collected()


def test_the_init_of_a_pid_namespace(peers: Peers):
    if os.geteuid() != 0:
        pytest.skip("only root may make a pid namespace everywhere")
    with family(peers, families.pid_namespace_init) as members:
        one = diagnosis(members)
        assert one.zombie.namespace_pids == (members.child, 1)
        assert "pid namespace" in one.advice


def test_a_frozen_parent(peers: Peers, unique_name: str):
    top = next(
        (
            line.split()[1]
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if line.split()[2] == "cgroup2"
        ),
        None,
    )
    if top is None or os.geteuid() != 0 or not os.access(top, os.W_OK):
        pytest.skip("needs root and the unified hierarchy of control groups")
    group = Path(top, unique_name)
    group.mkdir()
    try:
        with family(peers, families.would_wait, zombie=False) as members:
            until(lambda: state(members.parent) == "S", "waits")
            (group / "cgroup.procs").write_text(str(members.parent))
            (group / "cgroup.freeze").write_text("1")
            until(lambda: "frozen 1" in (group / "cgroup.events").read_text(), "frozen")
            os.kill(members.child, signal.SIGKILL)
            members.until_zombie()
            one = diagnosis(members)
            assert one.cause is kin.ZombieCause.FROZEN
            apply(one, f"echo 0 > {group}/cgroup.freeze")
            members.until_collected()
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the group is empty")
        group.rmdir()


@pytest.mark.parametrize("scenario", [families.ignored_late, families.clone_child])
def test_the_last_resort(scenario, peers: Peers):
    """A debugger calls waitpid: the zombie goes, and its parent lives."""
    if shutil.which("gdb") is None or not CLONE_WORKS:
        pytest.skip("needs gdb, on x86-64 or arm64")
    if os.geteuid() != 0:
        pytest.skip("only root may attach a debugger everywhere (yama)")
    with family(peers, scenario) as members:
        one = diagnosis(members)
        apply(one, one.cures[-1].command)
        members.until_collected()
        assert state(members.parent) == "S"


# ------------------------------------------------------------------------------------ what can't be seen


def test_a_parent_outside_of_the_pid_namespace(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(9, 0, state="Z")
    (one,) = kin.diagnose_zombies(read(fake))
    assert (one.cause, one.reaper, one.cures) == (kin.ZombieCause.UNSEEN, None, ())
    assert "host" in one.advice


def test_process_1_that_does_not_reap(fake: FakeProc):
    fake.add(1, 0, start=0, name=b"app")
    fake.add(9, 1, state="Z")
    fake.add_task(1)
    (one,) = kin.diagnose_zombies(read(fake))
    assert one.cause is kin.ZombieCause.NEVER_WAITS
    assert "init" in one.advice
    assert not any(cure.command.startswith("kill") for cure in one.cures)


def test_masks_that_the_kernel_does_not_show(fake: FakeProc):
    fake.add(1, 0, start=0)
    fake.add(8, 1, masks=False)
    fake.add_task(8)
    fake.add(9, 8, state="Z")
    (one,) = kin.diagnose_zombies(read(fake))
    assert one.cause is kin.ZombieCause.UNKNOWN


def test_a_plain_user_sees_others_and_is_told_who_may_cure(as_plain_user: User, peers: Peers):
    if as_plain_user == User():
        pytest.skip("needs a zombie of another user")
    with family(peers, families.blocked) as members:
        one = as_plain_user.run(diagnosis, members)
        assert one.cause is kin.ZombieCause.BLOCKED
        assert {cure.needs for cure in one.cures} == {"root"}
        assert {cure.needs for cure in diagnosis(members).cures} == {""}


@pytest.mark.parametrize("hidepid", ["1", "2"])
def test_a_parent_that_is_hidden(hidepid, foreign_user: User, peers: Peers, short_directory):
    """Our zombie, somebody else's parent: who has to collect it can't be seen, and that is said."""

    def program_of_theirs() -> None:
        foreign_user.become()
        os.execv("/bin/true", ["true"])  # whoever changes its user stays hidden until it does

    def child(voice: Any) -> tuple[str, int]:
        mount_proc(short_directory, f"hidepid={hidepid}")
        zombie = fork(program_of_theirs)
        until_ended(zombie)
        reader, writer = os.pipe()

        def look() -> None:
            foreign_user.become()
            tree = read_tree(Procfs(str(short_directory)))
            found = [each for each in kin.diagnose_zombies(tree) if each.zombie.pid == zombie]
            line = f"{found[0].cause},{tree.unreadable}" if found else f"-,{tree.unreadable}"
            os.write(writer, line.encode())

        os.waitpid(fork(look), 0)
        cause, unreadable = os.read(reader, 100).decode().split(",")
        os.waitpid(zombie, 0)
        return cause, int(unreadable)

    short_directory.chmod(0o755)
    cause, unreadable = peers.fork(child).result()
    assert cause == "unseen"
    assert (unreadable > 0) == (hidepid == "1")
