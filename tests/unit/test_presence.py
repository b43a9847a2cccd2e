"""Who is there: joins and leaves, kills at each point, forked copies, and names that somebody else has laid out."""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import runtime_directory
from kinfolk.channels import presence
from kinfolk.channels.presence import FifoEnd, Presence, open_end, presence_path
from kinfolk.deadlines import Deadline
from kinfolk.interest import Steps
from kinfolk.rendezvous import NotYet
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run
from tests.conformance.peers import HANG, Call, Peers, Voice, open_descriptors
from tests.other_user import User


def finish(steps: Steps[Presence], timeout: float | None = HANG) -> Presence:
    return run(steps, Turnstile("presence", lambda: None), Deadline(timeout), "join")


def receiver(path: Path, **options: Any) -> Presence:
    return finish(Presence.join_receiver(str(path), **options))


def sender(path: Path, timeout: float | None = HANG) -> Presence:
    return finish(Presence.join_sender(str(path)), timeout)


def hangs_up(member: Presence) -> bool:
    """Wait for the hang-up."""
    poll = select.poll()
    poll.register(member.fileno(), 0)
    return bool(poll.poll(HANG * 1000))


@pytest.fixture
def path(socket_path: Path) -> Path:
    return socket_path


# ------------------------------------------------------------------------------ joins and leaves


def test_a_receiver_makes_the_name_and_the_last_to_leave_removes_it(path: Path) -> None:
    first = receiver(path)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) & 0o777 == 0o600
    second = sender(path)
    assert not first.leave()
    assert path.exists()
    assert second.leave()
    assert not path.exists()
    assert not second.leave()


def test_others_are_gone_only_when_some_had_come(path: Path) -> None:
    here = receiver(path)
    assert not here.others_gone()
    first, second = sender(path), sender(path)
    assert not here.others_gone()
    first.leave()
    assert not here.others_gone()
    second.leave()
    assert here.others_gone()
    again = sender(path)
    assert not again.others_gone()
    here.leave()
    assert again.others_gone()
    again.leave()


def test_a_sender_waits_for_a_receiver(path: Path) -> None:
    with pytest.raises(kin.Timeout):
        sender(path, 0.01)
    call = Call(sender, path)
    here = receiver(path)
    there = call.result()
    there.leave()
    here.leave()


def test_a_sender_does_not_take_a_name_without_receiver_for_one(path: Path) -> None:
    os.mkfifo(path, 0o600)
    before = open_descriptors()
    with pytest.raises(kin.Timeout):
        sender(path, 0.01)
    assert open_descriptors() == before
    path.unlink()


def test_an_anonymous_presence() -> None:
    here, there = Presence.anonymous()
    assert here.path is None
    assert not here.others_gone()
    there.leave()
    assert here.others_gone()
    here.leave()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o277, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o640, 0o622])
def test_the_mode_is_as_asked_under_any_umask(path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        here = receiver(path, mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) & 0o777 == mode
    here.leave()


def test_a_name_that_kinfolk_did_not_make_stays(path: Path) -> None:
    os.mkfifo(path, 0o600)
    here = receiver(path)
    assert not here.leave()
    assert path.exists()
    path.unlink()


def test_a_name_that_was_replaced_is_somebody_elses(path: Path) -> None:
    here = receiver(path)
    path.unlink()
    path.write_text("precious")
    here.leave()
    assert path.read_text() == "precious"
    path.unlink()


def test_what_members_share_goes_before_the_name(path: Path) -> None:
    seen: list[bool] = []
    here, there = receiver(path), sender(path)
    assert not here.leave(lambda: seen.append(path.exists()))
    assert there.leave(lambda: seen.append(path.exists()))
    assert seen == [True]


def test_the_first_is_told(path: Path) -> None:
    firsts: list[tuple[str, bool]] = []
    here = receiver(path, if_first=lambda found: firsts.append(("one", found)))
    again = receiver(path, if_first=lambda found: firsts.append(("two", found)))
    assert firsts == [("one", False)]
    again.leave()
    here.leave()


@pytest.mark.parametrize("ours", [True, False])
def test_the_first_is_told_whether_there_were_members(path: Path, ours: bool, peers: Peers) -> None:
    if ours:
        killed = peers.fork(stay, receiver, path)
        killed.hear()
        killed.kill()
    else:
        os.mkfifo(path)
    firsts: list[bool] = []
    here = receiver(path, if_first=firsts.append)
    assert firsts == [ours]
    assert here.leave() == ours
    if not ours:
        path.unlink()


def test_a_first_that_fails_leaves_nothing_open(path: Path) -> None:
    def fail(_: bool) -> None:
        raise LookupError

    before = open_descriptors()
    with pytest.raises(LookupError):
        receiver(path, if_first=fail)
    assert open_descriptors() == before
    here = receiver(path)
    here.leave()


# ------------------------------------------------------------------------------------------ kills


def stay(voice: Voice, join: Callable[[Path], Presence], path: Path) -> None:
    member = join(path)
    voice.say()
    voice.hear()
    member.leave()


def test_the_kill_of_a_sender_is_seen(path: Path, peers: Peers) -> None:
    here = receiver(path)
    peer = peers.fork(stay, sender, path)
    peer.hear()
    # the fork copied our end: the child closes it by dying, too
    peer.kill(reap=False)
    assert hangs_up(here)
    assert here.others_gone()
    assert here.leave()


def test_the_kill_of_a_receiver_is_seen(path: Path, peers: Peers) -> None:
    peer = peers.fork(stay, receiver, path)
    peer.hear()
    there = sender(path)
    assert not there.others_gone()
    peer.kill(reap=False)
    assert hangs_up(there)
    assert there.leave()


def test_a_kill_of_all_leaves_a_name_that_the_next_takes_over(path: Path, peers: Peers) -> None:
    one = peers.fork(stay, receiver, path)
    one.hear()
    other = peers.fork(stay, sender, path)
    other.hear()
    one.kill()
    other.kill()
    assert path.exists()
    inode = path.stat().st_ino
    here = receiver(path)
    assert path.stat().st_ino == inode
    there = sender(path)
    there.leave()
    assert here.leave()
    assert not path.exists()


POINTS = ["mkfifo", "lstat", "open", "fstat", "unlink", "close"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_each_system_call_leaves_a_usable_name(
    path: Path, peers: Peers, point: str, after: bool
) -> None:
    """The victim joins and leaves as the only member, and dies just before or after one of its calls."""

    def victim(voice: Voice, nth: int) -> bool:
        real = getattr(os, point)
        count = 0

        def deadly(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth and not after:
                os.kill(os.getpid(), 9)
            result = real(*args, **named)
            if count == nth:
                os.kill(os.getpid(), 9)
            return result

        setattr(os, point, deadly)
        try:
            receiver(path).leave()
        finally:
            setattr(os, point, real)
        return True

    for nth in range(1, 20):
        peer = peers.fork(victim, nth)
        survived = peer.wait() == 0
        here = receiver(path)
        there = sender(path)
        there.leave()
        assert here.others_gone()
        assert here.leave(), f"after a kill at call {nth} of {point} the name stays for ever"
        assert not path.exists()
        if survived:
            assert nth > 1, f"{point} is never called"
            break


def test_joins_and_leaves_and_kills_of_many_at_once(path: Path, peers: Peers) -> None:
    def come_and_go(voice: Voice, number: int) -> None:
        for turn in range(15):
            member = receiver(path) if (number + turn) % 2 else sender(path)
            if turn == 14 and number % 3 == 0:
                voice.say()
                voice.hear()  # to be killed as a member
            member.leave()

    keeper = receiver(path)  # so that senders need not wait for each other
    children = [peers.fork(come_and_go, number) for number in range(6)]
    for number, peer in enumerate(children):
        if number % 3 == 0:
            peer.hear()
            peer.kill()
    for number, peer in enumerate(children):
        if number % 3:
            peer.result()
    assert keeper.leave()


def test_receivers_that_come_and_go_race_for_making_and_removing_the_name(
    path: Path, peers: Peers
) -> None:
    def come_and_go(voice: Voice) -> None:
        for _ in range(30):
            member = receiver(path)
            assert os.fstat(member.fileno()).st_ino == path.stat().st_ino
            member.leave()

    children = [peers.fork(come_and_go) for _ in range(4)]
    for peer in children:
        peer.result()


def test_forked_copies_count_until_they_are_closed(path: Path, peers: Peers) -> None:
    here, there = receiver(path), sender(path)

    def child(voice: Voice) -> bool:
        here.leave()
        voice.say()
        voice.hear()
        return there.leave()

    peer = peers.fork(child)
    peer.hear()
    there.leave()
    assert not here.others_gone()
    assert not here.leave()  # the child is a member
    assert path.exists()
    peer.say()
    assert peer.result()
    assert not path.exists()


# ---------------------------------------------------------------------------------------- squatted


def test_a_symlink_is_not_followed(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    os.mkfifo(target, 0o644)
    path.symlink_to(target)
    for join in (receiver, sender):
        with pytest.raises(kin.AddressError, match="no FIFO"):
            join(path)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(kin.AddressError):
        receiver(path)
    assert not (tmp_path / "nowhere").exists()
    path.unlink()
    target.unlink()


def swap_after(
    monkeypatch: pytest.MonkeyPatch, call: str, path: Path, swap: Callable[[], None]
) -> None:
    """Have somebody replace what is at the path right after our first such call on it."""
    real, swapped = getattr(os, call), []

    def then_swap(name: Any, *args: Any, **named: Any) -> Any:
        result = real(name, *args, **named)
        if name == str(path) and not swapped:
            swapped.append(True)
            os.unlink(path)
            swap()
        return result

    monkeypatch.setattr(os, call, then_swap)


@pytest.mark.parametrize("call", ["mkfifo", "open"])
def test_a_symlink_put_in_place_of_the_new_name_does_not_get_its_mode(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    precious = tmp_path / "precious"
    precious.touch(0o600)
    swap_after(monkeypatch, call, path, lambda: path.symlink_to(precious))
    with pytest.raises(kin.AddressError):
        receiver(path, mode=0o666)
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600
    path.unlink()


def test_what_is_put_in_place_between_the_look_and_the_opening(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_descriptors()
    target = tmp_path / "target"
    os.mkfifo(target, 0o600)
    os.mkfifo(path, 0o600)
    with monkeypatch.context() as patched:
        swap_after(patched, "lstat", path, lambda: path.symlink_to(target))
        with pytest.raises(OSError, match="symbolic links"):
            open_end(str(path), os.O_RDONLY)
    path.unlink()
    os.mkfifo(path, 0o600)
    with monkeypatch.context() as patched:
        swap_after(patched, "lstat", path, path.touch)
        with pytest.raises(kin.AddressError, match="no FIFO"):
            open_end(str(path), os.O_WRONLY)
    path.unlink()
    target.unlink()
    assert open_descriptors() == before


@pytest.mark.parametrize("kind", ["file", "directory", "device"])
def test_what_is_no_fifo_is_refused_unopened(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device needs root")
    opened: list[Any] = []
    real = os.open

    def watched(name: Any, *args: Any, **named: Any) -> int:
        opened.append(name)
        return real(name, *args, **named)

    monkeypatch.setattr(os, "open", watched)
    for join in (receiver, sender):
        with pytest.raises(kin.AddressError, match="no FIFO"):
            join(path)
    assert str(path) not in opened
    monkeypatch.undo()
    path.rmdir() if kind == "directory" else path.unlink()


def test_a_name_that_another_user_may_not_open(path: Path, foreign_user: User) -> None:
    path.parent.chmod(0o755)
    here = receiver(path)

    def other() -> None:
        with pytest.raises(PermissionError):
            open_end(str(path), os.O_WRONLY)

    foreign_user.run(other)
    here.leave()


# ------------------------------------------------------------------- when leaving is not that easy


def test_leaving_closes_whatever_stands_in_the_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = open_descriptors()
    here = receiver(path)
    with monkeypatch.context() as patched:
        patched.setattr(runtime_directory, "try_lock", none_left)
        assert not here.leave()
    assert open_descriptors() == before
    again = receiver(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", none_left)
        with pytest.raises(OSError, match="Too many"):
            again.leave()
    assert open_descriptors() == before
    receiver(path).leave()


def test_leaving_does_not_wait_for_ever_for_the_lock(path: Path) -> None:
    here = receiver(path)
    with runtime_directory.try_lock():
        assert not here.leave()
    assert path.exists()
    assert receiver(path).leave()


def test_an_end_that_can_not_become_a_member_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = open_descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(presence, "Membership", fail)
        with pytest.raises(OSError, match="No locks"):
            open_end(str(path), os.O_RDONLY, make=0o600)
    assert open_descriptors() == before
    receiver(path).leave()


def test_a_dropped_end_removes_its_name_too(path: Path) -> None:
    held = [open_end(str(path), os.O_RDONLY, make=0o600)]
    with pytest.warns(ResourceWarning, match="unclosed fifo"):
        held.clear()
    assert not path.exists()


def test_threads_join_and_leave_at_the_same_time(path: Path) -> None:
    keeper = receiver(path)
    barrier = threading.Barrier(4)

    def come_and_go() -> None:
        barrier.wait()
        for _ in range(20):
            sender(path).leave()

    for call in [Call(come_and_go) for _ in range(4)]:
        call.result()
    assert path.exists()
    assert keeper.leave()


# ------------------------------------------------------------------------ names without a directory


def test_a_name_without_a_path_of_its_own_lies_in_the_runtime_directory(unique_name: str) -> None:
    name = presence_path("mq", f"/{unique_name}?\udcff")
    directory = runtime_directory.path_name()
    assert os.path.dirname(name) == directory
    assert os.path.basename(name).isascii()
    here = finish(Presence.join_receiver(name))
    there = finish(Presence.join_sender(name))
    there.leave()
    assert here.leave()
    assert not os.path.exists(name)


def test_names_do_not_meet_and_fit(unique_name: str) -> None:
    names = ["/a/b", "/a%2Fb", "a/b", "@" + "\udcff" * 107, "@" + "\udcff" * 106, "n" * 254]
    paths = {presence_path(mechanism, name) for mechanism in ("mq", "x") for name in names}
    assert len(paths) == 2 * len(names)
    assert all(len(os.path.basename(path)) <= 255 for path in paths)


def test_a_sender_waits_for_a_directory_that_is_not_there_yet(unique_name: str) -> None:
    name = presence_path("mq", unique_name)
    call = Call(lambda: finish(Presence.join_sender(name)))
    here = finish(Presence.join_receiver(name))
    call.result().leave()
    here.leave()


def test_not_yet_is_without_a_trace(path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(NotYet):
        open_end(str(path), os.O_WRONLY)
    os.mkfifo(path)
    with pytest.raises(NotYet):
        open_end(str(path), os.O_WRONLY)
    path.unlink()
    assert open_descriptors() == before


def test_an_end_with_a_kept_name_never_removes_it(path: Path) -> None:
    end = open_end(str(path), os.O_RDWR, make=0o600, keep_name=True)
    assert isinstance(end, FifoEnd)
    assert not end.leave()
    assert path.exists()
    path.unlink()


def test_a_runtime_directory_that_is_taken_away_is_made_again(
    monkeypatch: pytest.MonkeyPatch, unique_name: str
) -> None:
    """By a cleaner of /dev/shm, who takes no lock: between the opening of the directory and the making of the FIFO."""
    making, taken = os.mkfifo, []

    def mkfifo(path: str, mode: int) -> None:
        if not taken:
            taken.append(path)
            raise FileNotFoundError(errno.ENOENT, "taken away", path)
        making(path, mode)

    monkeypatch.setattr(os, "mkfifo", mkfifo)
    with kin.open_receiver(f"mq:/{unique_name}", lifetime="peers") as receiver:
        assert taken
        assert receiver.limits.presence
