"""`kin.spawn`: programs and functions, whatever the owner is, and what moves to them."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import functools
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk import _native, transfer
from kinfolk.processes import interpreter, keeper_line, keeping, namespace
from tests.conformance.peers import HANG, Peers, open_descriptors, readable, state, until
from tests.other_user import User
from tests.unit.keepers import _the_keeper_ends, children_of, complaint_of, output_of, peers

__all__ = ["_the_keeper_ends", "peers"]

CONTAINMENTS = ["keeper", "direct"]


@pytest.fixture(params=CONTAINMENTS)
def containment(request: pytest.FixtureRequest) -> Any:
    return request.param


# ── programs ─────────────────────────────────────────────────────────────────────────────────


def test_a_program(containment: Any) -> None:
    process = kin.spawn(["sh", "-c", "exit 3"], containment=containment)
    assert process.containment == containment
    assert process.wait(HANG).code == 3
    assert output_of(["echo", "one", "two"], containment=containment) == "one two\n"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kin.spawn("ls -l"), "sequence"),
        (lambda: kin.spawn(["ls"], "-l"), "one sequence"),
        (lambda: kin.spawn(["ls"], kwargs={"a": 1}), "one sequence"),
        (lambda: kin.spawn([]), "sequence"),
        (lambda: kin.spawn(["ls"], umaks=0), "did you mean"),  # type: ignore[call-arg]
        (lambda: kin.spawn(["ls"], containment="none"), "containment"),
        (lambda: kin.spawn(["ls"], containment="jail"), "containment"),  # type: ignore[arg-type]
        (lambda: kin.spawn(len, (), args=(1,)), "args"),  # type: ignore[call-arg]
        (lambda: kin.spawn(len, (), kwargs=[1]), "kwargs"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_told(call: Callable[[], object], words: str) -> None:
    before = open_descriptors()
    with pytest.raises(kin.InvalidValue, match=words):
        call()
    assert open_descriptors() == before


def enters_a_namespace() -> str:
    ctypes.CDLL(None).prctl(
        4, 1, 0, 0, 0
    )  # PR_SET_DUMPABLE, which a change of user takes away until the next exec
    try:
        namespace._enter()
    except OSError as error:
        return f"user namespaces are refused here: {error.strerror}"
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):  # where /proc is masked, as in some containers
            _native.mount_proc()
        os._exit(0 if (os.getpid(), os.getuid()) == (1, os.getuid()) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    return ""


def test_a_plain_user_may_have_a_namespace(as_plain_user: User) -> None:
    if why := as_plain_user.run(enters_a_namespace):
        pytest.skip(why)


def test_kernel_containment_is_that_or_an_error() -> None:
    def tells() -> None:
        print(os.getpid(), os.getppid(), sorted(filter(str.isdigit, os.listdir("/proc"))))

    try:
        text = output_of(tells, containment="kernel")
    except kin.Unsupported as error:
        assert "namespace" in str(error)
        return
    assert text == "2 1 ['1', '2']\n"
    process = kin.spawn(["sleep", "1000"], containment="kernel")
    assert process.containment == "kernel"
    line = Path(f"/proc/{process.pid}/cmdline")  # by our number, not its own; empty for a moment
    until(lambda: line.read_bytes().startswith(b"sleep\0"), "the program's own command line")
    assert os.getpgid(process.pid) == os.getpgrp()
    assert process.stop().signal == signal.SIGTERM


def test_where_there_are_no_namespaces_it_is_told(peers: Peers) -> None:
    def asks(voice) -> None:
        keeper_line.PROGRAMS["kernel"] = "tests.faults.weak_keepers:without_namespaces"
        with pytest.raises(kin.Unsupported) as caught:
            kin.spawn(["true"], containment="kernel")
        voice.say(str(caught.value))
        with pytest.raises(kin.Unsupported):
            kin.spawn(print, containment="kernel")
        keeping.keeping("kernel").end(0)
        voice.say(kin.spawn(["true"]).wait(HANG).code)
        keeping.keeping().end(0)

    owner = peers.fork(asks)
    text = owner.hear()
    assert "not permitted" in text
    assert 'containment="keeper"' in text
    assert owner.hear() == 0


# ── functions ────────────────────────────────────────────────────────────────────────────────


def report(*args: object, **kwargs: object) -> None:
    print(args, sorted(kwargs.items()))


def test_a_function_gets_its_arguments(containment: Any) -> None:
    text = output_of(report, 1, "two", kwargs={"env": 3, "b": 4}, containment=containment)
    assert text == "(1, 'two') [('b', 4), ('env', 3)]\n"


def test_it_may_be_anything_that_can_be_called() -> None:
    number = 40

    class Local:
        def __call__(self) -> None:
            print(number + 2)

    assert output_of(lambda: print(number + 1)) == "41\n"
    assert output_of(Local()) == "42\n"
    assert output_of(print, "builtin") == "builtin\n"


def raises() -> None:
    raise LookupError("nothing here")


@pytest.mark.parametrize(
    ("function", "args", "code", "words"),
    [
        (report, (), 0, ""),
        (sys.exit, (), 0, ""),
        (sys.exit, (7,), 7, ""),
        (sys.exit, (-1,), 255, ""),
        (sys.exit, ("words",), 1, "words\n"),
        (os._exit, (9,), 9, ""),
    ],
)
def test_it_ends_as_a_script_does(
    function: Callable[..., object], args: tuple[object, ...], code: int, words: str
) -> None:
    process, complaint = complaint_of(function, *args, stdout=-3)
    assert process.wait(HANG).code == code
    assert complaint == words


def test_an_exception_is_shown_without_our_frames(containment: Any) -> None:
    process, complaint = complaint_of(raises, containment=containment)
    assert process.wait(HANG).code == 1
    lines = complaint.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in raises" in lines[1]
    assert lines[-1] == "LookupError: nothing here"
    assert "function_child" not in complaint


def test_an_interrupt_ends_it_by_the_signal() -> None:
    process, complaint = complaint_of(interrupts)
    assert process.wait(HANG).signal == signal.SIGINT
    assert complaint.splitlines()[-1] == "KeyboardInterrupt"


def interrupts() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(HANG)


def test_threads_and_exit_handlers_come_before_the_end() -> None:
    def busy() -> None:
        atexit.register(print, "atexit")
        kin_at_exit("kin")
        returned = threading.Event()
        threading.Thread(target=lambda: print("thread") if returned.wait(HANG) else None).start()
        print("function", end=" ")
        returned.set()

    def kin_at_exit(word: str) -> None:
        from kinfolk.processes.exit_handlers import at_exit

        at_exit(lambda: print(word))

    assert output_of(busy) == "function thread\nkin\natexit\n"


def test_output_that_can_not_be_written_is_told() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process, _ = complaint_of(print, "lost", stdout=writer)
    script = [sys.executable, "-c", "print('lost')"]
    same, _ = complaint_of(script, stdout=writer, containment="direct")
    os.close(writer)
    assert process.wait(HANG).code == same.wait(HANG).code != 0  # 120, or 1 with PYTHONUNBUFFERED


def test_it_looks_like_its_owner() -> None:
    def tells() -> None:
        import __main__

        print(sys.argv == argv, sys.path == path, sorted(vars(__main__)) == main)

    argv, path = sys.argv, list(map(os.fsdecode, interpreter.import_path()))
    import types

    main = sorted(vars(types.ModuleType("__main__")))
    assert output_of(tells) == "True True True\n"


def test_standard_streams_are_those_asked_for(tmp_path: Path) -> None:
    def talks() -> None:
        print(input().upper())
        print(sys.stdout.line_buffering, sys.stderr.line_buffering, os.get_inheritable(1))

    script = textwrap.dedent(inspect.getsource(talks)) + "import os, sys\ntalks()"
    (tmp_path / "in").write_text("words\n")
    texts = []
    for what in (talks, [sys.executable, "-c", script]):
        with (tmp_path / "in").open() as file:
            texts.append(output_of(what, stdin=file))
    assert texts[0] == texts[1]
    assert texts[0].startswith("WORDS\n")


def test_a_terminal_is_written_to_line_by_line() -> None:
    def talks() -> None:
        print("a line")
        sys.stdin.read()

    ours, theirs = os.openpty()
    process = kin.spawn(talks, stdin=(pipe := os.pipe())[0], stdout=theirs)
    shown = b""
    while not shown.endswith(b"\n"):
        shown += os.read(ours, 100)
    assert shown == b"a line\r\n"  # although it has not ended
    for fd in (ours, theirs, *pipe):
        os.close(fd)
    assert process.wait(HANG).success


def test_descriptors_keep_their_numbers() -> None:
    reader, writer = os.pipe()
    high = os.dup(writer)
    os.close(writer)
    process = kin.spawn(os.write, high, b"passed", pass_fds=[high])
    os.close(high)
    assert process.wait(HANG).success
    assert os.read(reader, 100) == b"passed"
    os.close(reader)


ASKS_FOR_LOW_NUMBERS = """
import os, sys
import kinfolk as kin

reader, writer = os.pipe()
os.dup2(reader, 100), os.dup2(writer, 101), os.close(reader), os.close(writer)

def runs(end, number):
    end.send(os.write(number, b"x"))

tried = 0
for number in range(3, 24):
    receiver, sender = kin.channel("pipe:")
    if not os.path.exists(f"/proc/self/fd/{number}"):
        os.dup2(101, number, inheritable=False)
        tried += 1
        process = kin.spawn(runs, sender, number, pass_fds=[number], containment=sys.argv[1])
        assert receiver.recv(timeout=40) == 1
        assert process.wait(40).success
        assert os.read(100, 9) == b"x"
        os.close(number)
    receiver.close(), sender.close()
print(tried > 10)
"""


def test_a_number_that_the_child_has_something_of_its_own_at(containment: Any) -> None:
    """Each low number is asked for once; the gate, the status pipe or what moves here lies there, too."""
    command = [sys.executable, "-c", ASKS_FOR_LOW_NUMBERS, containment]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANG)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_nothing_else_of_the_owner_or_the_keeper_is_open() -> None:
    def tells() -> None:
        print([os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")[3:-1]])

    reader, writer = os.pipe()
    with kin.spawn(["sleep", "1000"]):
        assert output_of(tells) == "[]\n"
    os.close(reader)
    os.close(writer)


def test_arguments_of_any_size_travel() -> None:
    for size in (10_000, 20_000, 5_000_000):
        data = os.urandom(size)
        assert output_of(lambda data: print(hash(data) and len(data)), data) == f"{size}\n"


def test_what_can_not_be_pickled_is_told() -> None:
    before = open_descriptors()
    with pytest.raises(kin.CodecError, match=r"report.*lock.*open the rest itself"):
        kin.spawn(report, threading.Lock())
    receiver, sender = kin.channel("pipe:")
    with receiver, sender:
        with pytest.raises(kin.CodecError):
            kin.spawn(report, sender, threading.Lock())
        assert not sender.closed
    assert open_descriptors() == before


def test_what_can_not_be_unpickled_there_is_shown_there() -> None:
    class Poisoned:
        def __reduce__(self) -> Any:
            return int, ("poison",)

    process, complaint = complaint_of(report, Poisoned())
    assert process.wait(HANG).code == 1
    assert "poison" in complaint


def test_its_process_group_and_parent() -> None:
    def tells() -> None:
        print(os.getppid(), os.getpgrp())

    assert output_of(tells) == f"{keeping.keeping().keeper_pid} {os.getpgrp()}\n"
    assert output_of(tells, containment="direct") == f"{os.getpid()} {os.getpgrp()}\n"


def test_functions_start_functions() -> None:
    def outer() -> None:
        def inner() -> None:
            print("inner", os.getppid() != parent)

        parent = os.getpid()
        sys.exit(kin.spawn(inner).wait().code)

    assert output_of(outer) == "inner True\n"


# ── where the owner comes from ───────────────────────────────────────────────────────────────

SCRIPT = """
    import os, sys, threading
    import kinfolk as kin

    print("main runs")
    limit = 5

    class Thing:
        def __init__(self, number):
            self.number = number

    def double(thing):
        print(__name__, thing.number * limit, type(thing).__name__)

    waits = threading.Event()
    thread = threading.Thread(target=waits.wait)
    thread.start()
    sys.stdout.flush()
    _ = kin.spawn(double, Thing(2)).wait()
    waits.set()
    thread.join()
"""
EXPECTED = "main runs\n__main__ 10 Thing\n"


def run_python(*arguments: str, text: str = "", directory: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": os.fsdecode(b":".join(interpreter.import_path()))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        env=environment,
        cwd=directory,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["script", "module", "command", "stdin", "prompt"])
def test_main_is_never_run_again(way: str, tmp_path: Path) -> None:
    text = textwrap.dedent(SCRIPT)
    (tmp_path / "thescript.py").write_text(text)
    match way:
        case "script":
            output = run_python(str(tmp_path / "thescript.py"))
        case "module":
            output = run_python("-m", "thescript", directory=tmp_path)
        case "command":
            output = run_python("-c", text)
        case "stdin":
            output = run_python("-", text=text)
        case _:
            # Each line that is indented ends with an empty one.
            lines = text.replace("\n\n    def __init__", "\n    def __init__")
            output = run_python("-i", "-q", text=lines)
    assert output == EXPECTED


SENDERS_OF_THEIR_OWN = """
    import copy, dataclasses, enum, pickle, sys
    import kinfolk as kin

    class Unit(enum.Enum):
        KELVIN = 1

    @dataclasses.dataclass
    class Reading:
        value: int
        unit: Unit = Unit.KELVIN

    def doubled(reading):
        return Reading(2 * reading.value)

    def works(receiver, sender):
        reading = receiver.recv()
        assert type(reading) is Reading and reading.unit is Unit.KELVIN
        assert pickle.loads(pickle.dumps(reading)) == copy.deepcopy(reading) == reading
        assert pickle.loads(pickle.dumps(doubled)) is doubled
        sender.send(doubled(reading))

    def passes_on(receiver, sender, containment):
        _ = kin.spawn(works, receiver, sender, containment=containment).wait()

    for start in works, passes_on:
        ours, theirs = kin.channel("pipe:"), kin.channel("pipe:")
        more = () if start is works else (sys.argv[1],)
        with kin.spawn(start, theirs[0], ours[1], *more, containment=sys.argv[1]) as process:
            theirs[1].send(Reading(5))
            print(ours[0].recv())
            assert process.wait().success
        theirs[1].close()
        ours[0].close()
"""


def test_what_a_script_defines_can_be_sent_both_ways(containment: Any, tmp_path: Path) -> None:
    (tmp_path / "thescript.py").write_text(textwrap.dedent(SENDERS_OF_THEIR_OWN))
    output = run_python(str(tmp_path / "thescript.py"), containment)
    assert output == "Reading(value=10, unit=<Unit.KELVIN: 1>)\n" * 2


# ── what moves ───────────────────────────────────────────────────────────────────────────────


def sends(sender: kin.Sender, *objects: object) -> None:
    for thing in objects:
        sender.send(thing)


def test_an_end_moves(containment: Any) -> None:
    receiver, sender = kin.channel("pipe:")
    with receiver:
        process = kin.spawn(sends, sender, 1, "two", containment=containment)
        assert sender.closed
        assert list(receiver) == [1, "two"]  # so nobody else has it
        assert process.wait(HANG).success


def test_a_clone_keeps_the_channel() -> None:
    receiver, sender = kin.channel("pipe:")
    with receiver, sender:
        kin.spawn(sends, sender.clone(), 1).wait(HANG)
        assert not sender.closed
        sender.send(2)
        assert [receiver.recv(), receiver.recv()] == [1, 2]


def test_an_end_that_was_used_moves_with_what_was_read_ahead(socket_path: Path) -> None:
    here, there = kin.pair("unix:")
    results, told = kin.channel("pipe:")
    with here, results:
        for number in range(5):
            here.send(number)
        assert there.recv() == 0

        def receives(connection: kin.Connection, out: kin.Sender) -> None:
            with connection:
                for thing in connection:
                    out.send(thing)

        process = kin.spawn(receives, there, told)
        assert there.closed
        here.close()
        assert list(results) == [1, 2, 3, 4]
        assert process.wait(HANG).success


def receives(receiver: kin.Receiver, out: kin.Sender) -> None:
    with receiver:
        out.send(receiver.recv(timeout=HANG))


@pytest.mark.parametrize("scheme", ["pipe", "fifo", "mq", "sysv-mq", "unix-dgram"])
def test_a_receiver_that_has_received_goes_on_there(
    scheme: str, unique_name: str, socket_path: Path
) -> None:
    address = {
        "pipe": "pipe:",
        "fifo": f"fifo:{socket_path}",
        "mq": f"mq:/{unique_name}?lifetime=peers",
        "sysv-mq": "sysv-mq:",
        "unix-dgram": f"unix-dgram:{socket_path}",
    }[scheme]
    if scheme in ("pipe", "sysv-mq"):
        receiver, sender = kin.channel(address)
    else:
        receiver = kin.open_receiver(address)
        sender = kin.open_sender(address)
    results, told = kin.channel("pipe:")
    with sender, results:
        sender.send("first")
        assert receiver.recv(timeout=HANG) == "first"
        process = kin.spawn(receives, receiver, told)
        sender.send("second")
        assert results.recv(timeout=HANG) == "second"
        assert process.wait(HANG).success


class Slow:
    """Moves, and takes its time for that."""

    def __init__(self, started: int, moved: int) -> None:
        self._started, self._moved = started, moved

    def __reduce__(self) -> Any:
        departure = transfer.current_departure()
        assert departure is not None
        departure.moves(self._close)
        return str, ()

    def _close(self) -> None:
        assert not readable(self._started, 0.1), "the function ran before all had moved"
        os.write(self._moved, b"x")


def test_a_function_waits_until_all_has_moved(containment: Any) -> None:
    started, begins = os.pipe()
    sees, moved = os.pipe()

    def runs(_: Any) -> None:
        os.set_blocking(sees, False)
        ready = os.read(sees, 1)
        os.write(begins, ready)

    options = {"pass_fds": [begins, sees], "containment": containment}
    process = kin.spawn(runs, Slow(started, moved), **options)
    assert process.wait(HANG).success
    assert os.read(started, 1) == b"x"
    for fd in (started, begins, sees, moved):
        os.close(fd)


def test_what_did_not_get_there_is_still_here() -> None:
    receiver, sender = kin.channel("pipe:")
    with receiver, sender:
        with pytest.raises(kin.NotFound):
            kin.spawn(sends, sender, 1, cwd="/no/such/directory")
        sender.send("still")
        assert receiver.recv() == "still"


def test_a_child_that_can_not_unpickle_takes_the_end_along() -> None:
    class Poisoned:
        def __reduce__(self) -> Any:
            return int, ("poison",)

    receiver, sender = kin.channel("pipe:")
    with receiver:
        process = kin.spawn(sends, sender, Poisoned(), stderr=-3)
        assert sender.closed
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
        assert process.wait(HANG).code == 1


def test_an_end_as_a_programs_stream() -> None:
    receiver, sender = kin.channel("pipe:?framing=raw")
    with receiver:
        process = kin.spawn(["echo", "raw"], stdout=sender)
        assert sender.closed
        assert receiver.recv() == b"raw\n"
        assert process.wait(HANG).success


def test_nobody_carries_descriptors_at_other_times() -> None:
    assert transfer.current_departure() is None
    with transfer.departing() as departure:
        assert transfer.current_departure() is departure
        rider = departure.carry(0)
        other: list[object] = []
        thread = threading.Thread(target=lambda: other.append(transfer.current_departure()))
        thread.start()
        thread.join()
        assert other == [None]
        assert not departure.moving
        copy = os.dup(departure.descriptors[rider.place])
    assert transfer.current_departure() is None
    with transfer.arriving([copy]):
        assert rider.detach() == copy
        with pytest.raises(RuntimeError):
            rider.detach()
    os.close(copy)


# ── asyncio, detached ────────────────────────────────────────────────────────────────────────


def test_starting_and_waiting_on_asyncio() -> None:
    async def work() -> list[int | None]:
        processes = [
            await kin.aspawn(["sh", "-c", "exit 3"]),
            await kin.aspawn(sys.exit, 4),
            await kin.aspawn(["sh", "-c", "exit 5"], containment="direct"),
        ]
        return [(await process).code for process in processes]

    assert asyncio.run(work()) == [3, 4, 5]


def test_a_start_that_is_cancelled_leaves_no_child(peers: Peers) -> None:
    async def gives_up(keeper: int) -> None:
        os.kill(keeper, signal.SIGSTOP)
        until(lambda: state(keeper) == "T", "a stopped keeper")
        start = asyncio.ensure_future(kin.aspawn(["sleep", "1000"]))
        await asyncio.sleep(0)  # it has asked
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        os.kill(keeper, signal.SIGCONT)

    def asks(voice) -> None:
        kin.spawn(["true"]).wait(HANG)
        keeper = keeping.keeping().keeper_pid
        assert keeper is not None
        asyncio.run(gives_up(keeper))
        voice.say(output_of(["echo", "the next one"]))
        until(lambda: not children_of(keeper), "its end")
        keeping.keeping().end(0)

    owner = peers.fork(asks)
    assert owner.hear() == "the next one\n"
    owner.result()


def has_ended(pid: int) -> bool:
    return state(pid) in "XZ"


def test_a_detached_one_lives_on(unique_name: str) -> None:
    program = """
        import sys, time
        import kinfolk as kin
        for what in (["sleep", "1000"], time.sleep):
            args = (1000,) if callable(what) else ()
            process = kin.spawn(what, *args, detach=True, stdout=-3, stderr=-3)
            print(process.pid, process.identity.start_time, process.containment)
            del process
        kin.spawn(["sleep", "1000"])  # ends
    """
    output = run_python("-W", "ignore", "-c", textwrap.dedent(program))
    for line in output.splitlines():
        pid, start_time, containment = line.split()
        assert containment == "none"
        assert kin.Identity.of(int(pid)) == (int(pid), int(start_time))
        assert os.getsid(int(pid)) == int(pid)
        os.kill(int(pid), signal.SIGKILL)
        until(functools.partial(has_ended, int(pid)), "the end of what nobody ended")
    assert len(output.splitlines()) == 2


def test_a_handler_that_interrupts_a_start_starts_something_else(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the keeper, whose line is in use; as the docstring says."""
    exchange = keeper_line.KeeperLine.exchange

    def interrupted(line: Any, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return exchange(line, *arguments)

    def starts(voice: Any) -> None:
        def handler(*_: object) -> None:
            with pytest.raises(kin.UsageError, match="the keeper: this call would wait for itself"):
                kin.spawn(["true"])
            voice.say(str(kin.spawn(["sh", "-c", "exit 4"], containment="direct").wait(HANG)))

        signal.signal(signal.SIGUSR1, handler)
        monkeypatch.setattr(keeper_line.KeeperLine, "exchange", interrupted)
        voice.say(str(kin.spawn(["sh", "-c", "exit 3"]).wait(HANG)))
        keeping.keeping().end(0)

    owner = peers.fork(starts)
    assert owner.hear() == "exited 4"
    assert owner.hear() == "exited 3"
    owner.result()
