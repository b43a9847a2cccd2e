"""Exit handlers: when they run, in which order, and what they are told.

Ends of real interpreters. One program plays every scenario, each in a child that its main thread forks at module level, so
that a child ends as a program does. What the handlers were told is held against what the parent saw.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from kinfolk.errors import InvalidValue
from kinfolk.processes.exit_handlers import exit as kin_exit
from kinfolk.processes.exit_handlers import forget_exit_handler, on_exit
from kinfolk.processes.exit_status import ExitStatus
from tests.conformance.peers import HANG

# What would change how an interpreter ends or prints.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONUNBUFFERED", "PYTHONINSPECT")
}

PROGRAM = r"""
import atexit, multiprocessing, os, signal, sys, threading, types, warnings
from kinfolk.processes import exit_handlers
from kinfolk.processes.exit_handlers import at_exit, exit_now, forget_exit_handler, on_exit
from kinfolk.processes.exit_handlers import exit as kin_exit
from kinfolk.processes.exit_status import ExitStatus
warnings.simplefilter("ignore")
directory, *names = sys.argv[1:]

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())

def told(status, arg):
    say(arg, status)

def never():
    threading.Event().wait()

# ------------------------------------------------------------ scenarios: functions, run at module level

def returns(): pass
def exit_3(): kin_exit(3)
def exit_default(): kin_exit()
def exit_of_a_status(): kin_exit(ExitStatus.from_wait(9))
def exit_of_an_unknown_status(): kin_exit(ExitStatus.unknown("lost"))

def exit_unwinds():
    with open(os.devnull):
        try:
            kin_exit(3)
        finally:
            say("unwound")

def exit_seen_on_the_way():
    try:
        kin_exit(3)
    except SystemExit as error:
        assert error.code == 3
        raise

def exit_in_asyncio():
    import asyncio
    async def main():
        kin_exit(3)
    asyncio.run(main())

def exit_caught_then_another():
    try:
        kin_exit(3)
    except SystemExit as error:
        assert error.code == 3
        sys.exit(5)

def exit_caught_then_returns():
    try:
        kin_exit(3)
    except SystemExit:
        pass

def bare_exit(): sys.exit(5)
def bare_exit_0(): sys.exit(0)
def bare_exit_with_a_text(): raise SystemExit("a text")
def uncaught(): 1 / 0

def uncaught_with_a_hook():
    def hook(*args):
        sys.exit(8)
    sys.excepthook = hook
    1 / 0

def stale_exception():
    try:
        1 / 0
    except ZeroDivisionError as error:
        sys.last_value = error
    sys.exit(4)

def interrupted(): os.kill(os.getpid(), signal.SIGINT); never()

def terminated(): os.kill(os.getpid(), signal.SIGTERM); never()

def terminated_by_a_handled_signal():
    signal.signal(signal.SIGTERM, lambda number, frame: kin_exit(128 + number))
    os.kill(os.getpid(), signal.SIGTERM)
    never()

def thread_exits():
    sys.stdout.write("printed before\n")
    threading.Thread(target=kin_exit, args=(7,), daemon=True).start()
    never()

def thread_exits_after_main():
    def body():
        threading.main_thread().join()
        kin_exit(7)
    threading.Thread(target=body).start()

def threads_exit_at_once():
    gate = threading.Barrier(4)
    def body():
        gate.wait()
        kin_exit(7)
    for _ in range(4):
        threading.Thread(target=body).start()
    never()

def thread_exits_while_handlers_run():
    go = threading.Event()
    thread = threading.Thread(target=lambda: go.wait() and kin_exit(7), daemon=True)
    thread.start()
    def handler():
        go.set()
        thread.join()  # it ends, and the process does not
        say("joined")
    at_exit(handler)

def forked_by_a_thread():
    def body():
        if (pid := os.fork()) == 0:
            kin_exit(6)
        say("child", ExitStatus.from_wait(os.waitpid(pid, 0)[1]))
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

def exits_now(): sys.stdout.write("never written"); exit_now(9)
def exits_by_os(): os._exit(9)
def killed(): os.kill(os.getpid(), signal.SIGKILL)

def order():
    for number in range(100):  # 32 is not the end
        on_exit(told, number) if number % 2 else at_exit(lambda number=number: say(number))

def the_same_twice():
    on_exit(told, "again")
    on_exit(told, "again")

def some_raise():
    def bad():
        raise ValueError("this one")
    at_exit(lambda: say("first"))
    at_exit(bad)
    at_exit(lambda: sys.exit(9))
    at_exit(lambda: os.kill(os.getpid(), signal.SIGINT) or never())
    at_exit(lambda: say("last"))

def stderr_is_gone():
    at_exit(lambda: 1 / 0)
    sys.stderr = None

def registers_another():
    at_exit(lambda: say("second"))
    def handler():
        say("first")
        on_exit(told, "from a handler")
    at_exit(handler)

def forgets():
    def handler(): say("forgotten?")
    def other(status, arg): say("forgotten, too?")
    at_exit(handler), on_exit(other, 1), at_exit(handler)
    say(forget_exit_handler(handler), forget_exit_handler(other), forget_exit_handler(never))

def handler_exits():
    at_exit(lambda: say("still runs"))
    at_exit(lambda: kin_exit(9))

def handler_exits_now():
    at_exit(lambda: say("skipped"))
    at_exit(lambda: exit_now(9))

def decorated():
    @at_exit
    def handler(): say("decorated")
    assert callable(handler)

def among_pythons_own():
    atexit._clear()
    exit_handlers._list.hooked = False
    forget_exit_handler(told)
    atexit.register(say, "python 1")
    on_exit(told, "ours 1")
    atexit.register(say, "python 2")
    at_exit(lambda: say("ours 2"))

def too_late():
    atexit._clear()
    exit_handlers._list.hooked = False
    atexit.register(lambda: at_exit(never))  # runs after all of ours
    at_exit(lambda: say("in time"))

def run_before_the_end():
    atexit._run_exitfuncs()

def forks():
    on_exit(told, "the parent's own"), at_exit(lambda: say("not the child's"), inherited=False)
    if (pid := os.fork()) == 0:
        on_exit(told, "the child's own")
        kin_exit(3)
    os.waitpid(pid, 0)
    say("---")

def child_drops_all():
    if (pid := os.fork()) == 0:
        exit_handlers.drop_inherited()
        on_exit(told, "the child's own")
        return
    os.waitpid(pid, 0)
    say("---")

def handler_forks():
    at_exit(lambda: say("after"))
    def handler():
        if (pid := os.fork()) != 0:
            say(ExitStatus.from_wait(os.waitpid(pid, 0)[1]))
        else:
            say("child")
    at_exit(handler)
    kin_exit(2)

def handler_forks_in_a_thread():
    at_exit(lambda: say("not inherited"), inherited=False)
    def handler():
        if (pid := os.fork()) != 0:
            say(ExitStatus.from_wait(os.waitpid(pid, 0)[1]))
        else:
            say("child")
    at_exit(handler)
    threading.Thread(target=kin_exit, args=(2,)).start()
    never()

def child_of_a_handler_cant_exit():
    at_exit(lambda: kin_exit(9))
    def handler():
        if (pid := os.fork()) != 0:
            os.waitpid(pid, 0)
    at_exit(handler)
    threading.Thread(target=kin_exit, args=(2,)).start()
    never()

def forked_while_a_thread_exits():
    running, go = threading.Event(), threading.Event()
    at_exit(lambda: running.set() or go.wait())
    threading.Thread(target=kin_exit, args=(7,)).start()
    running.wait()
    if (pid := os.fork()) == 0:
        kin_exit(3)
    os.waitpid(pid, 0)
    go.set()
    never()

def thread_exits_with_atexit_cleared():
    atexit._clear()
    threading.Thread(target=kin_exit, args=(7,)).start()
    never()

def multiprocessing_child():
    child = multiprocessing.get_context("fork").Process(target=say, args=("child",))
    child.start()
    child.join()

def registered_in_a_child():
    # whoever clears atexit in a child (multiprocessing does) takes the entry of the parent's list away
    on_exit(told, "ours")
    if (pid := os.fork()) == 0:
        atexit._clear()
        on_exit(told, "the child's own")
        return
    os.waitpid(pid, 0)
    exit_now(0)

def stdout_is_full():
    on_exit(told, "with a full disk")
    sys.stdout = open("/dev/full", "w")
    sys.stdout.write("lost")
    threading.Thread(target=kin_exit, args=(7,)).start()
    never()

# ------------------------------------------------------------ each in a child, at module level

for name in names:
    if (pid := os.fork()) == 0:
        for fd, suffix in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{directory}/{name}.{suffix}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), fd)
        break
    word = os.waitpid(pid, 0)[1]
    with open(f"{directory}/{name}.word", "w") as file:
        file.write(str(word))
else:
    os._exit(0)
on_exit(told, "told")
globals()[name]()
"""


class Ending(NamedTuple):
    """What the parent saw of a scenario."""

    status: ExitStatus
    out: list[str]
    err: str

    @property
    def told(self) -> str:
        """The status that the handler registered first was given."""
        told = [line.removeprefix("told ") for line in self.out if line.startswith("told ")]
        assert len(told) == 1, self
        return told[0]


SCENARIOS = [
    line.removeprefix("def ").partition("(")[0]
    for line in PROGRAM.partition("# ---")[2].splitlines()
    if line.startswith("def ")
]


def play(directory: Path, command: list[str], names: list[str]) -> dict[str, Ending]:
    subprocess.run(
        [sys.executable, *command, str(directory), *names],
        timeout=HANG,
        check=True,
        env=ENVIRONMENT | {"PYTHONPATH": f"{directory}:{os.environ.get('PYTHONPATH', '')}"},
    )
    return {
        name: Ending(
            ExitStatus.from_wait(int((directory / f"{name}.word").read_text())),
            (directory / f"{name}.out").read_text().splitlines(),
            (directory / f"{name}.err").read_text(),
        )
        for name in names
    }


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    """Every scenario, played by a script."""
    directory = tmp_path_factory.mktemp("endings")
    (directory / "program.py").write_text(PROGRAM)
    return play(directory, [str(directory / "program.py")], SCENARIOS)


def exited(code: int) -> ExitStatus:
    return ExitStatus("exited", code=code)


KNOWN = {
    "returns": exited(0),
    "exit_3": exited(3),
    "exit_default": exited(0),
    "exit_of_a_status": exited(137),
    "exit_of_an_unknown_status": exited(125),
    "exit_unwinds": exited(3),
    "exit_seen_on_the_way": exited(3),
    "exit_in_asyncio": exited(3),
    "exit_caught_then_returns": exited(0),
    "uncaught": exited(1),
    "interrupted": ExitStatus("signaled", signal=signal.SIGINT),
    "terminated_by_a_handled_signal": exited(143),
    "thread_exits": exited(7),
    "thread_exits_after_main": exited(7),
    "threads_exit_at_once": exited(7),
    "thread_exits_with_atexit_cleared": exited(7),
    "thread_exits_while_handlers_run": exited(0),
    "stderr_is_gone": exited(0),
    "stdout_is_full": exited(7),
}

UNKNOWN = {
    "exit_caught_then_another": (exited(5), "SystemExit"),
    "bare_exit": (exited(5), "SystemExit"),
    "bare_exit_0": (exited(0), "SystemExit"),
    "bare_exit_with_a_text": (exited(1), "SystemExit"),
    "stale_exception": (exited(4), "SystemExit"),
    "uncaught_with_a_hook": (exited(8), "excepthook"),
    "run_before_the_end": (exited(0), "before the end"),
}

SILENT = {
    "exits_now": exited(9),
    "exits_by_os": exited(9),
    "killed": ExitStatus("signaled", signal=signal.SIGKILL),
    "terminated": ExitStatus("signaled", signal=signal.SIGTERM),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_handler_is_told_what_the_parent_sees(endings: dict[str, Ending], name: str) -> None:
    ending = endings[name]
    assert ending.status == KNOWN[name]
    assert ending.told == str(ending.status)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cant_be_known_is_unknown_and_never_wrong(
    endings: dict[str, Ending], name: str
) -> None:
    ending = endings[name]
    status, why = UNKNOWN[name]
    assert ending.status == status
    assert ending.told.startswith("unknown: ")
    assert why in ending.told


@pytest.mark.parametrize("name", SILENT)
def test_no_handler_runs(endings: dict[str, Ending], name: str) -> None:
    ending = endings[name]
    assert ending.status == SILENT[name]
    assert (ending.out, ending.err) == ([], "")


def test_exit_runs_finally(endings: dict[str, Ending]) -> None:
    assert endings["exit_unwinds"].out == ["unwound", "told exited 3"]


def test_exit_of_a_thread_flushes(endings: dict[str, Ending]) -> None:
    assert endings["thread_exits"].out == ["told exited 7", "printed before"]


def test_the_exit_of_a_thread_that_comes_too_late_ends_the_thread_alone(
    endings: dict[str, Ending],
) -> None:
    assert endings["thread_exits_while_handlers_run"].out == ["joined", "told exited 0"]


def test_a_child_forked_by_a_thread_ends_for_real(endings: dict[str, Ending]) -> None:
    assert endings["forked_by_a_thread"].out == [
        "told exited 6",
        "child exited 6",
        "told exited 0",
    ]


def test_last_in_first_out_without_a_limit(endings: dict[str, Ending]) -> None:
    expected = [f"{n} exited 0" if n % 2 else str(n) for n in reversed(range(100))]
    assert endings["order"].out == [*expected, "told exited 0"]
    assert endings["the_same_twice"].out == ["again exited 0", "again exited 0", "told exited 0"]


def test_one_that_raises_is_shown_and_stops_nobody(endings: dict[str, Ending]) -> None:
    ending = endings["some_raise"]
    assert ending.out == ["last", "first", "told exited 0"]
    assert ending.status == exited(0)
    shown = ending.err.split("Exception ignored in exit handler")
    assert [part.splitlines()[-1] for part in shown[1:]] == [
        "KeyboardInterrupt",
        "SystemExit: 9",
        "ValueError: this one",
    ]
    assert "some_raise.<locals>.bad" in ending.err


def test_a_handler_may_register_another(endings: dict[str, Ending]) -> None:
    assert endings["registers_another"].out == [
        "first",
        "from a handler exited 0",
        "second",
        "told exited 0",
    ]


def test_a_handler_may_be_taken_back(endings: dict[str, Ending]) -> None:
    assert endings["forgets"].out == ["2 1 0", "told exited 0"]


def test_a_handler_cant_exit_but_can_now(endings: dict[str, Ending]) -> None:
    ending = endings["handler_exits"]
    assert ending.out == ["still runs", "told exited 0"]
    assert "an exit handler can't exit" in ending.err
    ending = endings["handler_exits_now"]
    assert (ending.out, ending.status) == ([], exited(9))


def test_as_a_decorator(endings: dict[str, Ending]) -> None:
    assert endings["decorated"].out == ["decorated", "told exited 0"]


def test_the_list_is_one_entry_of_pythons(endings: dict[str, Ending]) -> None:
    assert endings["among_pythons_own"].out == ["python 2", "ours 2", "ours 1 exited 0", "python 1"]


def test_too_late_is_said(endings: dict[str, Ending]) -> None:
    ending = endings["too_late"]
    assert ending.out == ["in time", "told exited 0"]
    assert "too late for an exit handler" in ending.err


def test_a_forked_child_inherits_but_for_what_is_not_for_it(endings: dict[str, Ending]) -> None:
    assert endings["forks"].out == [
        "the child's own exited 3",
        "the parent's own exited 3",
        "told exited 3",
        "---",
        "not the child's",
        "the parent's own exited 0",
        "told exited 0",
    ]
    assert endings["child_drops_all"].out == ["the child's own exited 0", "---", "told exited 0"]
    assert endings["registered_in_a_child"].out == [
        "the child's own exited 0",
        "ours exited 0",
        "told exited 0",
    ]


def test_a_child_of_a_handler_goes_on_with_those_that_are_left(endings: dict[str, Ending]) -> None:
    if sys.version_info[:2] != (3, 12):  # which can't fork during its end
        assert endings["handler_forks"].out == [
            *("child", "after", "told exited 2"),
            *("exited 2", "after", "told exited 2"),
        ]
    assert endings["handler_forks_in_a_thread"].out == [
        *("child", "told exited 2"),
        *("exited 2", "not inherited", "told exited 2"),
    ]


def test_a_child_of_a_handler_cant_exit_either(endings: dict[str, Ending]) -> None:
    ending = endings["child_of_a_handler_cant_exit"]
    assert ending.out == ["told exited 2"] * 2
    assert ending.err.count("an exit handler can't exit") == 2


def test_a_child_forked_while_a_thread_exits_has_an_end_of_its_own(
    endings: dict[str, Ending],
) -> None:
    assert endings["forked_while_a_thread_exits"].out == ["told exited 3", "told exited 7"]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="multiprocessing runs atexit since 3.14")
def test_a_child_of_multiprocessing_skips_them(endings: dict[str, Ending]) -> None:
    assert endings["multiprocessing_child"].out == ["child", "told exited 0"]


def test_every_scenario_is_looked_at(endings: dict[str, Ending]) -> None:
    assert len(endings) == len(set(SCENARIOS)) > 40
    loud = {"uncaught", "interrupted", "some_raise", "handler_exits", "too_late"}
    loud |= {"child_of_a_handler_cant_exit"}
    if sys.version_info[:2] == (3, 12):
        loud.add("handler_forks")
    assert {name for name, ending in endings.items() if "Traceback" in ending.err} == loud


# ------------------------------------------------------------------- other ways to run a program


@pytest.mark.parametrize("way", ["-m", "-c"])
def test_however_python_was_started(tmp_path: Path, way: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["-m", "program"] if way == "-m" else ["-c", PROGRAM]
    names = [*("returns", "exit_3", "uncaught", "interrupted", "bare_exit", "stale_exception")]
    for name, ending in play(tmp_path, command, names).items():
        if name in KNOWN:
            assert ending.status == KNOWN[name]
            assert ending.told == str(ending.status)
        else:
            assert ending.told.startswith("unknown: ")


@pytest.mark.parametrize(("line", "told"), [("", "unknown: "), ("exit(4)", "exited 4\n")])
def test_at_a_prompt_a_line_that_returned_is_no_success(line: str, told: str) -> None:
    program = f"""
        import sys
        from kinfolk.processes.exit_handlers import exit, on_exit
        on_exit(lambda status, arg: sys.stdout.write(f"told {{status}}\\n"), None)
        {line}
    """
    shown = subprocess.run(
        [sys.executable, "-q", "-i"],
        input=textwrap.dedent(program),
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        env=ENVIRONMENT,
    )
    assert f"told {told}" in shown.stdout, shown


SOURCE = r"""
import os, signal
from kinfolk.processes.exit_handlers import at_exit, exit as kin_exit, on_exit

def func1():
    print(f"<atexit> func1 getpid = {os.getpid()} ")

def func2():
    print(f"<atexit> func2 getpid = {os.getpid()} ")

def func3():
    print(f"<atexit> func3 getpid = {os.getpid()} ")

def func(status, text):
    print(f"<on_exit> exit_code: {status.code}, arg: {text} getpid = {os.getpid()} ")

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
on_exit(func, "on_exit3")
on_exit(func, "on_exit2")
on_exit(func, "on_exit1")
at_exit(func3)
at_exit(func2)
at_exit(func1)
pid = os.fork()
if pid == 0:
    kin_exit(0)
try:
    os.waitpid(pid, 0)  # returns when the child has gone, with an error, as its parent ignores SIGCHLD
except ChildProcessError:
    pass
"""


def test_the_program_of_the_source_prints_its_lines() -> None:
    """Both processes run all six; the listing in the source lacks the parent's last one."""
    shown = subprocess.run(
        [sys.executable, "-c", SOURCE],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=True,
        env=ENVIRONMENT,
    )
    lines = shown.stdout.splitlines()
    pids = [line.rpartition("getpid = ")[2].strip() for line in lines]
    child, parent = pids[0], pids[-1]
    expected = [
        *("<atexit> func1", "<atexit> func2", "<atexit> func3"),
        *(f"<on_exit> exit_code: 0, arg: on_exit{n}" for n in (1, 2, 3)),
    ]
    assert child != parent
    assert lines == [f"{line} getpid = {pid} " for pid in (child, parent) for line in expected]


# ------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize("status", [256, -1, 1.0, "x", None, ExitStatus.from_wait(0x137F)])
def test_a_status_that_would_read_as_another_is_refused(status: object) -> None:
    with pytest.raises(InvalidValue, match="no exit status"):
        kin_exit(status)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", range(256))
def test_every_code_passes(code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        kin_exit(code)
    assert caught.value.code == code


def test_what_cant_be_called_is_refused() -> None:
    with pytest.raises(InvalidValue, match="can't be called"):
        on_exit("not a function", 1)  # type: ignore[type-var]
    assert forget_exit_handler("not a function") == 0  # type: ignore[arg-type]
