"""`ExitStatus`: every code and every signal, through real children."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import signal
from pathlib import Path

import pytest

from kinfolk.errors import InvalidValue
from kinfolk.processes.exit_status import ExitStatus
from tests.unit.starting import SLEEP, shell, start

#: Those that do not end a process that does nothing about them (signal(7)).
HARMLESS = {
    signal.SIGCHLD,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGCONT,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
FATAL = sorted(signal.valid_signals() - HARMLESS)


def test_every_code_comes_back():
    children = [shell(f"exit {code}") for code in range(256)]
    for code, child in enumerate(children):
        status = child.wait()
        assert status == ExitStatus("exited", code=code)
        assert (status.code, status.signal, status.shell_code) == (code, None, code)
        assert status.success is (code == 0)
        assert str(status) == f"exited {code}"


def test_every_fatal_signal_comes_back():
    for number in FATAL:
        child = start(SLEEP, rlimits={"core": 0})
        assert child.signal(number)
        status = child.wait()
        assert (status.kind, status.signal, status.code) == ("signaled", number, None)
        assert not status.core_dumped
        assert not status.success
        assert status.shell_code == 128 + number


def test_a_core_is_told(tmp_path):
    if Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        pytest.skip("cores go to a program here (core_pattern)")
    status = shell("kill -SEGV $$", cwd=tmp_path, rlimits={"core": None}).wait()
    assert status.core_dumped
    assert str(status) == "killed by SIGSEGV (core dumped)"
    assert status.shell_code == 139
    # The negative control: the same without a core.
    status = shell("kill -SEGV $$", cwd=tmp_path, rlimits={"core": 0}).wait()
    assert str(status) == "killed by SIGSEGV"


def test_usage_comes_along():
    usage = shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done").wait().usage
    assert usage is not None
    assert usage.ru_utime > 0
    assert usage.ru_maxrss > 0


def test_stopped_and_continued_are_no_ends():
    stopped = ExitStatus.from_wait(signal.SIGTSTP << 8 | 0x7F)
    assert str(stopped) == "stopped by SIGTSTP"
    assert not stopped.ended
    assert not stopped.success
    continued = ExitStatus.from_wait(0xFFFF)
    assert str(continued) == "continued"
    assert not continued.ended
    assert not continued.success


def test_unknown_never_reads_as_success():
    unknown = ExitStatus.unknown("somebody else had collected it")
    assert not unknown.known
    assert not unknown.success
    assert unknown.ended
    assert unknown.code is None
    assert unknown.shell_code == 125
    assert str(unknown) == "unknown: somebody else had collected it"
    assert unknown != ExitStatus("exited", code=0)


@pytest.mark.parametrize("code", [0, 1])
def test_it_is_neither_true_nor_false(code):
    """``if kin.system("make"):`` would be taken for success or for failure, whichever one thinks of."""
    status = ExitStatus("exited", code=code)
    for ask in (bool, lambda status: not status):
        with pytest.raises(InvalidValue, match=r"neither true nor false \(ask status.success\)"):
            ask(status)


def test_what_happened_counts_and_not_what_it_cost():
    one, other = shell("exit 3").wait(), shell("exit 3").wait()
    assert one.usage is not other.usage
    assert one == other
    assert hash(one) == hash(other)
    assert one != 3  # type: ignore[comparison-overlap]
    assert one != ExitStatus("signaled", signal=3)


def test_it_is_a_value():
    status = shell("exit 3").wait()
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.code = 0  # type: ignore[misc]
    for twin in (pickle.loads(pickle.dumps(status)), copy.copy(status)):
        assert twin == status
        assert twin.usage == status.usage


@pytest.mark.parametrize(
    ("number", "name"), [(9, "SIGKILL"), (signal.SIGRTMIN + 3, "SIGRTMIN+3"), (33, "signal 33")]
)
def test_the_signal_has_its_name(number, name):
    assert str(ExitStatus.from_wait(number)) == f"killed by {name}"
