"""How long memory lives: who attaches never destroys, the last user may, whatever ends him, and the standard library never does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import marks, runtime_directory
from kinfolk._native import SysvAttachment, sysv_shm_get, sysv_shm_remove
from kinfolk.memory import guard
from kinfolk.memory.sysv_segment import all_segments
from tests.conformance.peers import HANG, Peers, until
from tests.namespaces import CLONE_NEWNS, in_namespaces, mount_shared_memory
from tests.other_user import User
from tests.unit.memories import NAMED, NewAddress, is_there, path_of


@pytest.fixture(params=["shm", "sysv-shm"])
def address(request: pytest.FixtureRequest, new_address: NewAddress) -> str:
    """Of what may go with its users."""
    return new_address(request.param)


@pytest.fixture(params=NAMED)
def name(request: pytest.FixtureRequest, new_address: NewAddress) -> str:
    return new_address(request.param)


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a guard, and so with what stands behind it alone."""
    monkeypatch.setattr(guard, "start", lambda *_: None)


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a script of Python in a process of its own."""
    words = [sys.executable, *(("-c", script) if "\n" in script else (script,)), *args]
    return subprocess.run(words, capture_output=True, text=True, timeout=HANG, check=False)


def hold(voice: Any, address: str) -> None:
    """Attach, and stay."""
    with kin.SharedMemory.attach(address):
        voice.say()
        voice.hear()


# ── until it is unlinked ─────────────────────────────────────────────────────────────────────


def test_who_attaches_never_destroys(name: str, peers: Peers) -> None:
    memory = kin.SharedMemory.create(name, 100)
    memory.buf[0] = 7

    def attach(_: Any) -> None:
        kin.SharedMemory.attach(name).close()
        with kin.SharedMemory.attach(name) as kept:
            kept.array(3)
        kin.SharedMemory.attach(name)

    peers.fork(attach).result()
    killed = peers.fork(hold, name)
    killed.hear()
    killed.kill()
    script = "import sys, kinfolk as kin\nmemory = kin.SharedMemory.attach(sys.argv[1])"
    assert run(script, name).stderr == ""
    assert is_there(name)
    with kin.SharedMemory.attach(name) as other:
        assert other.buf[0] == 7
        assert other.lifetime == "name"
    memory.unlink()


def test_a_name_outlives_everybody(name: str, peers: Peers) -> None:
    def create(_: Any) -> None:
        with kin.SharedMemory.create(name, 100) as memory:
            memory.buf[0] = 7
        os.kill(os.getpid(), signal.SIGKILL)

    assert peers.fork(create).wait() == -signal.SIGKILL
    with kin.SharedMemory.attach(name) as memory:
        assert memory.buf[0] == 7
        memory.unlink()


def test_the_standard_library_s_tracker_never_hears_of_ours(name: str, tmp_path: Path) -> None:
    """It removes what its processes have attached to (cpython #82300)."""
    script = """
import multiprocessing, sys
import kinfolk as kin
from multiprocessing import resource_tracker

def use(memory):
    memory.buf[0] = 7
    kin.SharedMemory.attach(sys.argv[1]).close()

if __name__ == "__main__":
    memory = kin.SharedMemory.create(sys.argv[1], 100)
    before = resource_tracker._resource_tracker._fd
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        child = context.Process(target=use, args=(memory,))
        child.start()
        child.join()
        assert child.exitcode == 0, child.exitcode
    assert before is None
"""
    path = tmp_path / "program.py"  # which children of spawn import
    path.write_text(script)
    ended = run(str(path), name)
    assert (ended.returncode, ended.stderr) == (0, "")
    with kin.SharedMemory.attach(name) as memory:
        assert memory.buf[0] == 7
        memory.unlink()


def test_the_tracker_does_destroy_what_is_the_standard_library_s() -> None:
    """The negative control of the test above."""
    if sys.version_info >= (3, 13):
        pytest.skip("3.13 can be told not to")
    from multiprocessing import shared_memory

    theirs = shared_memory.SharedMemory(create=True, size=100)
    try:
        run(
            "import sys\nfrom multiprocessing.shared_memory import SharedMemory\nSharedMemory(sys.argv[1])",
            theirs.name,
        )
        until(lambda: not os.path.exists(f"/dev/shm/{theirs.name}"), "destroyed by an attachment")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/{theirs.name}")
        theirs.close()
        from multiprocessing import resource_tracker

        resource_tracker.unregister(f"/{theirs.name}", "shared_memory")
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


# ── as long as somebody uses it ──────────────────────────────────────────────────────────────


def test_the_last_user_removes_it(address: str, peers: Peers) -> None:
    memory = kin.SharedMemory.create(address, 100, lifetime="peers")
    assert memory.lifetime == "peers"
    assert memory.mode == 0o600
    memory.chmod(0o640)
    assert memory.mode == 0o640
    other = peers.fork(hold, address)
    other.hear()
    memory.buf[0] = 7
    other.say()
    other.result()
    assert is_there(address)  # the creator is a user, too
    another = kin.SharedMemory.attach(address)
    memory.close()
    assert is_there(address)
    assert another.lifetime == "peers"
    another.close()
    assert not is_there(address)


def test_the_creator_may_go_first(address: str, peers: Peers) -> None:
    def create(voice: Any) -> None:
        with kin.SharedMemory.create(address, 100, lifetime="peers"):
            voice.say()
            voice.hear()

    creator = peers.fork(create)
    creator.hear()
    memory = kin.SharedMemory.attach(address)
    creator.say()
    creator.result()
    assert is_there(address)
    memory.close()
    assert not is_there(address)


def test_a_forked_copy_is_a_user(address: str, peers: Peers) -> None:
    memory = kin.SharedMemory.create(address, 100, lifetime="peers")

    def close(voice: Any) -> None:
        voice.hear()
        memory.close()

    child = peers.fork(close)
    memory.close()
    assert is_there(address)
    child.say()
    child.result()
    assert not is_there(address)


def test_an_array_is_a_user(address: str) -> None:
    with kin.SharedMemory.create(address, 100, lifetime="peers") as memory:
        numbers = memory.array(3)
    assert is_there(address)
    numbers[0] = 1
    del numbers
    assert not is_there(address)


def test_it_goes_although_all_are_killed(address: str, peers: Peers) -> None:
    def create(voice: Any) -> None:
        kept = kin.SharedMemory.create(address, 1 << 20, lifetime="peers")
        voice.say(kept.size)
        voice.hear()

    creator = peers.fork(create)
    creator.hear()
    other = peers.fork(hold, address)
    other.hear()
    creator.kill()
    assert is_there(address)
    with kin.SharedMemory.attach(address) as memory:
        assert memory.size == 1 << 20
    other.kill()
    until(lambda: not is_there(address), "removed by the guard")
    until(lambda: not _guards(address), "the guard has gone")
    _no_members_are_left()


def test_without_a_guard_it_stays(address: str, peers: Peers, unguarded: None) -> None:
    """The negative control; and then the next who asks for the name has it."""
    _create_and_be_killed(address, peers)
    assert is_there(address)
    with pytest.raises(kin.NotFound):
        kin.SharedMemory.attach(address)
    assert not is_there(address)
    _create_and_be_killed(address, peers)
    with kin.SharedMemory.create(address, 200, lifetime="peers") as memory:
        assert memory.size == 200
    assert not is_there(address)
    _create_and_be_killed(address, peers)
    with kin.SharedMemory.create(address, 200) as memory:
        assert (memory.size, memory.lifetime) == (200, "name")
        memory.unlink()
    _no_members_are_left()


def test_who_creates_another_one_removes_what_was_left(
    new_address: NewAddress, peers: Peers, unguarded: None
) -> None:
    left = new_address("shm")
    _create_and_be_killed(left, peers)
    kin.SharedMemory.create(new_address("shm"), 10).close()
    assert is_there(left)
    kin.SharedMemory.create(new_address("shm"), 10, lifetime="peers").close()
    assert not is_there(left)


def test_what_somebody_uses_is_not_swept(new_address: NewAddress, peers: Peers) -> None:
    address = new_address("shm")
    memory = kin.SharedMemory.create(address, 100, lifetime="peers")
    user = peers.fork(hold, address)
    user.hear()
    memory.close()
    kin.SharedMemory.create(new_address("shm"), 10, lifetime="peers").close()
    assert is_there(address)
    with pytest.raises(kin.AlreadyExists):
        kin.SharedMemory.create(address, 10)
    user.say()
    user.result()
    until(lambda: not is_there(address), "removed when the last copy had gone")


@pytest.mark.parametrize("guarded", [True, False])
def test_of_many_who_leave_together_one_is_the_last(
    address: str, guarded: bool, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not guarded:
        monkeypatch.setattr(guard, "start", lambda *_: None)
    rounds, crowd = (3, 4) if guarded else (20, 4)

    def take_part(voice: Any) -> None:
        for _ in range(rounds):
            voice.hear()
            memory = kin.SharedMemory.attach(address)
            voice.say()
            voice.hear()
            memory.close()
            voice.say()

    users = [peers.fork(take_part) for _ in range(crowd)]
    for _ in range(rounds):
        memory = kin.SharedMemory.create(address, 100, lifetime="peers")
        for user in users:
            user.say()
        for user in users:
            user.hear()
        for user in users:
            user.say()
        memory.close()
        for user in users:
            user.hear()
        assert not is_there(address)
    for user in users:
        user.result()


def test_a_guard_removes_no_other_file(new_address: NewAddress, peers: Peers) -> None:
    address = new_address("shm")
    path = path_of(address)
    assert path is not None
    memory = kin.SharedMemory.create(address, 100, lifetime="peers")
    (pid,) = _guards(address)
    memory.unlink()
    path.write_bytes(b"another")
    memory.close()
    until(lambda: not os.path.exists(f"/proc/{pid}"), "the guard has gone")
    assert path.read_bytes() == b"another"
    path.unlink()


def test_a_guard_holds_nothing_but_the_file(address: str, peers: Peers) -> None:
    with kin.SharedMemory.create(address, 100, lifetime="peers"):
        (pid,) = _guards(address)
        until(lambda: os.listdir(f"/proc/{pid}/fd") == ["0"], "all else is closed")
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) == pid
        assert (
            f"PPid:\t{os.getpid()}\n" not in Path(f"/proc/{pid}/status").read_text()
        )  # nobody's child
    until(lambda: not _guards(address), "the guard has gone")


def test_one_without_an_interpreter_for_it_is_told(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for executable in ("", "/nowhere/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(kin.Unsupported, match="guard"):
            kin.SharedMemory.create(address, 100, lifetime="peers")
        assert not is_there(address)
    _no_members_are_left()


def test_it_goes_at_the_exit_also_from_a_daemon_thread(address: str) -> None:
    script = """
import sys, threading, kinfolk as kin
from kinfolk.memory import guard
guard.start = lambda *_: None  # it is not what removes the name here
started = threading.Event()
def work():
    memory = kin.SharedMemory.create(sys.argv[1], 100, lifetime="peers")
    numbers = memory.array(3)
    started.set()
    threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
started.wait()
sys.exit(int(sys.argv[2]))
"""
    ended = run(script, address, "3")
    assert (ended.returncode, ended.stderr) == (3, "")
    assert not is_there(address)


def test_of_another_user_s_one_is_a_user_too(new_address: NewAddress, foreign_user: User) -> None:
    address = new_address("shm")
    memory = kin.SharedMemory.create(address, 100, lifetime="peers", mode=0o666)

    def look() -> str:
        with kin.SharedMemory.attach(address) as other:
            return other.lifetime

    assert foreign_user.run(look) == "peers"
    assert is_there(address)
    memory.close()
    assert not is_there(address)


@pytest.mark.parametrize("mode", [0o1600, 0o1777, 0o2777, 0o3777, 0o3770])
def test_no_chmod_makes_it_ours(mode: int, new_address: NewAddress) -> None:
    """``chmod -R 1777 /dev/shm``, as it stands in many a Dockerfile."""
    address, other = new_address("shm"), new_address("shm")
    path, semaphore = path_of(address), path_of(new_address("shm"))
    assert path is not None
    assert semaphore is not None
    memory = kin.SharedMemory.create(address, 100)
    semaphore.write_bytes(b"sem_t")
    for each in (path, semaphore):
        each.chmod(mode)
    with kin.SharedMemory.attach(address) as attached:
        assert attached.lifetime == "name"
    with pytest.raises(kin.AlreadyExists):
        kin.SharedMemory.create(address, 100)
    kin.SharedMemory.create(other, 100, lifetime="peers").close()
    assert is_there(address)
    assert semaphore.exists()
    memory.unlink()


def test_where_the_directory_gives_its_group_it_is_still_known_as_ours(
    peers: Peers, unguarded: None
) -> None:
    """``chmod -R 3777 /dev/shm``: the kernel takes the mark from a file of a group that its owner is not in."""

    def live() -> list[str]:
        mount_shared_memory("mode=3777")
        if os.geteuid() != 0:
            return []
        os.setgroups([])
        os.setresgid(4711, 4711, 4711)
        os.setresuid(4711, 4711, 4711)
        memory = kin.SharedMemory.create("shm:/x", 100, lifetime="peers", mode=0o777)
        kin.SharedMemory.attach("shm:/x").close()
        assert memory.lifetime == kin.SharedMemory.attach("shm:/x").lifetime == "peers"
        memory.chmod(0o670)
        assert kin.SharedMemory.attach("shm:/x").lifetime == "peers"
        memory.close()
        return os.listdir("/dev/shm")

    assert in_namespaces(peers, CLONE_NEWNS, live) == []


def test_a_key_without_users_of_ours_is_stale_whoever_is_attached(
    new_address: NewAddress, peers: Peers
) -> None:
    """What a C program has attached stays as long as it has, without its key."""
    address = new_address("sysv-shm")
    memory = kin.SharedMemory.create(address, 100, lifetime="peers")
    number, memory.buf[0] = memory.id, 7

    def attach_by_id(voice: Any) -> int:
        attached = SysvAttachment(number, False)
        voice.say()
        voice.hear()
        return memoryview(attached)[0]

    stranger = peers.fork(attach_by_id)
    stranger.hear()
    memory.close()
    # The stranger was forked, and so has a copy of ours, too.
    assert is_there(address)
    stranger.say()
    assert stranger.result() == 7
    until(lambda: not is_there(address), "removed by the guard")


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize("mode", [0o600, 0o700, 0o777, 0o111, 0o611])
def test_without_members_of_ours_it_is_never_removed(
    mode: int, attached: bool, new_address: NewAddress, peers: Peers
) -> None:
    """Whatever the mode says, once somebody was attached: there may be something in it."""
    address = new_address("sysv-shm")

    def make(voice: Any) -> None:
        number = sysv_shm_get(_key_of(address), 100, 0o1000 | mode)
        held = SysvAttachment(number, False)
        memoryview(held)[0] = 7
        if not attached:
            del held
        voice.say()
        voice.hear()

    maker = peers.fork(make)
    maker.hear()
    if not attached:
        maker.say()
        maker.result()
    for lifetime in ("name", "peers"):
        with pytest.raises(kin.AlreadyExists):
            kin.SharedMemory.create(address, 100, lifetime=lifetime)
    with kin.SharedMemory.attach(address) as memory:
        assert memory.lifetime == "name"
        assert memory.buf[0] == 7
        memory.chmod(0o640)
        assert memory.mode == 0o640
    assert is_there(address)


def test_a_key_whose_maker_was_killed_in_the_middle_is_taken_over(
    new_address: NewAddress, peers: Peers
) -> None:
    """Before it had members: nobody was ever attached, so there is nothing in it."""
    address = new_address("sysv-shm")

    def begin(_: Any) -> int:
        return sysv_shm_get(_key_of(address), 100, 0o1000 | marks.sysv_marked(0o600))

    peers.fork(begin).result()
    with kin.SharedMemory.create(address, 200) as memory:
        assert memory.size == 200
        memory.unlink()
    peers.fork(begin).result()
    with pytest.raises(kin.NotFound):
        kin.SharedMemory.attach(address)
    assert not is_there(address)


def test_a_key_that_is_just_being_made_is_not_taken_over(
    new_address: NewAddress, peers: Peers
) -> None:
    """Its maker runs, and its members are not known yet."""
    address = new_address("sysv-shm")

    def begin(voice: Any) -> None:
        sysv_shm_get(_key_of(address), 100, 0o1000 | marks.sysv_marked(0o600))
        voice.say()
        voice.hear()

    maker = peers.fork(begin)
    maker.hear()
    for lifetime in ("name", "peers"):
        with pytest.raises(kin.AlreadyExists):
            kin.SharedMemory.create(address, 100, lifetime=lifetime)
    with pytest.raises(kin.Timeout):
        kin.SharedMemory.attach(address, timeout=0.01)
    maker.kill()
    with pytest.raises(kin.NotFound):
        kin.SharedMemory.attach(address)
    assert not is_there(address)


@pytest.mark.parametrize("rounds", [12, pytest.param(400, marks=pytest.mark.soak)])
def test_killed_anywhere_it_leaves_nothing(address: str, rounds: int, peers: Peers) -> None:
    """By a timer of its own, somewhere in creating, attaching, growing, leaving."""

    def live(_: Any, seconds: float) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while True:
            with kin.SharedMemory.create(address, 100_000, lifetime="peers") as memory:
                kin.SharedMemory.attach(address).close()
                if address.startswith("shm"):
                    memory.resize(200_000)

    for number in range(rounds):
        victim = peers.fork(live, 0.0005 + 0.15 * number / rounds)
        assert victim.wait() == -signal.SIGALRM
        until(lambda: not _guards(address), "the guard is done")
        if is_there(
            address
        ):  # a segment that was killed before it had a guard: for the next who asks
            assert address.startswith("sysv")
            with pytest.raises(kin.NotFound):
                kin.SharedMemory.attach(address)
        assert not is_there(address)
    _no_members_are_left()


# ── without a name ───────────────────────────────────────────────────────────────────────────


def test_a_segment_without_a_key_goes_with_its_last_user(peers: Peers) -> None:
    def create(voice: Any) -> None:
        memory = kin.SharedMemory.create("sysv-shm:", 100)
        voice.say(memory.id)
        voice.hear()

    creator = peers.fork(create)
    number = creator.hear()
    assert _has_segment(number)
    creator.kill()
    assert not _has_segment(number)


def test_one_whose_maker_was_killed_in_the_middle_is_swept(peers: Peers) -> None:
    """Between shmget and shmctl, some microseconds: the kernel would keep it until the next boot."""

    def create(_: Any) -> int:
        return sysv_shm_get(0, 100, 0o1000 | marks.sysv_marked(0o600))

    number = peers.fork(create).result()
    aliens = [
        peers.fork(lambda _, mode=mode: sysv_shm_get(0, 100, 0o1000 | mode)).result()
        for mode in (0o600, 0o700, 0o777)
    ]

    def use(_: Any) -> int:
        alien = sysv_shm_get(0, 100, 0o1000 | marks.sysv_marked(0o600))
        memoryview(SysvAttachment(alien, False))[0] = 7
        return alien

    aliens.append(peers.fork(use).result())  # it has the mark, too; but something is in it
    kin.SharedMemory.create("sysv-shm:", 100).close()
    assert not _has_segment(number)
    left = [alien for alien in aliens if _has_segment(alien)]
    for alien in left:
        sysv_shm_remove(alien)
    assert left == aliens


def test_one_that_is_just_being_made_is_not_swept() -> None:
    number = sysv_shm_get(0, 100, 0o1000 | marks.sysv_marked(0o600))
    kin.SharedMemory.create("sysv-shm:", 100).close()
    assert _has_segment(number)
    sysv_shm_remove(number)


# ── looks ────────────────────────────────────────────────────────────────────────────────────


def _create_and_be_killed(address: str, peers: Peers) -> None:
    def create(voice: Any) -> None:
        kept = kin.SharedMemory.create(address, 100, lifetime="peers")
        voice.say(kept.size)
        voice.hear()

    creator = peers.fork(create)
    creator.hear()
    creator.kill()


def _key_of(address: str) -> int:
    return int(address.partition(":")[2], 16)


def _has_segment(number: int) -> bool:
    return number in {at for at, _ in all_segments()}


def _guards(address: str) -> list[int]:
    """The guards of an address."""
    path = path_of(address)
    where = str(path)
    if path is None:
        key = int(address.partition(":")[2], 0)
        where = str(key)
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.endswith("guard_program.py") for word in words) and where in words:
            found.append(int(pid))
    return found


def _no_members_are_left() -> None:
    directory = Path(runtime_directory.path_name())
    until(
        lambda: not directory.exists() or not list(directory.glob("sysv-shm-*")), "no members left"
    )
