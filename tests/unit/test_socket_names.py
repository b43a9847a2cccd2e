"""Names of Unix sockets: made complete, replaced only when stale, removed by the last holder."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.channels import socket_names
from kinfolk.channels.address import parse
from kinfolk.deadlines import Deadline
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run
from tests.conformance.peers import HANG, Peers, state, thread_of, until
from tests.other_user import User

TYPES = {
    "stream": socket.SOCK_STREAM,
    "seqpacket": socket.SOCK_SEQPACKET,
    "dgram": socket.SOCK_DGRAM,
}


@pytest.fixture(params=TYPES)
def kind(request: pytest.FixtureRequest) -> int:
    return TYPES[request.param]


class Bound:
    """A socket with a name, as the mechanisms make it."""

    def __init__(self, path: object, kind: int = socket.SOCK_STREAM, **options) -> None:
        self.sock = socket.socket(socket.AF_UNIX, kind)
        backlog = None if kind == socket.SOCK_DGRAM else 8
        try:
            steps = socket_names.bind(self.sock, parse(f"unix:{path}", **options), backlog=backlog)
            self.name = run(steps, Turnstile("test", lambda: None), Deadline(HANG), "bind")
        except BaseException:
            self.sock.close()
            raise

    def close(self) -> None:
        self.sock.close()
        self.name.release()

    def __enter__(self) -> Bound:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def make_stale(path: Path, kind: int = socket.SOCK_STREAM) -> None:
    """What a killed server leaves behind."""
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(str(path))


# ------------------------------------------------------------------------------ making


def test_a_socket_can_be_connected_to_by_its_name(socket_path, kind):
    with Bound(socket_path, kind), socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(socket_path))


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [None, 0o600, 0o660, 0o666, 0o777, 0o000])
def test_the_mode_is_exact_whatever_the_umask(socket_path, umask, mask, mode):
    os.umask(mask)
    options = {} if mode is None else {"mode": mode}
    with Bound(socket_path, **options):
        assert stat.S_IMODE(os.stat(socket_path).st_mode) == (0o600 if mode is None else mode)


def test_the_temporary_name_never_has_more_permissions(socket_path, umask, monkeypatch):
    """The umask takes bits away from what was asked for, and never leaves others for an instant."""
    os.umask(0o000)
    modes = []
    plain = socket_names._set_mode

    def look(name: str, directory: int, mode: int) -> os.stat_result:
        modes.append(stat.S_IMODE(os.stat(name, dir_fd=directory).st_mode))
        return plain(name, directory, mode)

    monkeypatch.setattr(socket_names, "_set_mode", look)
    with Bound(socket_path):
        assert modes == [0o600]


def test_the_name_never_has_another_mode_nor_refuses(short_directory, umask):
    """Whoever sees the name sees it complete: its mode, and somebody listening."""
    os.umask(0o077)
    paths = [short_directory / str(number) for number in range(100)]
    seen: set[int] = set()

    def watch() -> None:
        for path in paths:
            with socket.socket(socket.AF_UNIX) as client:
                while client.connect_ex(str(path)) == errno.ENOENT:
                    pass
                seen.add(stat.S_IMODE(os.stat(path).st_mode))
                client.getpeername()  # fails when it was refused

    with thread_of(watch) as watching:
        bound = [Bound(path, mode=0o660) for path in paths]
        watching.result()
    for one in bound:
        one.close()
    assert seen == {0o660}


def test_a_directory_with_a_long_path_works_from_nearby(short_directory, monkeypatch):
    deep = short_directory / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    with Bound("s"):
        assert stat.S_ISSOCK(os.stat(deep / "s").st_mode)
        with kin.connect("unix:s", timeout=HANG):
            pass
        os.chdir("/")  # the name is removed where it was made
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize("length", [107, 108, 200])
def test_the_length_of_a_path_is_checked(short_directory, length):
    path = str(short_directory) + "/" + "x" * (length - len(str(short_directory)) - 1)
    if length <= 107:
        with Bound(path), socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        return
    for opening in (kin.listen, kin.connect, kin.open_sender, kin.open_receiver):
        with pytest.raises(kin.AddressError, match=rf"{length} bytes.*107.*shorter"):
            opening(f"unix:{path}", timeout=HANG)
    assert list(short_directory.iterdir()) == []


def test_bytes_that_are_no_text_are_a_name(short_directory):
    raw = os.fsencode(short_directory) + b"/\xff\xfe"
    with Bound(f"{short_directory}/%FF%FE"), socket.socket(socket.AF_UNIX) as client:
        client.connect(raw)


@pytest.mark.parametrize("name", ["", "@"])
def test_a_name_is_needed(name):
    with pytest.raises(kin.AddressError, match="name is missing"):
        kin.listen(f"unix:{name}")


def test_a_missing_directory_is_named(short_directory):
    with pytest.raises(kin.NotFound, match="no such directory"):
        Bound(short_directory / "none" / "s")


# ---------------------------------------------------------------------- what is there already


def test_a_stale_name_is_replaced(socket_path, kind):
    make_stale(socket_path, kind)
    before = os.stat(socket_path).st_ino
    with Bound(socket_path, kind) as bound:
        assert os.stat(socket_path).st_ino == bound.name.inode != before


def test_the_name_of_a_killed_process_is_replaced(socket_path, peers: Peers):
    def serve(voice):
        with Bound(socket_path):
            voice.say()
            signal.pause()

    server = peers.fork(serve)
    server.hear()
    with pytest.raises(kin.Busy):
        Bound(socket_path)
    server.kill()
    with Bound(socket_path):
        pass


@pytest.mark.parametrize("other", TYPES)
def test_a_live_name_is_never_replaced(socket_path, kind, other):
    with Bound(socket_path, kind) as living:
        with pytest.raises(kin.Busy, match="live socket"):
            Bound(socket_path, TYPES[other])
        assert os.stat(socket_path).st_ino == living.name.inode


def test_a_socket_that_does_not_listen_yet_is_live(socket_path):
    with socket.socket(socket.AF_UNIX) as coming:
        coming.bind(str(socket_path))
        with pytest.raises(kin.Busy):
            Bound(socket_path)
    socket_path.unlink()


def test_a_connected_datagram_socket_is_live(short_directory):
    path = short_directory / "s"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as living,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        living.bind(str(path))
        other.bind(str(short_directory / "other"))
        living.connect(str(short_directory / "other"))
        with pytest.raises(kin.Busy):
            Bound(path)


def test_asking_is_not_connecting(socket_path):
    """A probe that connected would be taken for a client (a sender that came and left)."""
    with Bound(socket_path) as living:
        with pytest.raises(kin.Busy):
            Bound(socket_path)
        living.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            living.sock.accept()


@pytest.mark.parametrize("what", ["file", "directory", "fifo", "symlink", "dangling"])
def test_what_is_no_socket_is_never_touched(short_directory, what):
    path = short_directory / "s"
    target = short_directory / "target"
    if what == "file":
        path.write_text("precious")
    elif what == "directory":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "symlink":
        make_stale(target)  # following it would find a stale socket
        path.symlink_to(target)
    else:
        path.symlink_to(target)
    before = os.lstat(path).st_ino
    with pytest.raises(kin.AddressError, match=r"not a socket.*choose another name"):
        Bound(path)
    assert os.lstat(path).st_ino == before
    assert target.exists() == (what == "symlink")
    assert not [entry for entry in short_directory.iterdir() if entry.name.startswith(".")]


def test_another_users_name_is_refused(short_directory, foreign_user: User):
    os.chmod(short_directory, 0o777)
    path = short_directory / "s"
    foreign_user.run(make_stale, path)
    with pytest.raises(kin.UntrustedPeer, match="belongs to user"):
        Bound(path)
    assert path.exists()
    os.unlink(path)
    make_stale(path)

    def bind_there() -> None:
        Bound(path)

    with pytest.raises(kin.UntrustedPeer, match="belongs to user 0"):
        foreign_user.run(bind_there)


def test_of_eight_that_bind_at_once_one_wins(socket_path, peers: Peers):
    def contend(voice):
        voice.hear()
        try:
            bound = Bound(socket_path)
        except kin.Busy:
            voice.say("busy")
            return
        voice.say("won")
        voice.hear()
        bound.close()

    for round_ in range(10):
        if round_ % 2:
            make_stale(socket_path)
        contenders = [peers.fork(contend) for _ in range(8)]
        for one in contenders:
            one.say()
        answers = [one.hear() for one in contenders]
        assert sorted(answers) == ["busy"] * 7 + ["won"]
        winner = contenders[answers.index("won")]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(socket_path))
        winner.say()
        for one in contenders:
            one.result()
        assert not socket_path.exists()


def test_looking_and_replacing_are_one_step(socket_path, peers: Peers, monkeypatch):
    """Who finds a stale name and is slow to replace it does not replace the live one of somebody quicker."""
    plain = socket_names._has_holder

    def slowly(path: str) -> bool:
        held = plain(path)
        time.sleep(0.1)  # long enough for the others to look too, if they may
        return held

    def contend(voice):
        voice.hear()
        try:
            bound = Bound(socket_path)
        except kin.Busy:
            voice.say("busy")
            return
        voice.say("won")
        voice.hear()
        bound.close()

    monkeypatch.setattr(socket_names, "_has_holder", slowly)
    make_stale(socket_path)
    contenders = [peers.fork(contend) for _ in range(3)]
    for one in contenders:
        one.say()
    answers = [one.hear() for one in contenders]
    assert sorted(answers) == ["busy", "busy", "won"]
    contenders[answers.index("won")].say()
    for one in contenders:
        one.result()


# ---------------------------------------------------------------------------------- removing


def test_closing_removes_the_name(socket_path, kind):
    Bound(socket_path, kind).close()
    assert not socket_path.exists()


def test_a_name_that_is_another_sockets_by_now_stays(socket_path):
    bound = Bound(socket_path)
    socket_path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(socket_path))
        bound.close()
        assert socket_path.exists()
        bound.name.unlink()
        assert socket_path.exists()
    socket_path.unlink()


@pytest.mark.parametrize("first", ["child", "parent"])
def test_the_last_holder_removes_the_name(socket_path, peers: Peers, first):
    bound = Bound(socket_path)

    def hold(voice):
        voice.hear()
        bound.close()
        voice.say(socket_path.exists())

    copy = peers.fork(hold)
    if first == "child":
        copy.say()
        assert copy.hear(), "a forked copy removed its parent's name"
        bound.close()
    else:
        bound.close()
        assert socket_path.exists(), "the name of a living copy was removed"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(socket_path))
        copy.say()
        assert not copy.hear()
    assert not socket_path.exists()


def test_unlink_on_demand(socket_path):
    with Bound(socket_path) as bound:
        bound.name.unlink()
        assert not socket_path.exists()
        bound.name.unlink()


# ---------------------------------------------------------------------------- abstract names


def test_abstract_names(unique_name, kind):
    with Bound(f"@{unique_name}", kind) as bound:
        with pytest.raises(kin.Busy):
            Bound(f"@{unique_name}", kind)
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.connect(f"\0{unique_name}")
        with pytest.raises(kin.Unsupported, match="vanishes"):
            bound.name.unlink()
    with Bound(f"@{unique_name}", kind):
        pass


def test_an_abstract_name_has_no_mode(unique_name):
    with pytest.raises(kin.AddressError, match="no mode"):
        kin.listen(f"unix:@{unique_name}", mode=0o660)


# --------------------------------------------------------------------------------- connecting


def test_waiting_for_a_name(socket_path):
    with thread_of(kin.connect, f"unix:{socket_path}", timeout=HANG) as call:
        with kin.listen(f"unix:{socket_path}") as listener, listener.accept(timeout=HANG):
            call.result().close()


def test_waiting_behind_a_stale_name(socket_path):
    make_stale(socket_path)
    with pytest.raises(kin.Timeout):
        kin.connect(f"unix:{socket_path}", timeout=0.05)
    with thread_of(kin.connect, f"unix:{socket_path}", timeout=HANG) as call:
        with kin.listen(f"unix:{socket_path}") as listener, listener.accept(timeout=HANG):
            call.result().close()


def test_waiting_for_a_program_between_bind_and_listen(socket_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(socket_path))
        with thread_of(kin.connect, f"unix:{socket_path}", timeout=HANG) as call:
            until(lambda: state(os.getpid(), call.thread.native_id) == "S", "waiting")
            server.listen()
            call.result().close()
    socket_path.unlink()


def test_connecting_to_what_is_no_socket(short_directory):
    path = short_directory / "s"
    path.write_text("")
    with pytest.raises(kin.AddressError, match="not a socket"):
        kin.connect(f"unix:{path}", timeout=HANG)


def test_connecting_to_a_socket_of_another_type(socket_path):
    with Bound(socket_path, socket.SOCK_DGRAM):
        with pytest.raises(kin.AddressError, match="another type"):
            kin.connect(f"unix:{socket_path}", timeout=HANG)


def test_the_directory_of_a_socket_may_go_away(short_directory):
    inner = short_directory / "inner"
    inner.mkdir()
    bound = Bound(inner / "s")
    shutil.rmtree(inner)
    bound.close()
