"""What every test shares: unique names, short socket paths, other users, and the leak check."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

import kinfolk as kin
from tests import leak_check, shares
from tests.c_compiler import CCompiler
from tests.other_user import User, nobody, why_no_other_user

_share = shares.take_directory()  # before anything starts a thread

hypothesis.settings.register_profile("kinfolk", deadline=None, print_blob=True)
hypothesis.settings.load_profile("kinfolk")


def _import_with_signals_blocked(name: str) -> None:
    """Threads that a library starts when it is imported inherit the mask: signals are for the tests."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        importlib.import_module(name)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# NumPy, once imported, keeps threads for linear algebra. Here, for some test modules import it when they are collected.
_import_with_signals_blocked("numpy")

_numbers = itertools.count()
_checks: list[leak_check.LeakCheck] = []


def start_what_stays() -> None:
    """Start what the library keeps for the life of a process, so that it is no leak.

    The first blocking call of a thread makes the descriptor by which it is woken; the first one without
    a descriptor to wait on makes those of the watcher.
    """
    for mechanism in ("pipe:", "sysv-mq:"):
        receiver, sender = kin.channel(mechanism)
        with receiver, sender, contextlib.suppress(kin.Timeout):
            receiver.recv(timeout=0.05)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails the run if it leaves anything behind; the last test then shows as an error."""
    base = tmp_path_factory.getbasetemp()
    start_what_stays()
    check = leak_check.LeakCheck()
    check.directories.append(base)
    _checks.append(check)
    yield
    leftovers = check.leftovers()
    _checks.remove(check)
    leak_check.remove_empty_runtime_directories()
    if leftovers:
        pytest.fail(
            "The tests left behind what they should have ended, closed or removed:\n  "
            + "\n  ".join(leftovers),
            pytrace=False,
        )


def pytest_runtest_logfinish(nodeid: str) -> None:
    for check in _checks:
        check.note(nodeid)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        spare_the_collector()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if _share and shares.is_over(collection_path, _share) else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    if _share is None:
        return (yield)
    with shares.compiled_modules(_share):
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    if _share is not None and shares.is_second(_share):
        config.pluginmanager.register(shares.Backwards())


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    if _share is None or session.config.option.collectonly or session.testsfailed:
        return None
    shares.run_share(session, _share)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _share is not None:
        shares.leave_sums(terminalreporter.stats, _share)


def pytest_collection_finish() -> None:
    spare_the_collector()


def spare_the_collector() -> None:
    """Have it never look again at what is there now.

    Many tests collect garbage, and in a forked child each look at an old object copies its page. What pytest holds after
    its collection, and what it has written down after each module, is no garbage of theirs.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "foreign_user" in getattr(item, "fixturenames", ()):
            item.add_marker("foreign_user")


@pytest.fixture(scope="session")
def c_compiler(tmp_path_factory: pytest.TempPathFactory) -> CCompiler:
    """One for all; runs of a suite that is shared out have their objects in common."""
    directory = _share / "objects" if _share else tmp_path_factory.mktemp("objects")
    directory.mkdir(exist_ok=True)
    return CCompiler(directory)


@pytest.fixture
def unique_name() -> str:
    """A short name that no other test and no other run uses; put a `/` before it where needed."""
    name = f"kf{os.getpid():x}-{next(_numbers)}"
    for check in _checks:
        check.queue_names.add("/" + name)
    return name


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A private directory with a path so short that a socket in it has fewer than 100 bytes."""
    path = Path(tempfile.mkdtemp(prefix="kf", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def socket_path(short_directory: Path) -> Iterator[Path]:
    """A path for a socket or FIFO, which must be gone again when the test ends."""
    path = short_directory / "s"
    yield path
    left = sorted(entry.name for entry in short_directory.iterdir())
    assert not left, f"left in the directory of socket_path: {', '.join(left)}"


@pytest.fixture(scope="session")
def _reason_against_other_users() -> str:
    return why_no_other_user()


@pytest.fixture
def foreign_user(_reason_against_other_users: str) -> User:
    """Somebody who is neither us nor root: `foreign_user.run(function, *args)`, `.popen([…])`."""
    if _reason_against_other_users:
        pytest.skip(_reason_against_other_users)
    return nobody()


@pytest.fixture
def as_plain_user(_reason_against_other_users: str) -> User:
    """A user without privileges: nobody if we are root, else ourselves. Never skips for non-root."""
    if os.geteuid() != 0:
        return User()
    if _reason_against_other_users:
        pytest.skip(_reason_against_other_users)
    return nobody()
