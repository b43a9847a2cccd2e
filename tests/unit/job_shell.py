"""A shell with job control, on a terminal that the test types at: it starts one job, and says what becomes of it.

test ── types ──> pty ── Ctrl-C, Ctrl-Z, input ──> whoever is in the foreground
  └──── tells ──> shell (session leader) ── waitpid(WUNTRACED) ──> the job (a process group)
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.conformance.peers import Peer, Peers, Voice


class Change(NamedTuple):
    """What the shell saw of its job: "exited", "signaled" or "stopped", by what, and whether the job had the terminal then."""

    kind: str
    number: int
    had_terminal: bool


class Terminal:
    """The test's side."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._master, self._slave = os.openpty()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)

    def lead(self, body: Callable[[Voice], Any]) -> Peer:
        """A session leader with this terminal as its standard input, without a shell."""

        def leader(voice: Voice) -> Any:
            self.become_leader()
            return body(voice)

        return self._peers.fork(leader)

    def become_leader(self) -> None:
        """Lead a session, with this terminal as its own and as standard input."""
        os.setsid()
        terminal = os.open(os.ttyname(self._slave), os.O_RDWR)  # the first one is the session's
        os.dup2(terminal, 0)
        os.close(terminal)
        self.close()

    def run(self, job: Callable[[], int], *, background: bool = False) -> Job:
        """Have a shell run a job; the function is called in a process of its own, and gives its exit code."""
        peer = self.lead(lambda voice: _shell(voice, job, background))
        return Job(peer, peer.hear())


class Job:
    """A job, and the shell that has started it."""

    def __init__(self, shell: Peer, pid: int) -> None:
        self.shell, self.pid = shell, pid

    def change(self) -> Change:
        """What becomes of it; after that the shell has the terminal, and waits for an order."""
        change = self.shell.hear()
        assert isinstance(change, Change)
        if change.kind != "stopped":
            self.shell.result()  # another session can have the terminal now
        return change

    def foreground(self) -> None:
        """fg"""
        self.shell.say("fg")

    def background(self) -> None:
        """bg"""
        self.shell.say("bg")


def _shell(voice: Voice, job: Callable[[], int], background: bool) -> None:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            if not background:
                os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            code = job()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    voice.say(pid)
    while True:
        change = _change(pid)
        os.tcsetpgrp(0, os.getpgrp())
        voice.say(change)
        if change.kind != "stopped":
            return
        if voice.hear() == "fg":
            os.tcsetpgrp(0, pid)
        os.killpg(pid, signal.SIGCONT)


def _change(pid: int) -> Change:
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
    assert info is not None
    kinds = {os.CLD_EXITED: "exited", os.CLD_STOPPED: "stopped"}
    change = Change(kinds.get(info.si_code, "signaled"), info.si_status, os.tcgetpgrp(0) == pid)
    os.waitpid(pid, os.WUNTRACED)
    return change
