"""`launch.start`: what the child has when its program begins, and what is said when it can't."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfolk import _native
from kinfolk.errors import AccessDenied, KernelError, KinfolkError, LimitReached, NotFound
from kinfolk.identity import is_dead
from kinfolk.processes.direct import Direct
from kinfolk.processes.launch import Launch
from kinfolk.processes.launch import start as start_launch
from tests.conformance.peers import readable, state, until
from tests.unit.starting import SLEEP, launch_of, output, start

TRUE = ["/bin/true"]


def ended(launch: Launch) -> int:
    """Start and wait; the exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(start_launch(launch), 0)[1])


def said(argv: list[str], **fields) -> str:
    """What a program says on its standard output."""
    reading, writing = os.pipe()
    with open(reading) as file:
        try:
            descriptors = [*fields.pop("descriptors", []), (writing, 1)]
            pid = start_launch(launch_of(argv, descriptors=descriptors, **fields))
        finally:
            os.close(writing)
        text = file.read()
    assert os.waitpid(pid, 0)[1] == 0, text
    return text


# ── descriptors ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def files():
    """Open descriptors that can be told apart by their inodes; every second number between is free."""
    opened = [os.memfd_create("test") for _ in range(12)]
    for fd in opened[::2]:
        os.close(fd)
    yield opened[1::2]
    for fd in opened[1::2]:
        os.close(fd)


@settings(max_examples=150)
@given(data=st.data())
def test_any_numbers_become_any_numbers(files, data):
    """Permutations, cycles, one for several, free numbers, a number that stays."""
    targets = st.lists(
        st.integers(2, 12).filter(lambda n: n != 1) | st.sampled_from(files), unique=True
    )
    there = data.draw(targets)
    here = data.draw(st.lists(st.sampled_from(files), min_size=len(there), max_size=len(there)))
    paths = [f"/proc/self/fd/{number}" for number in there]
    if not paths:
        return
    text = said(
        ["/usr/bin/stat", "-L", "-c", "%i", *paths], descriptors=list(zip(here, there, strict=True))
    )
    assert [int(line) for line in text.split()] == [os.fstat(fd).st_ino for fd in here]
    assert all(os.fstat(fd) for fd in files)  # those here are as they were


def test_all_others_are_closed():
    """Also inheritable ones; and the negative control: posix_spawn inherits those."""
    one = os.memfd_create("one", 0)
    os.set_inheritable(one, True)
    far = fcntl.fcntl(one, fcntl.F_DUPFD, 300)
    try:
        script = f"[ ! -e /proc/self/fd/{one} ] && [ ! -e /proc/self/fd/{far} ]"
        argv = ["/bin/sh", "-c", script]
        assert ended(launch_of(argv)) == 0
        assert os.waitpid(os.posix_spawn(argv[0], argv, os.environ), 0)[1] != 0
    finally:
        os.close(one)
        os.close(far)


def test_a_number_that_is_not_open_is_named():
    with pytest.raises(KernelError, match="descriptor 777 can't become its 5") as raised:
        start_launch(launch_of(TRUE, descriptors=[(1, 1), (777, 5)]))
    assert raised.value.errno == errno.EBADF


@pytest.mark.parametrize("numbers", [[(1, 3), (2, 3)], [(1, -1)]])
def test_impossible_numbers_start_nothing(numbers):
    with pytest.raises(ValueError, match="number in the child"):
        start_launch(launch_of(TRUE, descriptors=numbers))


# ── what the program finds ───────────────────────────────────────────────────────────────────


def signals_in(text: str) -> dict[str, int]:
    lines = (line.split(":") for line in text.splitlines() if line.startswith("Sig"))
    return {name: int(mask, 16) for name, mask in lines if name != "SigQ"}


STATUS = ["/bin/cat", "/proc/self/status"]


def test_every_signal_is_as_new():
    """Python ignores SIGPIPE and SIGXFSZ; a thread may have blocked some; neither reaches the child."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        assert signals_in(said(STATUS)) == dict.fromkeys(
            ("SigPnd", "SigBlk", "SigIgn", "SigCgt"), 0
        )
        # The negative control.
        reading, writing = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, writing, 1)]
        pid = os.posix_spawn(STATUS[0], STATUS, os.environ, file_actions=actions)
        os.close(writing)
        with open(reading) as file:
            inherited = signals_in(file.read())
        os.waitpid(pid, 0)
        assert inherited["SigIgn"] & 1 << (signal.SIGPIPE - 1)
        assert inherited["SigBlk"]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR2})
        signal.signal(signal.SIGUSR1, before)


def test_the_starters_mask_is_as_it_was():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        ended(launch_of(TRUE))
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_signals_can_be_blocked_from_the_beginning():
    blocked = signals_in(said(STATUS, blocked=[signal.SIGTERM, signal.SIGRTMAX]))["SigBlk"]
    assert blocked == 1 << (signal.SIGTERM - 1) | 1 << (signal.SIGRTMAX - 1)


def test_the_environment_is_given_or_inherited(monkeypatch):
    monkeypatch.setenv("KINFOLK_COLOUR", "green")
    argv = ["/bin/sh", "-c", "echo $KINFOLK_COLOUR"]
    assert said(argv) == "green\n"
    assert said(argv, env=[b"KINFOLK_COLOUR=blue"]) == "blue\n"
    assert said(argv, env=[]) == "\n"


def test_directory_umask_and_niceness(tmp_path):
    assert said(["/bin/pwd"], cwd=os.fsencode(tmp_path)) == f"{tmp_path}\n"
    assert said(["/bin/sh", "-c", "umask"], umask=0o027) == "0027\n"
    assert int(said(["/usr/bin/nice"], nice=3)) == os.nice(0) + 3


def test_limits():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = [(resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_NOFILE, 77, hard)]
    assert said(["/bin/sh", "-c", "ulimit -c; ulimit -n"], rlimits=limits) == "0\n77\n"


def test_a_limit_below_the_descriptors_comes_after_them():
    limits = [(resource.RLIMIT_NOFILE, 8, 8)]
    assert ended(launch_of(TRUE, descriptors=[(1, 1), (1, 50)], rlimits=limits)) == 0


def test_session_and_group():
    own = [os.getpgrp(), os.getsid(0)]

    def of(pid: int) -> list[int]:
        found = [os.getpgid(pid), os.getsid(pid)]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return found

    sleep = ["/bin/sleep", "1000"]
    assert of(start_launch(launch_of(sleep))) == own
    pid = start_launch(launch_of(sleep, new_session=True))
    assert of(pid) == [pid, pid]
    leader = start_launch(launch_of(sleep, process_group=0))
    assert of(start_launch(launch_of(sleep, process_group=leader))) == [leader, own[1]]
    assert of(leader) == [leader, own[1]]


def test_user_group_and_groups(foreign_user):
    ids = said(
        ["/usr/bin/id"],
        uid=foreign_user.uid,
        gid=foreign_user.gid,
        groups=[foreign_user.gid, 12345],
    )
    assert f"uid={foreign_user.uid}" in ids
    assert f"gid={foreign_user.gid}" in ids
    assert "12345" in ids
    assert "(root)" not in ids


def test_a_directory_is_entered_as_the_new_user(foreign_user, tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(AccessDenied, match="its directory can't be entered"):
        start_launch(
            launch_of(TRUE, uid=foreign_user.uid, gid=foreign_user.gid, cwd=os.fsencode(tmp_path))
        )


@pytest.mark.parametrize("field", [{"uid": 0}, {"gid": 0}, {"groups": [0]}, {"nice": -5}])
def test_what_only_root_may(as_plain_user, field):
    def refused() -> str:
        with pytest.raises(AccessDenied) as raised:
            start_launch(launch_of(TRUE, **field))
        return str(raised.value)

    assert "only root may" in as_plain_user.run(refused)


# ── what can't be started ────────────────────────────────────────────────────────────────────


@pytest.fixture
def programs(tmp_path):
    """Files that can't be executed, each for a reason of its own."""
    (tmp_path / "text").write_text("echo hello\n")
    (tmp_path / "text").chmod(0o755)
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "orphan").write_text("#!/nonexistent/interpreter\n")
    (tmp_path / "orphan").chmod(0o755)
    (tmp_path / "directory").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("nothing", NotFound, errno.ENOENT),
        ("orphan", NotFound, errno.ENOENT),
        ("plain", AccessDenied, errno.EACCES),
        ("directory", AccessDenied, errno.EACCES),
        ("text", KernelError, errno.ENOEXEC),
    ],
)
def test_a_program_that_can_not_be_started_raises_at_once(programs, name, kind, code):
    path = str(programs / name)
    with pytest.raises(kind) as raised:
        start_launch(launch_of([path]))
    assert raised.value.errno == code
    assert raised.value.filename == path
    assert raised.value.remedy
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    ("fields", "kind", "match"),
    [
        ({"cwd": b"/nonexistent"}, NotFound, "its directory"),
        ({"cgroup": b"/nonexistent"}, NotFound, "its cgroup can't be entered: No such file"),
        ({"cgroup": b"/tmp"}, NotFound, "/tmp: .*: this directory is no control group"),
        ({"process_group": 1 << 22}, AccessDenied, "process group"),
        (
            {"rlimits": [(resource.RLIMIT_CORE, 2, 1)]},
            KernelError,
            r"its limit core can't be \(2, 1\)",
        ),
        ({"rlimits": [(resource.RLIMIT_NOFILE, -1, 1)]}, KernelError, r"nofile .*\(unlimited, 1\)"),
        ({"descriptors": [(1, 1 << 30)]}, KernelError, "descriptor 1 can't become"),
        ({"env": [b"A=" + b"x" * (1 << 20)]}, KinfolkError, "."),
    ],
)
def test_every_step_names_itself(fields, kind, match):
    with pytest.raises(kind, match=match) as raised:
        start_launch(launch_of(TRUE, **fields))
    assert isinstance(raised.value, KinfolkError)
    assert raised.value.remedy
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_too_many_processes_is_a_limit(as_plain_user):
    def refused() -> str:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        with pytest.raises(LimitReached) as raised:
            start_launch(launch_of(TRUE))
        return str(raised.value)

    assert "ulimit -u" in as_plain_user.run(refused)


def test_paths_are_tried_in_order(programs):
    """As execvp(3): what is not there is passed over, what may not be run is remembered."""
    here = os.fsencode(programs)
    found = [here + b"/nothing", here + b"/plain", b"/bin/true"]
    assert ended(launch_of(["true"], executables=found)) == 0
    with pytest.raises(AccessDenied):
        start_launch(launch_of(["true"], executables=[here + b"/plain", here + b"/nothing"]))


def test_path_is_that_of_the_childs_environment(tmp_path):
    program = tmp_path / "greet"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    assert output(["greet"], env={"PATH": f"/nonexistent:{tmp_path}"}) == "hello\n"
    with pytest.raises(NotFound, match="greet"):
        start(["greet"])


# ── nobody is left ───────────────────────────────────────────────────────────────────────────


def test_an_interrupted_start_leaves_nobody(monkeypatch):
    """A KeyboardInterrupt comes right after the system call, which is when Python looks for signals."""
    begun: list[int] = []

    def interrupted(launch: Launch, started: list[int]) -> None:
        real(launch, started)
        begun.extend(started)
        raise KeyboardInterrupt

    real = _native.spawn
    monkeypatch.setattr(_native, "spawn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_launch(launch_of(["/bin/sleep", "1000"]))
    with pytest.raises(KeyboardInterrupt):
        start(SLEEP)
    monkeypatch.undo()
    assert [state(pid) for pid in begun] == ["X", "X"]


def test_without_a_descriptor_to_watch_it_a_child_is_ended():
    begun: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def none_left(launch: Launch, started: list[int]) -> int:
        begun.append(start_launch(launch, started))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        return begun[0]

    try:
        with pytest.raises(LimitReached, match="can't be watched"):
            Direct(launch_of(["/bin/sleep", "1000"]), none_left)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert state(begun[0]) == "X"


# ── it dies with its owner ───────────────────────────────────────────────────────────────────


def owner(voice, *, detached: bool, in_thread: bool) -> None:
    """Starts a child and says its pid; killed by the test."""

    def begin() -> None:
        death = None if detached else signal.SIGKILL
        voice.say(Direct(launch_of(["/bin/sleep", "1000"], death_signal=death)).pid)

    if in_thread:
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
        voice.say(thread.native_id)
    else:
        begin()
    voice.hear()


@pytest.mark.parametrize("in_thread", [False, True], ids=["main", "thread"])
def test_a_killed_owner_takes_it_along(peers, in_thread):
    peer = peers.fork(lambda voice: owner(voice, detached=False, in_thread=in_thread))
    pid = peer.hear()
    pidfd = os.pidfd_open(pid)
    try:
        if in_thread:  # the thread that started it has ended; its child lives on
            thread = peer.hear()
            until(lambda: state(peer.pid, thread) == "X", "the thread has gone")
            assert not is_dead(pidfd)
        peer.kill()
        assert readable(pidfd)
    finally:
        os.close(pidfd)


def test_the_death_signal_outlasts_the_change_of_user(peers, foreign_user):
    """The kernel clears it when credentials change, so it is armed after."""

    def live(voice) -> None:
        child = launch_of(
            ["/bin/sleep", "1000"],
            death_signal=signal.SIGKILL,
            uid=foreign_user.uid,
            gid=foreign_user.gid,
            groups=[],
        )
        voice.say(Direct(child).pid)
        voice.hear()

    peer = peers.fork(live)
    pidfd = os.pidfd_open(peer.hear())
    try:
        peer.kill()
        assert readable(pidfd)
    finally:
        os.close(pidfd)


def test_without_the_death_signal_it_lives_on(peers):
    """The negative control."""
    peer = peers.fork(lambda voice: owner(voice, detached=True, in_thread=False))
    pid = peer.hear()
    pidfd = os.pidfd_open(pid)
    try:
        peer.kill()
        until(lambda: parent_of(pid) != peer.pid, "it is an orphan")
        assert not is_dead(pidfd)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert readable(pidfd)
    finally:
        os.close(pidfd)


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
