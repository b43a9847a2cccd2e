"""A ring in a file under faults: everybody killed and started anew, a full disk, a file cut short or overwritten.

what happens                                  what is found afterwards
all are killed, at any moment                 what a send that returned has sent, once, but for one message a killed receiver;
                                              with acknowledge= all of it, and what came twice says so
the disk is full                              NoSpace, for a new ring or a new block; what is there goes on
it is cut short while it is used              SIGBUS for who touches what is no more; for who opens it CorruptChannel
any word of it is overwritten                 CorruptChannel, or a message that is whole; never anything outside of it
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import random
import signal
import struct
import zlib

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, Peers
from tests.namespaces import CLONE_NEWNS, in_namespaces, mount_memory

SMALL = "?capacity=4096&arena=64K"
MOST = 32 << 10
HEAD = 4096 + 4096


@pytest.fixture
def path(short_directory):
    return short_directory / "ring"


@pytest.fixture
def peers():
    children = Peers()
    yield children
    children.end()


# ── killed, all of them, again and again ─────────────────────────────────────────────────────

_RECORD = struct.Struct("=III")


def message(who, number):
    """Of a length that the number tells, now and then in a block; with a sum."""
    body = bytes([number % 251]) * ((number * 37) % 300 if number % 9 else 5000)
    return _RECORD.pack(who, number, zlib.crc32(body)) + body


def read(data):
    who, number, crc = _RECORD.unpack_from(data)
    assert zlib.crc32(data[_RECORD.size :]) == crc, "torn"
    return who, number


def send_on(address, them, log):
    """Write down each message whose send has returned."""
    who, first = them
    with kin.open_sender(address, timeout=HANG) as sender:
        for number in itertools.count(first):
            sender.send(message(who, number))
            os.write(log, _RECORD.pack(who, number, 0))


def receive_on(address, log, acknowledge):
    with kin.open_receiver(address, timeout=HANG, acknowledge=acknowledge) as receiver:
        while True:
            take(receiver, log, acknowledge, HANG)


def take(receiver, log, acknowledge, timeout):
    """Receive one message, and write it down: with 1 if it is said to be a repetition."""
    if not acknowledge:
        os.write(log, _RECORD.pack(*read(receiver.recv(timeout=timeout)), 0))
        return
    with receiver.recv_message(timeout=timeout) as message:
        os.write(log, _RECORD.pack(*read(message.object), message.redelivered))


def lines(file):
    data = os.pread(file, os.fstat(file).st_size, 0)
    return [_RECORD.unpack_from(data, at) for at in range(0, len(data), _RECORD.size)]


def killing(path, directory, rounds, seed, acknowledge=None):
    """Two senders and two receivers, all of them killed in each round; returns what was sent and received."""
    address, moments = f"file:{path}{SMALL}", random.Random(seed)
    flags = os.O_CREAT | os.O_RDWR | os.O_APPEND
    sent, got = (os.open(directory / name, flags) for name in ("sent", "got"))
    kin.open_receiver(address, acknowledge=acknowledge).close()
    killed_receivers = 0
    firsts = [0, 0]
    children = Peers()
    try:
        for _ in range(rounds):
            crowd = [
                children.fork(lambda voice, *them: send_on(address, them, sent), *them)
                for them in enumerate(firsts)
            ]
            receivers = [
                children.fork(lambda voice: receive_on(address, got, acknowledge))
                for _ in range(moments.randrange(3))
            ]
            killed_receivers += len(receivers)
            before, some = os.fstat(sent).st_size, moments.randrange(1, 60) * _RECORD.size
            if receivers:
                while os.fstat(sent).st_size - before < some:  # a moment is so many messages
                    os.sched_yield()
            for peer in moments.sample(crowd + receivers, len(crowd + receivers)):
                os.kill(peer.pid, signal.SIGKILL)
                peer.wait()
            # A number is used once: also that of a message that was committed, and not written down.
            firsts = [first + 1000 for first in firsts]
            firsts = [
                max([first, *(number + 2 for w, number, _ in lines(sent) if w == who)])
                for who, first in enumerate(firsts)
            ]
        with kin.open_receiver(address, timeout=HANG, acknowledge=acknowledge) as receiver:
            with contextlib.suppress(kin.Timeout):
                while True:
                    take(receiver, got, acknowledge, 0)
            with kin.open_sender(address) as sender:
                with pytest.raises(InterruptedError), sender.reserve(MOST, timeout=0):
                    with sender.reserve(MOST, timeout=0):
                        raise InterruptedError
        return lines(sent), lines(got), killed_receivers
    finally:
        children.end()
        os.close(sent)
        os.close(got)


def judge(sent, got, killed_receivers):
    once = [message[:2] for message in got if not message[2]]
    assert len(set(once)) == len(once), "doubled"
    lost = {message[:2] for message in sent} - {message[:2] for message in got}
    assert len(lost) <= killed_receivers, f"lost: {sorted(lost)[:9]}, of {killed_receivers} killed"


@pytest.mark.parametrize("seed", range(2))
def test_all_are_killed_again_and_again(path, tmp_path, seed):
    sent, got, killed_receivers = killing(path, tmp_path, 25, seed)
    judge(sent, got, killed_receivers)
    assert len(sent) > 100


def test_with_acknowledgement_nothing_is_lost(path, tmp_path):
    sent, got, killed_receivers = killing(path, tmp_path, 25, 7, acknowledge=True)
    judge(sent, got, 0)
    assert len(sent) > 100
    assert killed_receivers > 10


@pytest.mark.soak
@pytest.mark.parametrize("acknowledge", [None, True])
@pytest.mark.parametrize("seed", range(10))
def test_all_are_killed_very_often(path, tmp_path, seed, acknowledge):
    sent, got, killed_receivers = killing(path, tmp_path, 200, seed, acknowledge)
    judge(sent, got, 0 if acknowledge else killed_receivers)


def test_a_loss_would_be_seen():
    """The control of the tests above."""
    sent = [(0, number, 0) for number in range(10)]
    judge(sent, sent[1:], 1)
    judge(sent, [*sent, (0, 3, 1)], 0)
    for got, killed in ((sent[2:], 1), ([*sent, sent[3]], 1)):
        with pytest.raises(AssertionError):
            judge(sent, got, killed)
    with pytest.raises(AssertionError, match="torn"):
        read(message(0, 5)[:-1])


# ── full disks ───────────────────────────────────────────────────────────────────────────────


def test_a_full_disk_is_no_space(short_directory, peers):
    address = f"file:{short_directory}/ring?capacity=4096&arena=1M"

    def body():
        mount_memory(str(short_directory), "size=256k,mode=0700")
        filler = short_directory / "filler"
        filler.write_bytes(bytes(250 << 10))
        with pytest.raises(kin.NoSpace, match="free") as caught:
            kin.open_receiver(address)
        assert caught.value.remedy
        assert os.listdir(short_directory) == ["filler"]
        filler.unlink()
        with kin.open_receiver(address) as receiver, kin.open_sender(address) as sender:
            sender.send(b"x" * 70_000, timeout=0)
            sender.send(b"x" * 70_000, timeout=0)
            with pytest.raises(kin.NoSpace, match="free"):
                sender.send(b"x" * 140_000, timeout=0)
            with pytest.raises(kin.NoSpace), sender.reserve(200_000):
                pass
            while sender.statistics().depth:
                assert receiver.recv_bytes(timeout=0) == b"x" * 70_000
            for number in range(2000):  # what lies in the ring has its space
                sender.send(number, timeout=0)
                assert receiver.recv(timeout=0) == number
        return "gone through"

    assert in_namespaces(peers, CLONE_NEWNS, body) == "gone through"


# ── cut short ────────────────────────────────────────────────────────────────────────────────


def test_cut_short_while_it_is_used(path, peers):
    """A touch of what is gone ends the process, as it does for any mapped file; who opens it is told."""
    address = f"file:{path}{SMALL}"

    def touching(voice):
        faulthandler.disable()  # it would tell of what is expected
        with kin.open_sender(address) as sender:
            voice.say()
            voice.hear()
            for number in range(10_000):
                sender.send(number, timeout=0)

    with kin.open_receiver(address):
        peer = peers.fork(touching)
        peer.hear()
        size = path.stat().st_size
        os.truncate(path, 4096)
        peer.say()
        assert peer.wait() == -signal.SIGBUS
        with pytest.raises(kin.CorruptChannel, match="shorter, to 4096 bytes"):
            kin.open_sender(address, timeout=0)
        os.truncate(path, size)


def test_blocks_that_were_cut_off_are_told(path):
    address = f"file:{path}{SMALL}"
    receiver, sender = kin.channel(address)
    with receiver, sender:
        size = path.stat().st_size
        os.truncate(path, size - 64 * 1024)
        sender.send("what lies in the ring is there")
        for _ in range(2):
            with pytest.raises(kin.CorruptChannel, match="shorter"):
                sender.send(bytes(MOST))
        assert receiver.recv(timeout=0).startswith("what")
        os.truncate(path, size)


# ── overwritten ──────────────────────────────────────────────────────────────────────────────


def use(address, voice):
    """Open it, look at all that is in it, and send; what is raised is an error of kinfolk."""
    signal.alarm(int(HANG))  # to hang is a failure too
    try:
        with kin.open_receiver(address, timeout=1) as receiver:
            with kin.open_sender(address, timeout=1) as sender:
                for _ in range(3):
                    sender.send(b"small", timeout=0)
                    sender.send(bytes(5000), timeout=0)
                while True:
                    receiver.recv_bytes(timeout=0)
    except kin.Timeout:
        return "goes on"
    except kin.KinfolkError as error:
        assert isinstance(error, (kin.CorruptChannel, kin.DecodeError)), error
        return type(error).__name__


def prepared(path):
    address = f"file:{path}{SMALL}"
    receiver, sender = kin.channel(address)
    with receiver, sender:
        for number in range(3):
            sender.send(message(0, number))
            sender.send(bytes(5000 + number))
    return address, path.read_bytes()


def overwritten(path, peers, changes):
    address, whole = prepared(path)
    outcomes = []
    for at, value in changes:
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        outcomes.append(peers.fork(lambda voice: use(address, voice)).result())
        assert path.stat().st_size == len(whole)
    return outcomes


VALUES = [struct.pack("=Q", value) for value in (0, 1, 7, 2**31, 2**32 - 1, 2**63, 2**64 - 1)]


def test_any_word_of_the_header_is_overwritten(path, peers):
    """The magic, shape, positions, locks, and the beginning of the arena."""
    places = [*range(0, 256, 8), *range(256, 768, 64), 320, 576, *range(HEAD, HEAD + 256, 8)]
    rng = random.Random(1)
    outcomes = overwritten(path, peers, [(at, rng.choice(VALUES)) for at in places])
    assert outcomes.count("CorruptChannel") > 5
    assert outcomes.count("goes on") > 10


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (8, struct.pack("=I", 99)),  # version
        (12, struct.pack("=I", 1)),  # kind: a mutex
        (16, struct.pack("=Q", 64)),  # size
        (128, struct.pack("=I", 99)),  # layout
        (136, struct.pack("=Q", 1 << 33)),  # capacity: beyond the end
        (136, struct.pack("=Q", 5000)),
        (144, struct.pack("=Q", 1 << 39)),  # unit
        (152, struct.pack("=I", 4096)),  # units
        (156, struct.pack("=I", 0)),  # rows
        (320, struct.pack("=Q", 1 << 40)),  # sent
        (320, struct.pack("=Q", 3)),
        (576, struct.pack("=Q", 1 << 40)),  # received
    ],
)
def test_a_field_that_can_not_be_is_refused_and_stays(path, at, value):
    address, whole = prepared(path)
    changed = whole[:at] + value + whole[at + len(value) :]
    path.write_bytes(changed)
    for opening in (kin.open_receiver, kin.open_sender):
        with pytest.raises(kin.CorruptChannel):
            opening(address, timeout=0)
    assert path.read_bytes() == changed
    path.write_bytes(whole)
    with kin.open_receiver(address) as receiver:
        assert read(receiver.recv(timeout=0)) == (0, 0)


def test_frames_that_a_power_cut_left_are_looked_at(path):
    """The first one is longer than all there is. In the same boot that is told when it is received."""
    address, whole = prepared(path)
    changed = whole[:4096] + struct.pack("=I", 1 << 20) + whole[4100:]
    path.write_bytes(changed)
    with kin.open_receiver(address) as receiver:
        with pytest.raises(kin.CorruptChannel):
            receiver.recv(timeout=0)
    changed = changed[:24] + os.urandom(16) + changed[40:]
    path.write_bytes(changed)
    with pytest.raises(kin.CorruptChannel):
        kin.open_receiver(address)
    assert path.read_bytes() == changed


@pytest.mark.soak
def test_any_bytes_are_overwritten(path, peers):
    rng = random.Random(2)
    end = HEAD + 8192
    overwritten(
        path,
        peers,
        [(rng.randrange(end), rng.randbytes(rng.choice([1, 4, 8, 64]))) for _ in range(2000)],
    )
