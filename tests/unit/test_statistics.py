"""Statistics that one thread asks for while others send, receive, close and remove."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.channels import fan_in
from kinfolk.channels.kernel_buffers import bytes_waiting
from tests.conformance.peers import HANG, thread_of

MECHANISMS = ["pipe:", "unix:", "unix-seqpacket:", "unix-dgram:", "mq:", "sysv-mq:", "tcp:"]


def with_an_event(depth: Callable[[], Any], event: Callable[[], object]) -> Callable[[], Any]:
    """The same question, with something that another thread does just before."""

    def asked() -> Any:
        with thread_of(event) as call:
            call.result()
        return depth()

    return asked


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_close_in_another_thread_leaves_the_depth_unknown(mechanism: str, side: int) -> None:
    ends = kin.channel(mechanism)
    ends[1].send(1)
    transport: Any = ends[0]._receiving if side == 0 else ends[1]._sending
    transport.depth = with_an_event(transport.depth, ends[side].close)
    statistics = ends[side].statistics()
    assert statistics.depth is None
    assert statistics.messages_sent == side
    for end in ends:
        end.close()
    del transport.depth


def test_a_number_that_is_somebody_elses_by_now_is_not_believed() -> None:
    receiver, sender = kin.channel("pipe:")
    transport: Any = receiver._receiving
    transport.depth = lambda: receiver.close() or 7  # type: ignore[func-returns-value]
    assert receiver.statistics().depth is None
    sender.close()


def test_the_depth_of_a_removed_queue_is_unknown(key: int) -> None:
    with (
        kin.open_receiver(f"sysv-mq:{key}") as receiver,
        kin.open_sender(f"sysv-mq:{key}", timeout=HANG) as sender,
    ):
        sender.send(1)
        assert receiver.statistics().depth == 1
        receiver.unlink()
        assert receiver.statistics().depth is sender.statistics().depth is None
        assert sender.statistics().messages_sent == 1


@pytest.mark.parametrize("scheme", ["unix", "unix-seqpacket"])
def test_senders_come_while_all_are_counted(
    scheme: str, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{scheme}:{socket_path}"
    with kin.open_receiver(address) as receiver, kin.open_sender(address, timeout=HANG) as first:
        first.send(1)
        assert receiver.recv(timeout=HANG) == 1
        later: list[kin.Sender] = []

        def come() -> None:
            later.append(kin.open_sender(address, timeout=HANG))
            later[-1].send(2)
            assert receiver.recv(timeout=HANG) == 2

        real = bytes_waiting
        monkeypatch.setattr(
            fan_in, "bytes_waiting", lambda fd: with_an_event(lambda: real(fd), come)()
        )
        assert receiver.statistics().depth == 0
        assert len(later) == 1
        monkeypatch.undo()
        for sender in later:
            sender.close()


@pytest.mark.parametrize("scheme", ["unix", "unix-seqpacket"])
def test_senders_go_while_all_are_counted(
    scheme: str, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"{scheme}:{socket_path}"
    with kin.open_receiver(address) as receiver:
        senders = [kin.open_sender(address, timeout=HANG) for _ in range(3)]
        for sender in senders:
            sender.send(1)
            assert receiver.recv(timeout=HANG) == 1

        def go() -> None:
            for sender in senders:
                sender.close()
            with pytest.raises(kin.EndOfChannel):
                receiver.recv(timeout=HANG)

        real, asked = bytes_waiting, []

        def ask(fd: int) -> int:
            asked.append(fd)
            return with_an_event(lambda: real(fd), go)() if len(asked) == 1 else real(fd)

        monkeypatch.setattr(fan_in, "bytes_waiting", ask)
        assert receiver.statistics().depth is None
        monkeypatch.undo()
