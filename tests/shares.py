"""`make test`: the whole suite, shared out between as many runs of pytest as there are processors to use.

    python -m tests.shares        run them, show what each says, and add up

Theory of operation: every run collects everything, and takes the next test module that nobody has taken yet; the file that
stands for it is made with O_EXCL. So the runs end at about the same time, and none knows of the others. One goes backwards: what
pytest compiles of a module before it imports it, the other then finds. Where that is
allowed, a run has an IPC namespace and a /dev/shm of its own, so that it may count queues and segments; else it looks for what it
has itself left behind (KINFOLK_TEST_OWN_LEAKS). What belongs to nobody in particular is compared here too, before the first
run and after the last.

Rules:
1. A module is run by one run, whole and in order.
2. A module of `ALONE` is run at the end, when the others are over: it looks at the whole machine. So is one of `COUNTING` where a
   run has no IPC namespace of its own.
3. Each run is a process group of its own. In one that is orphaned (setpgid(2)), as those of services and CI are, the kernel
   sends SIGHUP to everybody when a keeper is killed while somebody of the group is stopped: a test of this run, and one of the other.
4. The first run speaks as it goes; what the others say is shown after it, whole.
5. What takes longest is taken first, so that nobody is left with it at the end.
6. The last line is the sum, in pytest's words; the exit code is that of the first run that failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from tests import leak_check, namespaces

#: A directory, in which the runs take modules and leave their sums.
VARIABLE = "KINFOLK_TEST_SHARES"

#: More would disturb each other: many tests have several processes of their own.
MOST = 2

#: It looks at the whole machine, and so at what others have open just now.
ALONE = ("test_leak_check.py",)

#: They count objects of their IPC namespace, or make such as remove what others have just left.
COUNTING = (
    "test_kernel_semaphores.py",
    "test_kernel_semaphore_faults.py",
    "test_kernel_semaphore_kills.py",
    "test_posix_semaphore.py",
    "test_sysv_semaphore.py",
)

#: Of a dozen CPU seconds and more each.
LONGEST = (
    "test_acknowledge_kills.py",
    "test_asyncio.py",
    "test_condition_kills.py",
    "test_echo_ask.py",
    "test_errors.py",
    "test_kill.py",
    "test_mechanisms.py",
    "test_relay.py",
    "test_ring.py",
    "test_semaphore.py",
    "test_send_recv.py",
)

#: The file in the directory that says that now is the time of those that have to be alone; and that somebody goes forwards.
_ALONE, _FORWARDS = "alone", "forwards"

_NO_TESTS = int(pytest.ExitCode.NO_TESTS_COLLECTED)


# ── in a run ─────────────────────────────────────────────────────────────────────────────────


def take_directory() -> Path | None:
    """Where the runs of this suite take their shares; None when this run does it all.

    What a test starts is no part of this, so it does not inherit the variable.
    """
    path = os.environ.pop(VARIABLE, None)
    if path is None:
        return None
    if namespaces.be_alone():
        os.environ[leak_check.VARIABLE] = leak_check.NAMESPACE
    return Path(path)


class Backwards:
    """A plugin, to collect from the last module to the first. In a conftest.py it would not be called for what lies below."""

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Of a directory, in the other order."""
        report = yield
        if isinstance(collector, pytest.Directory):
            report.result.reverse()
        return report


def is_second(taken: Path) -> bool:
    """Whether another run has begun, and goes on; to be asked once."""
    try:
        (taken / _FORWARDS).touch(exist_ok=False)
    except FileExistsError:
        return not (taken / _ALONE).exists()
    return False


@contextlib.contextmanager
def compiled_modules(taken: Path) -> Iterator[None]:
    """Where modules are imported that the runs have in common: compile each once, also where no bytecode may stay beside it."""
    before = sys.dont_write_bytecode, sys.pycache_prefix
    if sys.dont_write_bytecode:
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(taken / "bytecode")
    yield
    sys.dont_write_bytecode, sys.pycache_prefix = before


def is_over(module: Path, taken: Path) -> bool:
    """Whether a module need not be collected by the run that is alone."""
    return (taken / _ALONE).exists() and _mark(module, taken).exists()


def run_share(session: pytest.Session, taken: Path) -> None:
    """The loop of a run, over the modules that it can take."""
    items = _taken(session.items, taken)
    item = next(items, None)
    while item is not None:
        following = next(items, None)  # None: whatever is shared is torn down after this one
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following


def _taken(items: Sequence[pytest.Item], taken: Path) -> Iterator[pytest.Item]:
    later: tuple[str, ...] = ()
    if not (taken / _ALONE).exists():
        apart = os.environ.get(leak_check.VARIABLE) == leak_check.NAMESPACE
        later = ALONE if apart else (*ALONE, *COUNTING)
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    for module in sorted(modules, key=lambda module: module.name not in LONGEST):
        if module.name in later:
            continue
        try:
            _mark(module, taken).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield from modules[module]


def _mark(module: Path, taken: Path) -> Path:
    return taken / str(module).replace("/", "|")


def leave_sums(stats: dict[str, list[object]], taken: Path) -> None:
    """What pytest counted, for the sum."""
    sums = {kind: len(reports) for kind, reports in stats.items() if kind}
    (taken / f"sums-{os.getpid()}.json").write_text(json.dumps(sums))


# ── around them ──────────────────────────────────────────────────────────────────────────────


def main() -> int:
    """Run the whole suite; the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin = time.monotonic()
    before = leak_check.take_snapshot(leak_check.OF_THE_MACHINE)
    with tempfile.TemporaryDirectory(prefix="kinfolk-shares-") as place:
        codes = _run_all(Path(place))
        each = [Counter(json.loads(file.read_text())) for file in Path(place).glob("sums-*.json")]
    leak_check.remove_empty_runtime_directories()
    left = leak_check.settled(lambda: leak_check.take_snapshot(leak_check.OF_THE_MACHINE) - before)
    for kind, what in sorted(left):
        print(f"The tests left behind what they should have removed: {kind}: {what}")
    # What none of them runs, each counts; and what nobody has taken ends without a test.
    sums = sum(each, Counter())
    sums["deselected"] = max((sum_["deselected"] for sum_ in each), default=0)
    if all(code == _NO_TESTS for code in codes):
        return _NO_TESTS
    code = next((code for code in codes if code not in (0, _NO_TESTS)), 1 if left else 0)
    _print_sum(sums + Counter(error=len(left)), time.monotonic() - begin)
    return code


def _run_all(place: Path) -> list[int]:
    count = min(MOST, len(os.sched_getaffinity(0)))
    print(f"{count} runs, each of what no other has taken; this is the first", flush=True)
    codes = _run_at_once(place, count)
    (place / _ALONE).touch()
    print("\nWhat has to be alone:", flush=True)
    return codes + _run_at_once(place, 1)


def _run_at_once(place: Path, count: int) -> list[int]:
    command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    env = {**os.environ, VARIABLE: str(place), leak_check.VARIABLE: "1"}
    outputs = [(place / f"output-{number}").open("w+") for number in range(1, count)]
    runs = [
        subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            process_group=0,
        )
        for output in (None, *outputs)
    ]
    try:
        codes = [run.wait() for run in runs]
    except KeyboardInterrupt:
        for run in runs:
            run.send_signal(signal.SIGINT)
        codes = [run.wait() for run in runs]
    for number, output in enumerate(outputs, 2):
        output.seek(0)
        print(f"\nRun {number} said:")
        sys.stdout.writelines(output)
        output.close()
    return codes


def _print_sum(sums: Counter[str], seconds: float) -> None:
    words = {"error": "errors"}
    order = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warnings", "error")
    parts = [f"{sums[kind]} {words.get(kind, kind)}" for kind in order if sums[kind]]
    minutes = f"{int(seconds // 60)}:{int(seconds % 60):02}"
    line = f" {', '.join(parts)} in {seconds:.2f}s (0:0{minutes}) "
    print(f"\n{line:=^100}")


if __name__ == "__main__":
    sys.exit(main())
