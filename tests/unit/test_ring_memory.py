"""The memory of a ring and its name: of what size, when it is full, gone, another user's; and a receiver that is stopped."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk._native import Ring
from kinfolk.channels import ring_memory, ring_transport
from kinfolk.sync.findings import Finding
from kinfolk.watcher import core
from tests.conformance.peers import HANG, Peers, state, until
from tests.leaks.cycles import growth
from tests.namespaces import CLONE_NEWNS, in_namespaces, mount_shared_memory
from tests.other_user import User

PAGE = 4096
SIZES = "capacity=4096&arena=64K"


@pytest.fixture
def peers():
    started = Peers()
    yield started
    started.end()


def directory() -> Path:
    return Path(f"/dev/shm/kinfolk-{os.geteuid()}")


# ── what is found by the name ────────────────────────────────────────────────────────────────


def test_a_name_stands_for_a_ring_from_the_first_moment(unique_name: str) -> None:
    """A sender that comes when the receiver has not opened it yet must not put his own sizes into blank memory."""
    memory = ring_memory.make_or_open(unique_name, 4096, 1 << 16, True, "ring")
    try:
        sender = Ring(True)
        mapping = ring_memory.mapped(memory)
        found = sender.open(mapping, memory.fileno(), 1 << 20, 256 << 20, False, core())
        assert found == Finding.SOUND
        assert (sender.capacity, sender.arena, sender.acknowledged) == (4096, 1 << 16, True)
        sender.close()
    finally:
        (directory() / f"memory-of-ring-{unique_name}").unlink()
        memory.close()
        with contextlib.suppress(OSError):
            directory().rmdir()


def test_what_lies_there_and_is_no_ring_is_refused_unchanged(unique_name: str) -> None:
    with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):
        path = directory() / f"memory-of-ring-{unique_name}"
        sound = path.read_bytes()
        path.write_bytes(b"something else " * 1000)
        with pytest.raises(kin.CorruptChannel):
            kin.open_sender(f"ring:{unique_name}", timeout=HANG)
        assert path.read_bytes() == b"something else " * 1000
        path.write_bytes(sound)


# ── full ─────────────────────────────────────────────────────────────────────────────────────


def use_with(pages: int) -> tuple[int, int]:
    """Open, send and receive with a /dev/shm of so many pages: how many messages came, and how often there was no space."""
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    mount_shared_memory(f"size={pages * PAGE},mode=1777")
    came = refused = 0
    try:
        with (
            kin.open_receiver(f"ring:full?{SIZES}") as receiver,
            kin.open_sender("ring:full", timeout=HANG) as sender,
        ):
            for size in (10, 900, 5000, 20_000, 32_000, 3000, 10):
                try:
                    sender.send_bytes(bytes(size), timeout=HANG)
                except kin.NoSpace as error:
                    assert error.errno == errno.ENOSPC
                    refused += 1
                else:
                    assert receiver.recv_bytes(timeout=HANG) == bytes(size)
                    came += 1
    except kin.NoSpace:
        refused += 100
    assert list(Path("/dev/shm").rglob("ring-*")) == []
    return came, refused


def test_a_full_one_is_no_space_at_every_step(peers: Peers) -> None:
    outcomes = [
        in_namespaces(peers, CLONE_NEWNS, functools.partial(use_with, pages))
        for pages in range(1, 26)
    ]
    assert outcomes[0] == (0, 100), "there is no room for a ring"
    assert any(0 < refused < 100 for _, refused in outcomes), "nor for some blocks"
    assert outcomes[-1] == (7, 0)
    assert sorted(came for came, _ in outcomes) == [came for came, _ in outcomes]


def refused_with(size: str, address: str) -> str:
    """What is said where /dev/shm has so much."""
    mount_shared_memory(f"size={size},mode=1777")
    with pytest.raises(kin.NoSpace) as caught:
        kin.channel(address)
    return str(caught.value)


def test_what_is_asked_for_and_what_is_free_is_said(peers: Peers) -> None:
    use = functools.partial(refused_with, "64K", "ring:full?capacity=1M")
    said = in_namespaces(peers, CLONE_NEWNS, use)
    assert re.search(r"asked for 1\d{6}, free \d+, /dev/shm has 65536 in all", said)
    assert "--shm-size" in said


@pytest.mark.parametrize("address", ["ring:", "ring:full"])
def test_a_limit_on_file_sizes_is_named(address: str, peers: Peers) -> None:
    def use(_: Any) -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, resource.RLIM_INFINITY))
        with pytest.raises(kin.LimitReached) as caught:
            kin.channel(address)
        return caught.value.remedy

    assert "ulimit -f" in peers.fork(use).result()


def test_without_asking_first_it_is_a_sigbus(peers: Peers, monkeypatch: Any) -> None:
    """The negative control: with its size alone."""
    monkeypatch.setattr(ring_memory, "reserve", lambda *_: None)

    def use() -> int:
        pid = os.fork()
        if pid == 0:
            use_with(2)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_namespaces(peers, CLONE_NEWNS, use) == -signal.SIGBUS


# ── gone, and another user's ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", ["memory", "presence", "both"])
def test_names_that_are_removed_under_both_sides(what: str, unique_name: str) -> None:
    with (
        kin.open_receiver(f"ring:{unique_name}?{SIZES}") as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        if what != "presence":
            (directory() / f"memory-of-ring-{unique_name}").unlink()
        if what != "memory":
            (directory() / f"ring-{unique_name}").unlink()
        for size in (10, 20_000):
            sender.send_bytes(bytes(size), timeout=HANG)
            assert receiver.recv_bytes(timeout=HANG) == bytes(size)
        sender.close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
    # Whoever comes later makes another one.
    with (
        kin.open_receiver(f"ring:{unique_name}?{SIZES}") as receiver,
        kin.open_sender(f"ring:{unique_name}") as sender,
    ):
        sender.send("anew")
        assert receiver.recv(timeout=HANG) == "anew"
    assert not list(Path("/dev/shm").glob(f"kinfolk-*/*{unique_name}"))


def test_a_user_does_not_meet_another_one(unique_name: str, foreign_user: User) -> None:
    with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):

        def open_theirs() -> None:
            with pytest.raises(kin.Timeout):
                kin.open_sender(f"ring:{unique_name}", timeout=0.05)
            with pytest.raises(PermissionError):
                os.listdir("/dev/shm/kinfolk-0")

        foreign_user.run(open_theirs)


def test_memory_of_another_user_is_refused(unique_name: str, foreign_user: User) -> None:
    assert foreign_user.uid is not None
    with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):
        path = directory() / f"memory-of-ring-{unique_name}"
        os.chown(path, foreign_user.uid, -1)
        with pytest.raises(kin.UntrustedPeer, match=str(foreign_user.uid)):
            kin.open_sender(f"ring:{unique_name}", timeout=HANG)
        os.chown(path, 0, -1)


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_memory_that_others_may_write_is_refused(mode: int, unique_name: str) -> None:
    with kin.open_receiver(f"ring:{unique_name}?{SIZES}"):
        path = directory() / f"memory-of-ring-{unique_name}"
        path.chmod(mode)
        with pytest.raises(kin.UntrustedPeer, match="may write") as caught:
            kin.open_sender(f"ring:{unique_name}", timeout=HANG)
        assert "codec" not in str(caught.value)  # no codec would help
        path.chmod(0o600)
    with pytest.raises(kin.UntrustedPeer):
        kin.open_receiver(f"ring:{unique_name}?mode=0660")


# ── stopped ──────────────────────────────────────────────────────────────────────────────────


def test_others_go_on_while_a_receiver_is_stopped(peers: Peers) -> None:
    receiver, sender = kin.channel(f"ring:?{SIZES}")
    with receiver, sender:

        def receive(voice: Any) -> int:
            sender.close()
            voice.say("ready")
            return sum(1 for _ in receiver)

        stopped, other = (peers.fork(receive) for _ in range(2))
        receiver.close()
        for peer in (stopped, other):
            peer.hear()
            peer.until_asleep()
        stopped.signal(signal.SIGSTOP)
        until(lambda: state(stopped.pid) == "T", "stopped")
        for number in range(2000):  # many times what fits
            sender.send_bytes(bytes(number % 20 * (1500 if number % 7 == 0 else 40)), timeout=HANG)
        until(lambda: sender.statistics().depth == 0, "received by the other one")
        stopped.signal(signal.SIGCONT)
        sender.close()
        assert stopped.result() + other.result() == 2000


# ── often ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rounds", [200, pytest.param(5000, marks=pytest.mark.soak)])
def test_opened_used_and_closed_often(rounds: int, peers: Peers, unique_name: str) -> None:
    """With messages in blocks, which are looked at after the ends were closed."""

    def round_() -> None:
        receiver = kin.open_receiver(f"ring:{unique_name}?{SIZES}")
        sender = kin.open_sender(f"ring:{unique_name}")
        with sender.reserve(20_000) as view:
            view[:3] = b"abc"
        del view
        got = receiver.recv(timeout=HANG)
        sender.send_bytes(bytes(5000))
        sender.close()
        receiver.close()
        assert bytes(got[:3]) == b"abc"

    def measure(_: Any) -> dict[str, Any]:
        growth(round_, rounds)  # caches fill for a long time
        return growth(round_, rounds)

    found = peers.fork(measure).result()
    assert found.pop("resident") < 768 << 10
    assert found.pop("allocated") < 6 << 10
    assert not found


def test_no_name_has_the_memory_of_another_one(unique_name):
    """Whatever a ring is called: `memory-of-…`, too."""
    with (
        kin.open_receiver(f"ring:{unique_name}") as one,
        kin.open_receiver(f"ring:memory-{unique_name}") as other,
        kin.open_receiver(f"ring:memory-of-ring-{unique_name}") as third,
    ):
        for number, name in enumerate(("", "memory-", "memory-of-ring-")):
            with kin.open_sender(f"ring:{name}{unique_name}") as sender:
                sender.send(number)
        assert [each.recv() for each in (one, other, third)] == [0, 1, 2]


def test_a_timeout_of_a_signal_handler_is_not_taken_for_a_failure_to_watch(
    monkeypatch: Any,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise TimeoutError("of a signal handler")

    receiver, sender = kin.channel("ring:")
    with receiver, sender:
        with monkeypatch.context() as patched:
            patched.setattr(ring_transport, "watching", interrupted)
            with pytest.raises(TimeoutError, match="of a signal handler"):
                sender.send({}, timeout=0)
        sender.send("afterwards")
        assert receiver.recv(timeout=0) == "afterwards"
