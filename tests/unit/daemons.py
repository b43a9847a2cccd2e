"""Real daemons for tests: started from a child of the test, seen through /proc, ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import Peer, Peers, Voice, readable


class Seen:
    """A live daemon, as /proc has it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)

    def stat(self) -> list[str]:
        """The fields of proc_pid_stat(5) from the third on."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()

    parent = property(lambda self: int(self.stat()[1]))
    group = property(lambda self: int(self.stat()[2]))
    session = property(lambda self: int(self.stat()[3]))
    terminal = property(lambda self: int(self.stat()[4]))
    cwd = property(lambda self: os.readlink(f"/proc/{self.pid}/cwd"))

    def status(self, key: str) -> str:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return line.split(":")[1].strip()
        raise AssertionError(key)

    def signals(self, key: str) -> set[int]:
        mask = int(self.status(key), 16)
        # 32 and 33 are the C library's own (nptl(7)): nobody may set them, and their state is inherited.
        return {
            number for number in range(1, 65) if mask >> (number - 1) & 1 and number not in (32, 33)
        }

    def descriptors(self) -> dict[int, str]:
        """What is open; tombstones as such."""
        found = {}
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            info = Path(f"/proc/{self.pid}/fdinfo/{name}").read_text()
            flags = int(info.split("flags:")[1].split()[0], 8)
            target = os.readlink(f"/proc/{self.pid}/fd/{name}")
            found[int(name)] = "tombstone" if flags & os.O_PATH and target == "/" else target
        return found

    def ended(self) -> bool:
        return readable(self.pidfd)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.ended()
        os.close(self.pidfd)


class Start:
    """A start of a daemon in a child: the original, what it says on standard error, and the daemon's own word."""

    def __init__(self, original: Peer, errors: int) -> None:
        self.original, self._errors = original, errors

    def said(self) -> str:
        """What the original has said, after its end."""
        self.original.ended()
        os.lseek(self._errors, 0, os.SEEK_SET)
        return os.read(self._errors, 1 << 16).decode()

    def hear(self) -> Any:
        return self.original.hear()

    def say(self, thing: Any = None) -> None:
        self.original.say(thing)

    def code(self) -> int:
        return self.original.wait()


class Daemons:
    """Starts them, and ends what is left."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._seen: list[Seen] = []
        self._files: list[int] = []

    def start(self, body: Callable[..., Any], *args: Any) -> Start:
        """Run ``body(voice, *args)`` in a child, which is expected to become a daemon, or to start one."""
        errors = self._temporary()
        self._files.append(errors)

        def live(voice: Voice) -> Any:
            os.dup2(errors, 2)
            return body(voice, *args)

        return Start(self._peers.fork(live), errors)

    def simple(self, **options: Any) -> tuple[Start, Seen]:
        """A daemon that lives until it is told something, and its original, which has ended."""
        started = self.start(live_as_daemon, options)
        seen = self.seen(started.hear())
        started.original.ended()
        return started, seen

    def refuses(self, error: type[kin.KinfolkError], match: str, **options: Any) -> None:
        """`kin.daemonize` raises in the caller, and has not forked."""

        def body(voice: Voice) -> None:
            os.fork = lambda: pytest.fail("forked")
            with pytest.raises(error, match=match):
                kin.daemonize(**options)

        self.start(body).original.result()

    def seen(self, pid: int) -> Seen:
        self._seen.append(Seen(pid))
        return self._seen[-1]

    def end(self) -> None:
        for seen in self._seen:
            seen.close()
        for number in self._files:
            os.close(number)

    def _temporary(self) -> int:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def keeping(voice: Voice, *others: Any) -> tuple[Any, ...]:
    return (voice._talk, *others)


def live_as_daemon(voice: Voice, options: dict[str, Any]) -> None:
    kin.daemonize(keep=keeping(voice), **options)
    voice.say(os.getpid())
    voice.hear()


@pytest.fixture
def daemons(peers: Peers) -> Iterator[Daemons]:
    started = Daemons(peers)
    try:
        yield started
    finally:
        started.end()


@pytest.fixture
def path(short_directory: Path) -> Path:
    return short_directory / "app.pid"


def adopter() -> int:
    """Who becomes the parent of an orphan here: init, or a subreaper."""
    words = "sleep 100 >/dev/null & echo $!"
    middle = subprocess.run(["sh", "-c", words], stdout=subprocess.PIPE, text=True, check=True)
    orphan = Seen(int(middle.stdout))
    try:
        return int(orphan.parent)
    finally:
        orphan.close()
