"""The table of signals: what it says is what the kernel does, and what people type is understood."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk.signal_table import numbers_of, shown

ALL = kin.signals.table()


def test_every_signal_of_the_machine_is_there_once() -> None:
    assert [entry.number for entry in ALL] == sorted(signal.valid_signals())
    assert len({entry.name for entry in ALL}) == len(ALL)
    assert all(entry.meaning for entry in ALL)


def test_names_are_pythons_where_python_has_one() -> None:
    for member in signal.Signals:
        assert kin.signals.name_of(member) == member.name
        assert kin.signals.number_of(member.name) is member


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_every_form_of_a_signal_is_the_same_number(entry: kin.signals.Entry) -> None:
    short = entry.name.removeprefix("SIG")
    number = int(entry.number)
    for typed in (number, str(number), entry.name, short, short.lower(), f" {entry.name.lower()} "):
        assert kin.signals.number_of(typed) == number
        assert kin.signals.entry_of(typed) is entry


def test_messages_have_a_word_for_every_number() -> None:
    assert [shown(number) for number in (None, 9, 33)] == ["no signal", "SIGKILL", "signal 33"]


@pytest.mark.parametrize(
    ("typed", "number"),
    [
        ("RTMIN", signal.SIGRTMIN),
        ("RTMIN+0", signal.SIGRTMIN),
        ("sigrtmin+3", signal.SIGRTMIN + 3),
        ("RTMAX-1", signal.SIGRTMAX - 1),
        (f"RTMIN+{signal.SIGRTMAX - signal.SIGRTMIN}", signal.SIGRTMAX),
        (f"RTMAX-{signal.SIGRTMAX - signal.SIGRTMIN}", signal.SIGRTMIN),
        ("CLD", signal.SIGCHLD),
        ("SIGPOLL", signal.SIGIO),
        ("iot", signal.SIGABRT),
    ],
)
def test_other_forms(typed: str, number: int) -> None:
    assert kin.signals.number_of(typed) == number


@pytest.mark.parametrize(
    "typed",
    [
        *("", "SIG", "KILLER", "SIGSIGKILL", "9 9", "-9", "+9", "0x9", "9.0", "RTMIN+", "RTMIN-1"),
        *("RTMAX+1", "RTMIN+999", "RTMAX-99", "0", "65", "99999", "٩", "SIG9", "TERM\n9"),
        *(0, -1, 65, 32, 33, 1 << 70, 1.0, None, True, b"KILL"),
    ],
)
def test_what_is_no_signal_is_refused(typed: object) -> None:
    with pytest.raises(kin.InvalidValue, match="there is no signal") as raised:
        kin.signals.number_of(typed)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "said"),
    [("TREM", "did you mean SIGTERM?"), ("0", "whether a process is there"), (33, "C library")],
)
def test_the_error_helps(typed: int | str, said: str) -> None:
    with pytest.raises(kin.InvalidValue, match="kin signals") as raised:
        kin.signals.number_of(typed)
    assert said in str(raised.value)


def test_one_or_several() -> None:
    assert numbers_of("TERM") == {signal.SIGTERM}
    assert numbers_of(["INT", 15, "sigterm"]) == {signal.SIGINT, signal.SIGTERM}
    for none in ([], "", 0, [None], None):
        with pytest.raises(kin.InvalidValue):
            numbers_of(none)  # type: ignore[arg-type]


@pytest.mark.parametrize("unrefusable", ["KILL", "STOP"])
def test_what_nobody_can_refuse_is_not_caught(unrefusable: str) -> None:
    assert not kin.signals.entry_of(unrefusable).catchable
    with pytest.raises(kin.InvalidValue, match="can't be caught"):
        numbers_of(["TERM", unrefusable])
    with pytest.raises(OSError, match="Invalid argument"):  # and the kernel agrees
        signal.signal(kin.signals.number_of(unrefusable), signal.SIG_DFL)


# ----------------------------------------------------------------------- what the kernel does


def _as_after_login() -> None:
    """In the child: a process group that is not orphaned (else SIGTSTP does nothing), cores allowed, all defaults."""
    os.setpgid(0, 0)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A small program that says nothing about signals; its core, if any, goes to tmp_path."""
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path, preexec_fn=_as_after_login) as process:
        yield process
        if process.returncode is None:
            process.kill()


def _word(process: subprocess.Popen[bytes], options: int) -> int:
    return os.waitpid(process.pid, options)[1]


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_the_default_action_is_what_the_kernel_does(
    child: subprocess.Popen[bytes], entry: kin.signals.Entry
) -> None:
    match entry.action:
        case "terminate" | "core":
            kin.signals.send(child.pid, entry.number)
            word = _word(child, 0)
            child.returncode = -int(entry.number)
            assert os.WIFSIGNALED(word)
            assert os.WTERMSIG(word) == entry.number
            if entry.action == "terminate":
                assert not os.WCOREDUMP(word)
        case "stop":
            kin.signals.send(child.pid, entry.number)
            word = _word(child, os.WUNTRACED)
            assert os.WIFSTOPPED(word)
            assert os.WSTOPSIG(word) == entry.number
        case "continue":
            kin.signals.send(child.pid, "STOP")
            assert os.WIFSTOPPED(_word(child, os.WUNTRACED))
            kin.signals.send(child.pid, entry.number)
            assert os.WIFCONTINUED(_word(child, os.WCONTINUED))
        case "ignore":
            kin.signals.send(child.pid, entry.number)
            kin.signals.send(child.pid, "TERM")
            word = _word(child, 0)
            child.returncode = -int(signal.SIGTERM)
            assert os.WTERMSIG(word) == signal.SIGTERM


def _dumps_core(child: subprocess.Popen[bytes], name: str) -> bool:
    kin.signals.send(child.pid, name)
    word = _word(child, 0)
    child.returncode = -os.WTERMSIG(word)
    return os.WCOREDUMP(word)


@pytest.mark.parametrize("entry", [e for e in ALL if e.action == "core"], ids=lambda e: e.name)
def test_core_means_core(tmp_path: Path, entry: kin.signals.Entry) -> None:
    def dumps(name: str) -> bool:
        with subprocess.Popen(["sleep", "60"], cwd=tmp_path, preexec_fn=_as_after_login) as child:
            return _dumps_core(child, name)

    if not dumps("ABRT"):
        pytest.skip("this machine writes no cores (RLIMIT_CORE or kernel.core_pattern)")
    assert dumps(entry.name)
    for core in tmp_path.iterdir():
        core.unlink()
