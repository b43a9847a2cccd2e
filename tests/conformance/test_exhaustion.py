"""What runs out: descriptors at every opening and in use, the bytes of queues, the inodes of a disk.

Rules that are tested everywhere:
1. It is LimitReached or NoSpace, with a remedy; never a bare OSError, never a hang.
2. What failed leaves nothing: no descriptor, no name, no object of the kernel.
3. With room again, the same channel, or the same call, works.
(What is left in the kernel is found by `tests.leak_check` at the end of the run.)

Each test runs in a peer, whose limits may be lowered.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.channels.queue_limits import RLIMIT_MSGQUEUE
from tests.conformance.fixtures import main_ways, only
from tests.conformance.link import Link
from tests.conformance.peers import HANG, Call, Peers, open_descriptors, thread_of
from tests.conformance.test_messages import pattern
from tests.conftest import start_what_stays
from tests.namespaces import CLONE_NEWNS, enter, mount_memory

MOST = 24  # descriptors that opening one end may need
WATCHER = 2  # descriptors of the one watcher of a process, which stay


@contextlib.contextmanager
def room_for(count: int) -> Iterator[None]:
    """As long as the block runs, this process can open so many descriptors more, and then gets EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fill = [os.open("/", os.O_PATH | os.O_CLOEXEC)]
    while fill[-1] <= highest:  # the gaps first
        fill.append(os.dup(fill[-1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fill[-1] + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fill:
            os.close(fd)


def openings(link: Link) -> Iterator[Callable[[], Any]]:
    """The calls that make this channel, one after the other; each gives one end, or several."""
    way, address = link.variant.way, link.address
    if way == "channel":
        yield lambda: kin.channel(address)
    elif way == "pair":
        yield lambda: kin.pair(address)
    elif way == "named":
        yield lambda: kin.open_receiver(address, timeout=HANG)
        yield lambda: kin.open_sender(address, timeout=HANG)
    else:
        made: list[kin.Listener] = []

        def listen() -> kin.Listener:
            made.append(kin.listen(address, timeout=HANG))
            return made[0]

        yield listen
        yield lambda: kin.connect(address, timeout=HANG)
        yield lambda: made[0].accept(timeout=HANG)


def opened(link: Link) -> tuple[Any, Any, list[Any]]:
    """A receiver, a sender, and what else has to be closed, in this thread."""
    ends: list[Any] = []
    for opening in openings(link):
        made = opening()
        ends += made if isinstance(made, tuple) else [made]
    two = [end for end in ends if not isinstance(end, kin.Listener)]
    if link.variant.way == "listener":  # what was accepted receives
        two.reverse()
    return two[0], two[1], ends


def close_all(ends: list[Any]) -> None:
    for end in reversed(ends):
        end.close()


def goes_through(receiver: Any, sender: Any) -> None:
    for thing in ("some text", b"bytes", [1, 2, 3]):
        # In two threads: what was given up in the middle may still fill the channel.
        with thread_of(sender.send, thing, timeout=HANG) as call:
            assert receiver.recv(timeout=HANG) == thing
            call.result()


# -------------------------------------------------------------------------------- descriptors


def test_every_opening_without_descriptors(link: Link, peers: Peers):
    """With room for none, one, two … more, until it works."""

    def body(voice):
        warm_receiver, warm_sender, ends = opened(link)
        goes_through(warm_receiver, warm_sender)
        with pytest.raises(kin.Timeout):
            warm_receiver.recv(timeout=0.001)  # makes what this thread keeps for waiting
        close_all(ends)
        ends, at_first = [], open_descriptors()
        refusals: list[kin.KinfolkError] = []
        for opening in openings(link):
            for room in range(MOST):
                before, there = open_descriptors(), link_name(link)
                made = None
                with room_for(room):
                    try:
                        made = opening()
                    except kin.LimitReached as error:
                        refusals.append(error)
                if made is not None:
                    ends += made if isinstance(made, tuple) else [made]
                    break
                more = open_descriptors() - before
                if not (accepts_datagrams(link) and more == 3):
                    assert more == 0, f"{opening} leaks with room for {room}"
                if link.variant.scheme != "sysv-mq" and not link.outlives:
                    assert link_name(link) == there, f"{opening} leaves a name with room for {room}"
            else:
                raise AssertionError(f"needs more than {MOST} descriptors: {opening}")
        two = [end for end in ends if not isinstance(end, kin.Listener)]
        if link.variant.way == "listener":
            two.reverse()
        goes_through(*two)
        close_all(ends)
        assert open_descriptors() - at_first in (0, WATCHER if link.variant.scheme == "ring" else 0)
        assert all(error.remedy and "\n" not in str(error) for error in refusals), refusals
        return len(refusals)

    failures = peers.fork(body).result()
    if link.variant.scheme != "sysv-mq" or not link.outlives:  # it is an id, and the name stays
        assert failures > 0, "nothing ran out"


def accepts_datagrams(link: Link) -> bool:
    """A connection has come as descriptors (a socket and two pipes) and waits in the listener for room."""
    return link.variant.scheme == "unix-dgram" and link.variant.way in ("listener", "caller")


def link_name(link: Link) -> bool | None:
    return None if link.variant.anonymous else link.name_exists()


@main_ways
def test_in_use_without_descriptors(link: Link, peers: Peers):
    """What can be done without is done; the rest says so, and works with room again."""

    def body(voice):
        receiver, sender, ends = opened(link)
        before = open_descriptors()
        large = min(1 << 20, sender.limits.max_message)
        sent, refusals = [], []
        with room_for(0):
            for message in (b"small", pattern(large), b"after it"):
                try:
                    sender.send_bytes(message, timeout=0)
                    sent.append(message)
                except (kin.LimitReached, kin.Timeout) as error:
                    refusals.append(error)
            received = []
            with contextlib.suppress(kin.LimitReached, kin.Timeout):
                while len(received) < len(sent):
                    received.append(receiver.recv_bytes(timeout=0))
        assert all(isinstance(error, kin.Timeout) or error.remedy for error in refusals), refusals
        assert b"small" in sent, "a small message needs no descriptor"
        while len(received) < len(sent):
            received.append(receiver.recv_bytes(timeout=HANG))
        assert received == sent
        del received
        assert open_descriptors() in (before, before + 1)  # a connection may have been taken in
        goes_through(receiver, sender)
        close_all(ends)

    peers.fork(body).result()


@main_ways
def test_blocking_without_descriptors(link: Link, peers: Peers):
    """A thread needs one to be woken by; without, it says so and the message is not lost."""

    def body(voice):
        receiver, sender, ends = opened(link)
        sender.send("taken in")
        assert receiver.recv(timeout=HANG) == "taken in"
        with room_for(0):
            error = Call(receiver.recv, timeout=0.2).raised()
            assert isinstance(error, (kin.LimitReached, kin.Timeout)), error
        with thread_of(receiver.recv, timeout=HANG) as call:
            sender.send("comes")
            assert call.result() == "comes"
        goes_through(receiver, sender)
        close_all(ends)
        return type(error).__name__

    outcome = peers.fork(body).result()
    # A System V queue and a ring have no descriptor to wait on; the watcher of their peers needs one, once.
    none = link.variant.scheme in ("ring", "file") or link.variant.id == "sysv-mq-named"
    assert outcome == ("Timeout" if none else "LimitReached")


@main_ways
def test_closing_without_descriptors(link: Link, peers: Peers):
    """Closing never fails; a name that could not be removed is taken over by the next."""

    def body(voice):
        start_what_stays()
        before = open_descriptors()
        for _ in range(2):
            receiver, sender, ends = opened(link)
            goes_through(receiver, sender)
            with room_for(0):
                close_all(ends)
            assert open_descriptors() <= before
        receiver, sender, ends = opened(link)
        goes_through(receiver, sender)
        close_all(ends)

    peers.fork(body).result()


@only(lambda variant: variant.way in ("listener", "named") and variant.scheme in ("unix", "tcp"))
def test_connections_that_can_not_be_taken_now_wait(link: Link, peers: Peers):
    def body(voice):
        listening = link.variant.way == "listener"
        door: Any = (kin.listen if listening else kin.open_receiver)(link.address, timeout=HANG)
        opening = kin.connect if listening else kin.open_sender
        senders = [opening(link.address, timeout=HANG) for _ in range(5)]
        for number, sender in enumerate(senders):
            sender.send(number)
        with room_for(0):
            for _ in range(3):
                with pytest.raises(kin.LimitReached):
                    (door.accept if listening else door.recv)(timeout=1)
        if listening:
            connections = [door.accept(timeout=HANG) for _ in senders]
            assert [one.recv(timeout=HANG) for one in connections] == [*range(5)]
            close_all(connections)
        else:
            assert sorted(door.recv(timeout=HANG) for _ in senders) == [*range(5)]
        close_all([door, *senders])

    peers.fork(body).result()


# --------------------------------------------------------------------------- the bytes of queues


@only(lambda variant: variant.scheme == "mq")
def test_the_bytes_of_all_posix_queues(link: Link, peers: Peers):
    def body(voice):
        hard = resource.getrlimit(RLIMIT_MSGQUEUE)[1]
        before = open_descriptors()
        for limit in (0, 1000, 50_000):
            resource.setrlimit(RLIMIT_MSGQUEUE, (limit, hard))
            with pytest.raises(kin.LimitReached, match="RLIMIT_MSGQUEUE") as caught:
                opened(link)
            assert "ulimit -q" in caught.value.remedy
            assert open_descriptors() == before
        resource.setrlimit(RLIMIT_MSGQUEUE, (hard, hard))
        receiver, sender, ends = opened(link)
        goes_through(receiver, sender)
        close_all(ends)

    peers.fork(body).result()


# ------------------------------------------------------------------------------------ full disks


def small_disk(path: str, inodes: int) -> None:
    """Mount a file system with room for so many files, for this process alone. Raises OSError."""
    enter(CLONE_NEWNS)
    mount_memory(path, f"nr_inodes={inodes + 1},size=64k,mode=0777")  # the root is one


def why_no_small_disk() -> str:
    if os.geteuid() != 0:
        return "needs a file system of its own, and only root may mount one"
    children = Peers()
    try:
        return str(children.fork(_try_small_disk).result())
    finally:
        children.end()


def _try_small_disk(voice) -> str:
    try:
        small_disk("/tmp", 1)
    except OSError as error:
        return f"needs a file system of its own, and the kernel refuses it to this root: {error}"
    return ""


@pytest.fixture(scope="module")
def reason_against_small_disks() -> str:
    return why_no_small_disk()


@main_ways
def test_a_full_disk(link: Link, peers: Peers, reason_against_small_disks: str):
    """Where names are files, and where the library keeps its own."""
    if reason_against_small_disks:
        pytest.skip(reason_against_small_disks)
    if link.variant.scheme in ("ring", "file"):
        link.address = link.address.partition("?")[0] + "?capacity=4096&arena=64K"
    where = Path(link.address.partition(":")[2].partition("?")[0]).parent

    def body(voice, path, inodes):
        small_disk(path, inodes)
        try:
            receiver, sender, ends = opened(link)
        except kin.NoSpace as error:
            left = os.listdir(path)
            return "full" if error.remedy and not left else f"{error}; left: {left}"
        goes_through(receiver, sender)
        close_all(ends)
        if link.variant.scheme == "file":
            os.unlink(link.address.partition(":")[2].partition("?")[0])
        assert not os.listdir(path)
        return "fits"

    disks = ["/dev/shm"]
    if str(where).startswith("/tmp/") and not link.variant.anonymous:
        disks.append(str(where))
    for disk in disks:
        outcomes = [peers.fork(body, disk, inodes).result() for inodes in range(6)]
        assert outcomes[-1] == "fits"
        assert outcomes == sorted(outcomes, reverse=True), outcomes
        if disk != "/dev/shm":
            assert outcomes[0] == "full"
        link.close()
