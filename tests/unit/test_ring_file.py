"""A ring in a file: what is at the path, what outlives everybody, who takes over what the dead had."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import struct

import pytest

import kinfolk as kin
from kinfolk._native import unshare
from tests.conformance.peers import HANG, Peers

np = pytest.importorskip("numpy")

SMALL = "?capacity=4096&arena=64K"
MOST = 32 << 10

#: native/sync_object.h, native/ring_layout.h
BOOT, NAMESPACE, GUARD, SENDERS, RECEIVERS = 24, 40, 64, 256, 512
CLONE_NEWPID = 0x20000000


@pytest.fixture
def path(short_directory):
    return short_directory / "ring"


@pytest.fixture
def address(path):
    return f"file:{path}{SMALL}"


@pytest.fixture
def peers():
    children = Peers()
    yield children
    children.end()


def patch(path, at, what):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(what)


def whole_arena(sender):
    """Whether all of the arena can be had: half of it twice."""
    try:
        with sender.reserve(MOST, timeout=0), sender.reserve(MOST, timeout=0):
            raise InterruptedError
    except kin.Timeout:
        return False
    except InterruptedError:
        return True


# ── what outlives ────────────────────────────────────────────────────────────────────────────


def test_what_was_sent_outlives_everybody(address, peers):
    def sending(voice):
        with kin.open_receiver(address), kin.open_sender(address) as sender:
            sender.send_many(range(20))
            sender.send({"frame": np.arange(2000), "t": 1.0})
            sender.send(b"last")

    peers.fork(sending).result()
    with kin.open_receiver(address) as receiver:
        assert [receiver.recv(timeout=0) for _ in range(20)] == list(range(20))
    with kin.open_receiver(address) as receiver:  # and who takes some leaves the others
        frame = receiver.recv(timeout=0)
        assert np.array_equal(frame["frame"], np.arange(2000))
        assert receiver.recv(timeout=0) == b"last"


def test_nobodys_exit_is_an_end(address):
    with kin.open_receiver(address) as receiver:
        kin.open_sender(address).close()
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.01)
    with kin.open_sender(address, timeout=0) as sender:  # without any receiver
        while True:
            try:
                sender.send(b"x" * 500, timeout=0)
            except kin.Timeout:
                break
        assert sender.statistics().depth
        assert not sender.limits.presence


@pytest.mark.parametrize("reboots", [False, True])
def test_what_nobody_acknowledged_comes_again(address, path, peers, reboots):
    def working(voice):
        with kin.open_receiver(address, acknowledge=True) as receiver:
            with kin.open_sender(address) as sender:
                sender.send_many(["done", "begun", "untouched"])
            receiver.recv_message().acknowledge()
            held = receiver.recv_message()
            voice.say(held.object)
            signal.pause()

    peer = peers.fork(working)
    assert peer.hear() == "begun"
    os.kill(peer.pid, signal.SIGKILL)
    peer.wait()
    if reboots:
        patch(path, BOOT, os.urandom(16))
    with kin.open_receiver(address, acknowledge=True, timeout=0) as receiver:
        got = {}
        for _ in range(2):
            with receiver.recv_message(timeout=HANG) as message:
                got[message.object] = message.redelivered
        assert got == {"begun": True, "untouched": False}
        with kin.open_sender(address) as sender:
            assert whole_arena(sender)
        with pytest.raises(kin.Timeout):
            receiver.recv_message(timeout=0)


def test_terms_are_those_of_who_made_it(address):
    kin.open_receiver(address).close()
    with pytest.raises(kin.UsageError, match="terms"):
        kin.open_receiver(address, acknowledge=True)
    with pytest.raises(kin.AddressError, match="receivers"):
        kin.open_sender(address, acknowledge=True)
    with kin.open_sender(address) as sender:
        sender.send("and it is as good as it was")
    with kin.open_receiver(address) as receiver:
        assert receiver.recv(timeout=0)


def test_the_file_goes_by_unlink_alone(address, path):
    receiver, sender = kin.channel(address)
    with receiver, sender:
        sender.send("here")
        sender.unlink()
        assert not path.exists()
        with pytest.raises(kin.NotFound):
            receiver.unlink()
        assert receiver.recv(timeout=0) == "here"
        sender.send("the file has no name, and is there")
        with kin.open_receiver(address) as another:
            with pytest.raises(kin.NotFound, match="gone"):
                receiver.unlink()  # it is another's name by now
            with pytest.raises(kin.Timeout):
                another.recv(timeout=0)
            assert receiver.recv(timeout=0).startswith("the file")
            another.unlink()


def test_removed_under_both_sides_by_somebody_else(address, path, peers):
    def sending(voice):
        with kin.open_sender(address) as sender:
            voice.say()
            for number in range(1000):
                sender.send(number, timeout=HANG)

    with kin.open_receiver(address) as receiver:
        peer = peers.fork(sending)
        peer.hear()
        path.unlink()
        assert [receiver.recv(timeout=HANG) for _ in range(1000)] == list(range(1000))
        peer.result()
        with pytest.raises(kin.Timeout):
            kin.open_sender(address, timeout=0.05)


def test_ends_are_passed_and_cloned(address, path):
    receiver, sender = kin.channel(address)
    with receiver, sender, sender.clone() as second, receiver.clone() as other:
        second.send(1)
        assert other.recv(timeout=0) == 1
        second.unlink()
        assert not path.exists()


def test_a_path_is_from_the_directory_where_it_was_opened(short_directory, monkeypatch):
    monkeypatch.chdir(short_directory)
    with kin.open_receiver(f"file:here{SMALL}") as receiver:
        assert (short_directory / "here").exists()
        monkeypatch.chdir("/")
        receiver.unlink()
    assert not (short_directory / "here").exists()


# ── addresses ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["", "/", "/tmp/", "/tmp/.."])
def test_what_is_no_path(name):
    with pytest.raises(kin.AddressError):
        kin.open_receiver(f"file:{name}")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("?lifetime=peers", kin.AddressError),
        ("?mode=0640", kin.UntrustedPeer),
        ("?depth=3", kin.AddressError),
        ("?capacity=32G", kin.AddressError),
    ],
)
def test_options_that_it_does_not_take(path, options, error):
    with pytest.raises(error) as caught:
        kin.open_receiver(f"file:{path}{options}")
    assert caught.value.remedy
    assert not path.exists()


def test_it_goes_one_way(address):
    with pytest.raises(kin.Unsupported, match="one way"):
        kin.pair(address)


def test_without_a_directory(short_directory):
    with pytest.raises(kin.NotFound, match="no directory"):
        kin.open_receiver(f"file:{short_directory}/none/ring")
    (short_directory / "file").write_text("")
    with pytest.raises(kin.NotFound, match="no directory"):
        kin.open_receiver(f"file:{short_directory}/file/ring")


# ── what is there already ────────────────────────────────────────────────────────────────────


def alien_files(path):
    yield b""
    yield b"a letter\n"
    yield bytes(1 << 20)
    yield b"kinsynk1"
    yield b"kinsynk1" + bytes(1 << 16)
    with kin.SharedMemory.create(f"file:{path}", size=8192) as memory:
        memory.unlink()
        mutex = kin.Mutex.inside(memory)
        whole = bytes(memory.buf)
        mutex.close()
    yield whole


@pytest.mark.parametrize("opening", [kin.open_receiver, kin.open_sender])
def test_what_is_no_ring_is_not_changed(path, opening):
    for what in alien_files(path.with_name("memory")):
        path.write_bytes(what)
        os.utime(path, (1, 1))
        with pytest.raises(kin.CorruptChannel) as caught:
            opening(f"file:{path}", timeout=0)
        assert caught.value.why, what[:40]
        assert path.read_bytes() == what
        assert path.stat().st_mtime == 1


def test_what_is_no_file(path):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("elsewhere", path)):
        make(path)
        for opening in (kin.open_receiver, kin.open_sender):
            with pytest.raises(kin.AddressError, match=r"no file|symbolic link"):
                opening(f"file:{path}", timeout=0)
        path = path.with_name("next" + path.name)


def test_a_link_to_a_ring_is_not_followed(address, path):
    with kin.open_receiver(address):
        path.with_name("link").symlink_to(path)
        with pytest.raises(kin.AddressError, match="not followed"):
            kin.open_sender(f"file:{path.with_name('link')}", timeout=0)


def test_another_users_ring(path, address, foreign_user):
    path.parent.chmod(0o1777)
    foreign_user.run(lambda: kin.open_receiver(address).close())
    if os.geteuid() == 0:  # whom no permission keeps out
        for opening in (kin.open_receiver, kin.open_sender):
            with pytest.raises(kin.UntrustedPeer, match="belongs to user"):
                opening(address, timeout=0)
    path.unlink()
    kin.open_receiver(address).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises((kin.AccessDenied, kin.UntrustedPeer)):
        foreign_user.run(lambda: kin.open_sender(address, timeout=0).close())
    path.chmod(0o666)  # somebody who opens it to all is told so
    with pytest.raises(kin.UntrustedPeer, match="may write"):
        kin.open_receiver(address)


def test_in_a_directory_that_may_not_be_written(path, address, as_plain_user):
    path.parent.chmod(0o1777)
    as_plain_user.run(lambda: kin.open_receiver(address).close())
    path.parent.chmod(0o555)

    def go_on():
        with kin.open_receiver(address) as receiver, kin.open_sender(address) as sender:
            sender.send("what is there is used")
            return receiver.recv(timeout=0)

    try:
        assert as_plain_user.run(go_on).startswith("what")
        with pytest.raises(kin.AccessDenied):
            as_plain_user.run(lambda: kin.open_receiver(f"{address.replace('ring', 'new')}"))
    finally:
        path.parent.chmod(0o700)


def test_a_file_that_was_cut_short(address, path):
    kin.open_receiver(address).close()
    size = path.stat().st_size
    for left in (size - 1, size // 2, 5000, 4096, 100, 8):
        os.truncate(path, left)
        with pytest.raises(kin.CorruptChannel, match=f"shorter, to {left} bytes"):
            kin.open_sender(address, timeout=0)
    assert path.stat().st_size == 8


def test_a_longer_file_is_the_same_ring(address, path):
    receiver, sender = kin.channel(address)
    with receiver, sender:
        sender.send(1)
    os.truncate(path, path.stat().st_size + 12345)
    with kin.open_receiver(address) as receiver:
        assert receiver.recv(timeout=0) == 1


# ── who takes over ───────────────────────────────────────────────────────────────────────────


def left_behind(peers, address):
    """A message in a block, and processes killed that had all the rest."""

    def hoarding(voice):
        with kin.open_sender(address) as sender:
            sender.send(np.zeros(MOST // 2, "u1"))
            with sender.reserve(MOST), sender.reserve(MOST // 2 - 4096):
                voice.say()
                signal.pause()

    with kin.open_receiver(address):
        hoarder = peers.fork(hoarding)
        hoarder.hear()
    os.kill(hoarder.pid, signal.SIGKILL)
    hoarder.wait()


def test_blocks_of_the_dead_are_free_when_it_is_opened(peers, address):
    left_behind(peers, address)
    with kin.open_receiver(address) as receiver, kin.open_sender(address) as sender:
        with pytest.raises(InterruptedError), sender.reserve(MOST, timeout=0):
            raise InterruptedError
        assert len(receiver.recv(timeout=0)) == MOST // 2
        assert whole_arena(sender)


def test_after_a_reboot(peers, address, path):
    """Another boot's id; locks of threads whose numbers others have by now."""
    left_behind(peers, address)
    patch(path, BOOT, os.urandom(16))
    for lock in (GUARD, SENDERS, RECEIVERS):
        patch(path, lock, struct.pack("=I", os.getpid()))
    with kin.open_receiver(address) as receiver, kin.open_sender(address) as sender:
        sender.send("later", timeout=HANG)
        assert len(receiver.recv(timeout=HANG)) == MOST // 2
        assert receiver.recv(timeout=HANG) == "later"
        assert whole_arena(sender)


@pytest.mark.parametrize("at", [BOOT, NAMESPACE])
def test_what_others_have_open_elsewhere_is_not_taken_over(address, path, at):
    with kin.open_receiver(address):
        before = path.read_bytes()[at : at + 8]
        patch(path, at, b"otherone")
        with pytest.raises(kin.CorruptChannel, match=r"another machine|pid namespace") as caught:
            kin.open_sender(address, timeout=0)
        assert caught.value.remedy
        assert path.read_bytes()[at : at + 8] == b"otherone"
        patch(path, at, before)
    patch(path, at, b"otherone")  # and now nobody has
    with kin.open_sender(address, timeout=0) as sender:
        sender.send("taken over", timeout=0)


def test_views_keep_it_from_being_taken_over(address, path):
    receiver, sender = kin.channel(address)
    with receiver, sender:
        sender.send(np.arange(3000))
        array = receiver.recv(timeout=0)
    patch(path, BOOT, b"another boot's..")
    with pytest.raises(kin.CorruptChannel):
        kin.open_receiver(address)
    assert array[2999] == 2999
    del array
    kin.open_receiver(address).close()


def test_in_a_container_that_was_started_anew(address, path, peers):
    def in_a_namespace(voice):
        try:
            unshare(CLONE_NEWPID)
        except OSError:
            return None
        child = Peers()
        try:
            return child.fork(use).result()
        finally:
            child.end()

    def use(voice):
        try:
            with kin.open_receiver(address) as receiver, kin.open_sender(address) as sender:
                got = receiver.recv(timeout=0)
                sender.send(got + 1)
                return got
        except kin.CorruptChannel as error:
            return str(error)

    receiver, sender = kin.channel(address)
    with receiver, sender:
        sender.send(1)
        refused = peers.fork(in_a_namespace).result()
        if refused is None:
            pytest.skip("needs the right to make a pid namespace")
        assert "pid namespace" in refused
    assert peers.fork(in_a_namespace).result() == 1
    assert peers.fork(in_a_namespace).result() == 2
    with kin.open_receiver(address) as receiver:
        assert receiver.recv(timeout=0) == 3


def test_a_copy_made_while_it_is_used(address, path):
    """It has locks and rows of processes that live, and use another file."""
    receiver, sender = kin.channel(address)
    with receiver, sender, sender.reserve(MOST) as view:
        sender.send("in both")
        view[:] = bytes(MOST)
        shutil.copyfile(path, path.with_name("copy"))
    path.with_name("copy").chmod(0o600)
    patch(path.with_name("copy"), SENDERS, struct.pack("=I", os.getpid()))
    copy = f"file:{path.with_name('copy')}"
    with kin.open_receiver(copy) as receiver, kin.open_sender(copy) as sender:
        assert receiver.recv(timeout=0) == "in both"
        sender.send(1, timeout=HANG)
        assert receiver.recv(timeout=0) == 1
        assert whole_arena(sender)


def test_a_sparse_copy_gets_its_space_back(address, path):
    kin.open_receiver(address).close()
    before = path.stat().st_blocks
    content = path.read_bytes()
    path.unlink()
    with open(path, "wb") as file:
        for at in range(0, len(content), 4096):
            if content[at : at + 4096] != bytes(4096):
                file.seek(at)
                file.write(content[at : at + 4096])
        file.truncate(len(content))
    path.chmod(0o600)
    assert path.stat().st_blocks < before
    kin.open_receiver(address).close()
    assert path.stat().st_blocks >= before


def test_all_come_at_once(address, peers):
    """Made once, taken over once; nobody is turned away."""

    def opening(voice):
        voice.hear()
        with kin.open_receiver(address, timeout=HANG), kin.open_sender(address) as sender:
            sender.send(os.getpid())

    for _ in range(5):
        crowd = [peers.fork(opening) for _ in range(6)]
        for peer in crowd:
            peer.say()
        for peer in crowd:
            peer.result()
        with kin.open_receiver(address) as receiver:
            got = {receiver.recv(timeout=0) for _ in crowd}
            assert got == {peer.pid for peer in crowd}
