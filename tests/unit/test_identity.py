"""Who a process is, and whether it is dead."""

from __future__ import annotations

import ctypes
import os
import signal
import threading

import pytest

from kinfolk.errors import InvalidValue
from kinfolk.identity import Identity, is_dead, open_pidfd, start_time
from tests.conformance.peers import Peers, readable, until


def test_own_identity_is_stable_and_a_childs_differs(peers: Peers) -> None:
    assert Identity.own() == Identity.of(os.getpid())
    child = peers.fork(lambda voice: Identity.own()).result()
    assert child != Identity.own()


def test_written_and_read_again() -> None:
    own = Identity.own()
    assert str(own) == f"{os.getpid()}@{own.start_time}"
    assert Identity.parse(str(own)) == own


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "@",
        "1@",
        "@1",
        "0@1",
        "01@1",
        "-1@1",
        "1@-1",
        "1@1@1",
        " 1@1",
        "1@1\n",
        "٣@1",
        "a@b",
    ],
)
def test_what_is_no_identity(text: str) -> None:
    with pytest.raises(InvalidValue, match="no identity"):
        Identity.parse(text)


def test_a_name_with_parentheses_and_spaces_confuses_nobody(peers: Peers) -> None:
    def child(voice: object) -> tuple[int, int | None]:
        libc = ctypes.CDLL(None)
        before = start_time(os.getpid())
        libc.prctl(15, b"a) S 1 (b)", 0, 0, 0)  # PR_SET_NAME
        return before or 0, start_time(os.getpid())

    before, after = peers.fork(child).result()
    assert before == after > 0


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**32 - 1, 2**22 + 5])
def test_no_process_has_such_a_number(pid: int) -> None:
    assert open_pidfd(pid) is None


def test_a_thread_is_no_process() -> None:
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert open_pidfd(thread.native_id) is None
    finally:
        go.set()
        thread.join()


def test_dead_is_what_the_kernel_says(peers: Peers) -> None:
    peer = peers.fork(lambda voice: voice.hear())
    pidfd = open_pidfd(peer.pid)
    assert pidfd is not None
    assert not os.get_inheritable(pidfd)
    assert not is_dead(pidfd)
    peer.signal(signal.SIGSTOP)
    until(lambda: start_time(peer.pid), "stat of the stopped one")
    assert not is_dead(pidfd)
    peer.signal(signal.SIGKILL)
    readable(pidfd)
    assert is_dead(pidfd)  # and a zombie
    assert Identity.of(peer.pid) is not None
    peer.wait()
    assert is_dead(pidfd)
    assert Identity.of(peer.pid) is None
    assert open_pidfd(peer.pid) is None
    os.close(pidfd)
