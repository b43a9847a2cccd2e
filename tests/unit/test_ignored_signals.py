"""What a child finds ignored: what its starter does, by whatever means, but for what that does for itself or for a moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.processes import ignored_signals, keeping
from tests.conformance.peers import HANG, Peers, Voice, thread_of
from tests.unit.keepers import output_of

WAYS = [{"containment": "keeper"}, {"containment": "direct"}, {"detach": True}]
BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
STATUS = ["cat", "/proc/self/status"]

way = pytest.mark.parametrize("way", WAYS, ids=["keeper", "direct", "detached"])


def ignored_in(status: str) -> set[int]:
    mask = int(status.split("SigIgn:")[1].split(maxsplit=1)[0], 16)
    return {number for number in range(1, 65) if mask >> number - 1 & 1}


UNDER_MAKE = f"""
import sys
from pathlib import Path
import kinfolk as kin

status = Path("/proc/self/status")
def tell():
    print(status.read_text().count("SigIgn"), flush=True)

assert int(status.read_text().split("SigIgn:")[1].split()[0], 16) >> 31 & 3 == 3
for way in {WAYS}:
    kin.spawn(["grep", "SigIgn", status], **way).wait({HANG})
    assert kin.spawn(tell, **way).wait({HANG}).success
"""


def test_the_c_librarys_own_are_at_their_defaults() -> None:
    """posix_spawn(3), by which make(1) starts things, leaves 32 and 33 ignored, and nobody can set them."""
    reading, writing = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-c", UNDER_MAKE],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
        setsigdef=BY_PYTHON,
    )
    os.close(writing)
    with open(reading) as file:
        assert file.read().split() == ["SigIgn:", "0" * 16, "1"] * len(WAYS)
    assert os.waitpid(pid, 0)[1] == 0


def tell() -> None:
    """In a function's process: the kernel's word, and Python's."""
    pythons = {n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}
    print(sorted(map(int, pythons)))
    print(Path("/proc/self/status").read_text())


def in_starter(peers: Peers, ignored: Sequence[int], body: Callable[[], Any]) -> Any:
    """What ``body`` returns in a process that ignores some signals."""

    def child(voice: Voice) -> Any:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        try:
            return body()
        finally:
            keeping.keeping().end(0)

    return peers.fork(child).result()


SOME = [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTSTP, signal.SIGRTMIN + 2]


@way
@pytest.mark.parametrize("ignored", [[], SOME])
def test_a_program_ignores_what_its_starter_does(peers, way, ignored):
    """Not what that handles, and not what the keeper ignores for itself."""
    status = in_starter(peers, ignored, lambda: output_of(STATUS, **way))
    assert ignored_in(status) == set(ignored)


@way
def test_a_function_does_too(peers, way):
    pythons, _, status = in_starter(peers, SOME, lambda: output_of(tell, **way)).partition("\n")
    assert ignored_in(status) == {*SOME, *BY_PYTHON}
    assert pythons == str(sorted(map(int, {*SOME, *BY_PYTHON})))


@way
def test_but_for_sigchld(peers, way):
    """A shell could not wait for what it starts."""

    def body() -> str:
        process = kin.spawn(STATUS, stdout=kin.Redirect.PIPE, text=True, **way)
        assert process.stdout is not None
        with process.stdout as file:
            text: str = file.read()
        process.wait(
            HANG
        )  # where this process is the parent, the kernel has thrown the status away
        return text

    status = in_starter(peers, [signal.SIGCHLD, signal.SIGHUP], body)
    assert ignored_in(status) == {signal.SIGHUP}


@way
def test_one_that_is_ignored_since_the_last_start(peers, way):
    def body() -> list[str]:
        seen = [output_of(STATUS, **way)]
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        seen.append(output_of(STATUS, **way))
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        return [*seen, output_of(STATUS, **way)]

    assert list(map(ignored_in, in_starter(peers, [], body))) == [set(), {signal.SIGUSR1}, set()]


HANGS_UP = """
import sys, kinfolk as kin
options = {"detach": True} if sys.argv[1] == "detached" else {"containment": sys.argv[1]}
print(kin.spawn(["sh", "-c", "kill -HUP $$"], **options).wait())
"""


@pytest.mark.parametrize("containment", ["keeper", "direct", "detached"])
@pytest.mark.parametrize(
    ("starter", "said"), [(["nohup"], "exited 0"), (["env"], "killed by SIGHUP")]
)
def test_nohup(containment, starter, said):
    """The whole of it, as people type it; without, the negative control."""
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [*starter, sys.executable, "-c", HANGS_UP, containment]
    text = output_of(command, containment="direct", env=environment, stdin=kin.Redirect.DEVNULL)
    assert text == f"{said}\n"


def test_a_background_job_of_a_shell(peers):
    """It ignores SIGINT, so that Ctrl-C is for what is in the foreground; and so does what it starts."""
    job = f"{sys.executable} -c 'import kinfolk as kin; kin.spawn({STATUS}).wait()' & wait".replace(
        "['cat', '/proc/self/status']", '["cat", "/proc/self/status"]'
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    status = output_of(["sh", "-c", job], containment="direct", env=environment)
    assert ignored_in(status) == {signal.SIGINT, signal.SIGQUIT}


# ── for a moment ─────────────────────────────────────────────────────────────────────────────


@way
@pytest.mark.parametrize("before", [[], [signal.SIGINT]])
def test_what_system_ignores_is_for_a_moment(peers, way, before, tmp_path):
    """While another thread waits in it, a program is started; `system` itself starts one, too."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def body() -> list[str]:
        command = f"cat /proc/self/status > {tmp_path}/its; echo > {gate}; read x < {gate}"
        with thread_of(kin.system, command) as call:
            gate.read_text()
            assert ignored_in(Path("/proc/self/status").read_text()) >= {
                signal.SIGINT,
                signal.SIGQUIT,
            }
            seen = output_of(STATUS, **way)
            gate.write_text("\n")
            call.result()
        return [seen, (tmp_path / "its").read_text()]

    seen = in_starter(peers, before, body)
    gate.unlink()
    assert list(map(ignored_in, seen)) == [set(before)] * 2


def test_looking_while_moments_come_and_go():
    """Never is one taken for lasting, at whatever step of it another thread looks."""
    end = threading.Event()
    wrong: list[list[int]] = []

    def look() -> None:
        while not end.is_set():
            if found := ignored_signals.interrupts():
                wrong.append(found)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with thread_of(look) as call:
            for _ in range(2000):
                with ignored_signals.InterruptsIgnored():
                    pass
            end.set()
            call.result()
    finally:
        sys.setswitchinterval(interval)
        end.set()
    assert wrong == []
