"""System V message queues: what is peculiar to them. The rest is in tests/conformance."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest
import sysv_ipc

import kinfolk as kin
from kinfolk.channels.queue_transport import FOOTER_SIZE
from kinfolk.sysctl import kernel_number
from tests.conformance.peers import HANG, thread_of, until_blocked
from tests.unit.sysv_queues import exists
from tests.unit.test_mq import in_own_ipc_namespace

# ── keys ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("0", "IPC_PRIVATE"),
        ("0x0", "IPC_PRIVATE"),
        ("nothing", "0x4d2"),
        ("-5", "32 bits"),
        (str(2**32), "32 bits"),
        ("/tmp#0", "255"),
        ("/tmp#256", "255"),
        ("/tmp#", "255"),
    ],
)
def test_wrong_keys_say_what_a_key_is(wrong, says):
    with pytest.raises(kin.AddressError, match=says):
        kin.open_receiver(f"sysv-mq:{wrong}")


def test_one_key_has_many_spellings(key):
    with (
        kin.open_receiver(f"sysv-mq:{key}") as receiver,
        kin.open_sender(f"sysv-mq:{key:#x}") as sender,
    ):
        sender.send("found")
        assert receiver.recv(timeout=0) == "found"


def test_keys_of_files(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(kin.NotFound, match="create the file"):
        kin.open_receiver(f"sysv-mq:{path}#7")
    path.touch()
    for project in ("7", "0xc8", "A"):
        number = ord(project) if project == "A" else int(project, 0)
        key = sysv_ipc.ftok(str(path), number, silence_warning=True)
        with kin.open_receiver(f"sysv-mq:{path}#{project}") as receiver:
            assert exists(key)
            receiver.unlink()
            assert not exists(key)


def test_the_highest_key():
    with kin.open_receiver("sysv-mq:0xfffffffe") as receiver:
        assert exists(-2)
        receiver.unlink()


# ── limits, owners ───────────────────────────────────────────────────────────────────────────


def test_the_limits_are_the_kernels(ends):
    receiver, sender = ends
    most = min(kernel_number("kernel.msgmax"), kernel_number("kernel.msgmnb"))
    assert receiver.limits.max_message == sender.limits.max_message == most - FOOTER_SIZE
    assert receiver.limits.capacity == kernel_number("kernel.msgmnb")
    with pytest.raises(kin.MessageTooBig, match="msgmax"):
        sender.send_bytes(bytes(sender.limits.max_message + 1))
    with pytest.raises(kin.Unsupported, match="no descriptor"):
        receiver.fileno()


def test_capacity_is_msg_qbytes(key):
    with kin.open_receiver(f"sysv-mq:{key}?capacity=100") as receiver:
        assert sysv_ipc.MessageQueue(key).max_size == 100
        assert receiver.limits.max_message == 100 - FOOTER_SIZE
        with kin.open_sender(f"sysv-mq:{key}") as sender:
            sender.send_bytes(bytes(90))
            assert sender.statistics().depth == 1
            with pytest.raises(kin.Timeout):
                sender.send_bytes(bytes(90), timeout=0)
        with pytest.raises(kin.AddressError, match="capacity=101 was asked"):
            kin.open_sender(f"sysv-mq:{key}?capacity=101")


def test_beyond_the_sysctls_names_them(key, as_plain_user):
    beyond = kernel_number("kernel.msgmnb") + 1
    with pytest.raises(kin.LimitReached, match=f"sysctl kernel.msgmnb={beyond}"):
        as_plain_user.run(kin.open_receiver, f"sysv-mq:{key}?capacity={beyond}")
    beyond = kernel_number("kernel.msgmax") + 1
    with pytest.raises(kin.LimitReached, match=f"sysctl kernel.msgmax={beyond}"):
        kin.open_receiver(f"sysv-mq:{key}?framing=raw&max_message={beyond}")
    with pytest.raises(kin.LimitReached, match="capacity=200"):
        kin.open_receiver(f"sysv-mq:{key}?framing=raw&capacity=100&max_message=200")
    assert not exists(key)


_TOO_MANY = """
import kinfolk as kin
with open("/proc/sys/kernel/msgmni", "w") as file:
    file.write("1")
first = kin.open_receiver("sysv-mq:1")
try:
    kin.open_receiver("sysv-mq:2")
except kin.NoSpace as error:
    print(error)
"""


def test_too_many_queues_names_the_limit():
    output = in_own_ipc_namespace(_TOO_MANY)
    assert "kernel.msgmni is 1" in output
    assert "sysctl kernel.msgmni=2" in output


_GROWN = """
import kinfolk as kin, sysv_ipc
receiver = kin.open_receiver("sysv-mq:1?framing=raw")
for name, number in (("msgmax", 60000), ("msgmnb", 100000)):
    with open(f"/proc/sys/kernel/{name}", "w") as file:
        file.write(str(number))
queue = sysv_ipc.MessageQueue(1, max_message_size=60000)
queue.max_size = 100000
queue.send(b"x" * 50000)
print(len(receiver.recv(timeout=5)))
"""


def test_a_limit_that_was_raised_meanwhile():
    assert in_own_ipc_namespace(_GROWN) == "50000\n"


def test_the_mode_is_exact(key):
    before = os.umask(0o077)
    try:
        kin.open_receiver(f"sysv-mq:{key}?mode=0640").close()
    finally:
        os.umask(before)
    assert sysv_ipc.MessageQueue(key).mode == 0o640


def test_another_users_queue_is_refused(key, foreign_user):
    foreign_user.run(lambda: sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, 0o666).id)
    for opening in (kin.open_receiver, kin.open_sender):
        with pytest.raises(kin.UntrustedPeer, match=f"user {foreign_user.uid}"):
            opening(f"sysv-mq:{key}", timeout=1)
    kin.open_sender(f"sysv-mq:{key}?codec=msgpack").close()


def test_a_creator_who_gave_his_queue_away_is_refused_all_the_same(key, foreign_user):
    def squat():
        queue = sysv_ipc.MessageQueue(key, sysv_ipc.IPC_CREX, 0o600)
        queue.uid = 0

    foreign_user.run(squat)
    assert sysv_ipc.MessageQueue(key).uid == 0
    with pytest.raises(kin.UntrustedPeer, match=f"user {foreign_user.uid}"):
        kin.open_receiver(f"sysv-mq:{key}")


def test_ours_is_closed_to_others(key, foreign_user):
    with kin.open_receiver(f"sysv-mq:{key}"):
        with pytest.raises(kin.AccessDenied, match="mode"):
            foreign_user.run(lambda: kin.open_sender(f"sysv-mq:{key}?codec=msgpack", timeout=1))


# ── types ────────────────────────────────────────────────────────────────────────────────────


def test_types(key, ends):
    _, sender = ends
    for kind in (7, 5, None, 6, 5):
        sender.send(kind, priority=kind)
    with (
        kin.open_receiver(f"sysv-mq:{key}", type=-6) as low,
        kin.open_receiver(f"sysv-mq:{key}?type=7") as seven,
    ):
        assert [low.recv(timeout=0) for _ in range(4)] == [None, 5, 5, 6]
        with pytest.raises(kin.Timeout):
            low.recv(timeout=0.01)
        assert seven.recv(timeout=0) == 7
    with kin.open_sender(f"sysv-mq:{key}", type=9) as nine:
        nine.send("nine")
        assert sysv_ipc.MessageQueue(key).receive(type=9)[1] == 9
    for wrong in (0, -1):
        with pytest.raises(kin.InvalidValue, match="type"):
            sender.send("x", priority=wrong)


def test_a_receiver_of_one_type_sleeps_while_others_come(key, ends):
    _, sender = ends
    with kin.open_receiver(f"sysv-mq:{key}?type=2") as second:
        with thread_of(second.recv, timeout=HANG) as call:
            until_blocked(second)
            sender.send("not this", priority=1)
            sender.send("this", priority=2)
            assert call.result() == "this"


def test_raw_is_bare(key):
    with kin.open_receiver(f"sysv-mq:{key}?framing=raw") as receiver:
        peer = sysv_ipc.MessageQueue(key)
        peer.send(b"from C", type=3)
        assert receiver.recv(timeout=0) == b"from C"
        with kin.open_sender(f"sysv-mq:{key}?framing=raw") as sender:
            sender.send(b"to C", priority=9)
        assert peer.receive() == (b"to C", 9)


def test_an_empty_message_of_a_c_program_is_received_also_when_nobody_waits_for_it_any_more(key):
    """Waiting for it takes it: it fits into no room at all."""
    with kin.open_receiver(f"sysv-mq:{key}?framing=raw") as receiver:
        peer = sysv_ipc.MessageQueue(key)
        with thread_of(receiver.recv, timeout=HANG) as call:
            until_blocked(receiver)
            peer.send(b"")
            assert call.result() == b""

        async def cancelled():
            task = asyncio.create_task(receiver.arecv())
            while receiver.statistics().waits < 2:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            peer.send(b"")
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                return await task
            return await receiver.arecv(timeout=HANG)

        assert asyncio.run(cancelled()) == b""
        assert receiver.statistics().depth == 0
