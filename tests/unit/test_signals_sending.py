"""Sending: to exactly the process that is meant, or nobody; what stands against it is said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

import kinfolk as kin
from kinfolk.signals import Arrived, sending
from tests.conformance.peers import (
    HANG,
    Peer,
    Peers,
    Voice,
    open_descriptors,
    state,
    thread_of,
    until,
)
from tests.other_user import User

pytestmark = pytest.mark.usefixtures("threads_at_rest")


def asleep_in_poll(pid: int, thread: int | None) -> bool:
    with open(f"/proc/{pid}/task/{thread}/wchan") as file:
        where = file.read()
    return "poll" in where or where.startswith("ep_")


class LikeAProcess(NamedTuple):
    identity: kin.Identity


def receive(voice: Voice, signals: list[str]) -> Any:
    """A peer that says what arrives, until SIGTERM."""
    with kin.signals.stream([*signals, "TERM"]) as stream:
        voice.say()
        for arrived in stream:
            if arrived.signal == signal.SIGTERM:
                return None
            voice.say(arrived)


@pytest.fixture
def receiver(peers: Peers) -> Iterator[Peer]:
    peer = peers.fork(receive, ["USR1", "RTMIN+1"])
    peer.hear()
    yield peer
    os.kill(peer.pid, signal.SIGTERM)
    peer.result()


def waits(voice: Voice) -> None:
    voice.hear()


def identity_of(pid: int) -> kin.Identity:
    identity = kin.Identity.of(pid)
    assert identity is not None
    return identity


WAYS: dict[str, Callable[[int], sending.Target]] = {
    "pid": lambda pid: pid,
    "identity": identity_of,
    "process": lambda pid: LikeAProcess(identity_of(pid)),
}


@pytest.mark.parametrize("way", WAYS)
def test_to_one_process(receiver: Peer, way: str) -> None:
    target = WAYS[way](receiver.pid)
    descriptors = open_descriptors()
    kin.signals.send(target, "USR1")
    assert receiver.hear() == Arrived(10, os.getpid(), os.getuid(), None, 0)
    kin.signals.send(target, "USR1", -9)
    assert receiver.hear() == Arrived(10, os.getpid(), os.getuid(), -9, -1)
    kin.signals.send(target, "RTMIN+1")
    assert receiver.hear() == Arrived(35, os.getpid(), os.getuid(), 0, -1)  # queued all the same
    asyncio.run(kin.signals.asend(target, "USR1", 3))
    assert receiver.hear().value == 3
    assert open_descriptors() == descriptors


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("target", [0, -1, -5, True, False, 2**31, "1", None, 1.5, [], (1, 2)])
def test_what_is_no_process(target: Any) -> None:
    for whom in (target, kin.signals.Group(target)):
        with pytest.raises(kin.InvalidValue) as raised:
            kin.signals.send(whom, "URG")
        assert "Group" in str(raised.value)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 1.0, "1", b""])
def test_what_is_no_value(value: Any) -> None:
    with pytest.raises(kin.InvalidValue, match="C int"):
        kin.signals.send(os.getpid(), "URG", value)


def test_no_signal() -> None:
    with pytest.raises(kin.InvalidValue, match="there is no signal"):
        kin.signals.send(os.getpid(), 0)


def test_nobody_is_there(peers: Peers) -> None:
    peer = peers.fork(waits)
    identity = identity_of(peer.pid)
    peer.kill()
    for target in (peer.pid, identity, LikeAProcess(identity)):
        with pytest.raises(kin.NotFound, match=f"process {peer.pid}") as raised:
            kin.signals.send(target, "URG")
        assert "\n" not in str(raised.value)
        assert isinstance(raised.value, FileNotFoundError)


def test_a_zombie_has_ended(peers: Peers) -> None:
    peer = peers.fork(waits)
    identity = identity_of(peer.pid)
    peer.kill(reap=False)
    assert state(peer.pid) == "Z"
    for target in (peer.pid, identity):
        with pytest.raises(kin.NotFound, match="reap"):
            kin.signals.send(target, "TERM")
    os.kill(peer.pid, signal.SIGTERM)  # the kernel says nothing of it


def test_a_stopped_one_has_not(receiver: Peer) -> None:
    kin.signals.send(receiver.pid, "STOP")
    until(lambda: state(receiver.pid) == "T", "the peer stopped")
    kin.signals.send(identity_of(receiver.pid), "USR1", 1)
    kin.signals.send(receiver.pid, "CONT")
    assert receiver.hear().value == 1


def test_another_process_of_the_same_pid_is_refused(receiver: Peer) -> None:
    older = identity_of(receiver.pid)._replace(start_time=1)
    for target in (older, LikeAProcess(older), kin.signals.Group(older)):
        with pytest.raises(kin.NotFound, match="belongs to another process now"):
            kin.signals.send(target, "KILL")


def test_a_thread_is_no_process() -> None:
    import threading

    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    with kin.signals.blocked("USR1"):
        thread.start()
    try:
        assert thread.native_id
        with pytest.raises(kin.NotFound):
            kin.signals.send(thread.native_id, "USR1")
    finally:
        end.set()
        thread.join()


def leads_alone(voice: Voice) -> None:
    os.setpgid(0, 0)
    voice.say()
    voice.hear()


def test_another_users_process(peers: Peers, as_plain_user: User) -> None:
    def attempt(target: Any) -> str:
        with pytest.raises(kin.AccessDenied) as raised:
            kin.signals.send(target, "URG")
        assert isinstance(raised.value, PermissionError)
        return str(raised.value)

    if os.geteuid():  # then the other user is root
        if os.stat("/proc/1").st_uid == os.geteuid():
            pytest.skip("no process here is another user's")
        targets: list[Any] = [1, identity_of(1)]
    else:
        peer = peers.fork(leads_alone)
        peer.hear()
        targets = [peer.pid, identity_of(peer.pid), kin.signals.Group(peer.pid)]
    for target in targets:
        said = as_plain_user.run(attempt, target)
        assert "another user's" in said
        assert "CAP_KILL" in said


# --------------------------------------------------------------------------------- a full queue


def without_room(voice: Voice) -> list[int | None]:
    """A peer whose queue has no room, until it is told to make some; the values of what arrives.

    No room at all: the kernel counts what is pending of all processes of a user, and so of other tests.
    """
    hard = resource.getrlimit(resource.RLIMIT_SIGPENDING)[1]
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, hard))
    with kin.signals.stream(["RTMIN+2", "TERM"]) as stream:
        voice.say()
        voice.hear()
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (hard, hard))
        values = []
        for arrived in stream:
            if arrived.signal == signal.SIGTERM:
                break
            values.append(arrived.value)
            voice.say()
        with contextlib.suppress(kin.Timeout):  # they come by number: lower ones first
            while True:
                values.append(stream.recv(timeout=0).value)
    return values


def end_of(peer: Peer) -> Any:
    kin.signals.send(peer.pid, "TERM")
    return peer.result()


def test_a_full_queue_is_an_error_with_a_remedy(peers: Peers) -> None:
    peer = peers.fork(without_room)
    peer.hear()
    for value in (None, 5):  # a real-time one is queued without a value too: rule 3
        with pytest.raises(kin.LimitReached, match="ulimit -i"):
            kin.signals.send(peer.pid, "RTMIN+2", value)
    peer.say()
    assert end_of(peer) == []


def test_negative_control_kill_merges_in_silence(peers: Peers) -> None:
    peer = peers.fork(without_room)
    peer.hear()
    for _ in range(10):
        os.kill(peer.pid, signal.SIGRTMIN + 2)
    peer.say()
    assert end_of(peer) == [None]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_with_a_timeout_it_waits_for_room(peers: Peers, asynchronous: bool) -> None:
    peer = peers.fork(without_room)
    peer.hear()

    def send(value: int, timeout: float | None) -> None:
        if asynchronous:
            asyncio.run(kin.signals.asend(peer.pid, "RTMIN+2", value, timeout=timeout))
        else:
            kin.signals.send(peer.pid, "RTMIN+2", value, timeout=timeout)

    with pytest.raises(kin.Timeout, match=r"send SIGRTMIN\+2"):
        send(1, 0.01)
    with kin.signals.blocked("USR1"), thread_of(send, 2, HANG) as call:
        until(lambda: asleep_in_poll(os.getpid(), call.thread.native_id), "the sender waits")
        peer.say()
        call.result()
    peer.hear()
    assert end_of(peer) == [2]


# ----------------------------------------------------------------------------------------- groups


def leads(voice: Voice, followers: int) -> Any:
    """A leader of a group and its children, who say what arrives."""
    os.setpgid(0, 0)
    with kin.signals.stream(["USR1", "TERM"]) as stream:
        reader, writer = os.pipe()
        pids = []
        for _ in range(followers):
            if (pid := os.fork()) == 0:
                for arrived in stream:
                    if arrived.signal == signal.SIGTERM:
                        os._exit(0)
                    os.write(writer, b"%d %d\n" % (arrived.signal, arrived.value or 0))
            pids.append(pid)
        os.close(writer)
        voice.say()
        ended = stream.recv()  # by the group's signal, as its children
        while ended.signal != signal.SIGTERM:
            ended = stream.recv()
        for pid in pids:
            os.waitpid(pid, 0)
        with open(reader, "rb") as file:
            return file.read().splitlines()


def by_identity(pid: int) -> kin.Identity:
    return identity_of(pid)


@pytest.mark.parametrize("value", [None, 5])
@pytest.mark.parametrize("leader", [int, by_identity])
def test_to_a_group(peers: Peers, leader: Callable[[int], Any], value: int | None) -> None:
    peer = peers.fork(leads, 3)
    peer.hear()
    group = kin.signals.Group(leader(peer.pid))
    try:
        kin.signals.send(group, "USR1", value)
    except kin.Unsupported as error:
        kin.signals.send(kin.signals.Group(peer.pid), "TERM")
        peer.result()
        pytest.skip(str(error))
    kin.signals.send(group, "TERM")
    assert peer.result() == [b"%d %d" % (signal.SIGUSR1, value or 0)] * 3


def test_a_group_of_nobody(peers: Peers) -> None:
    peer = peers.fork(waits)
    group = kin.signals.Group(peer.pid)  # is in ours: leads none
    for value in (None, 1):
        with pytest.raises(kin.NotFound, match=f"group {peer.pid}"):
            kin.signals.send(group, "TERM", value)
    with pytest.raises(kin.NotFound):
        kin.signals.send(kin.signals.Group(identity_of(peer.pid)), "TERM")
    assert state(peer.pid) != "X"


def test_group_1_is_not_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """killpg(1) would be kill(-1): every process that we may signal."""

    def forbidden(*args: Any) -> None:
        raise AssertionError("killpg(1)")

    monkeypatch.setattr(os, "killpg", forbidden)
    try:
        kin.signals.send(kin.signals.Group(1), "URG")
    except (kin.NotFound, kin.AccessDenied, kin.Unsupported):
        pass


# --------------------------------------------------------------------------------- recycled pids

_RECYCLING = """
import os, signal, sys, threading, time
import kinfolk as kin
from kinfolk.signals import sending

looking, rounds = sys.argv[1] == "looking", int(sys.argv[2])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
ticks = os.sysconf("SC_CLK_TCK")
hit = refused = delivered = 0


def child(wanted=None):
    # The next pid given is the one after this (pid_namespaces(7)); of our own namespace alone.
    if wanted is not None:
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(wanted - 1))
    pid = os.fork()
    if pid == 0:
        while True:
            signal.pause()
    return pid


def pending(pid):
    with open(f"/proc/{pid}/status") as file:
        shared = next(line for line in file if line.startswith("ShdPnd"))
    return bool(int(shared.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def send_on(identity, go_on):
    # Without a pause, until it was refused and the stranger has been there for a while.
    global refused, delivered
    while go_on.is_set():
        try:
            kin.signals.send(identity, "USR1")
            delivered += 1
        except kin.NotFound:
            refused += 1


for _ in range(rounds):
    victim = child()
    identity = kin.Identity.of(victim)
    if not looking:
        sending.start_time = lambda pid: identity.start_time
    while time.clock_gettime(time.CLOCK_BOOTTIME) * ticks < identity.start_time + 2:
        os.sched_yield()
    go_on = threading.Event()
    go_on.set()
    sender = threading.Thread(target=send_on, args=(identity, go_on))
    before = delivered
    sender.start()
    while delivered == before:
        time.sleep(0)
    end(victim)
    stranger = child(victim)
    assert stranger == victim, (stranger, victim)
    seen = refused + delivered
    while refused + delivered < seen + 20:
        time.sleep(0)
    go_on.clear()
    sender.join()
    hit += pending(stranger)
    end(stranger)
print(hit, refused > 0, delivered > 0)
"""


_TRIAL = "open('/proc/sys/kernel/ns_last_pid', 'w').write('50')"


def run_in_pid_namespace(*arguments: str) -> str:
    """Run the script above where pids are its own. Skips where that can't be had."""
    own_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *own_user, "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        trial = subprocess.run(
            [*command, sys.executable, "-c", _TRIAL],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("needs unshare(1)")
    if trial.returncode:
        why = trial.stderr.decode().strip().splitlines()
        pytest.skip(f"needs a pid namespace of its own, with ns_last_pid: {why[-1:]}")
    ended = subprocess.run(
        [*command, sys.executable, "-W", "ignore", "-c", _RECYCLING, *arguments],
        capture_output=True,
        check=True,
        text=True,
    )
    return ended.stdout.strip()


def test_no_stranger_is_hit_when_the_pid_is_recycled() -> None:
    assert run_in_pid_namespace("looking", "12") == "0 True True"


def test_negative_control_a_pid_alone_hits_the_stranger() -> None:
    hit = int(run_in_pid_namespace("not looking", "3").split()[0])
    assert hit == 3


@pytest.mark.soak
def test_no_stranger_is_ever_hit() -> None:
    assert run_in_pid_namespace("looking", "1000") == "0 True True"
