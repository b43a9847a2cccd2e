"""Orphans: `Process.stop` finds those of its process among all that the keeper has adopted, and no other process."""

from __future__ import annotations

import functools
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import kinfolk as kin
from kinfolk.identity import Identity
from kinfolk.processes import felling, keeping, mark
from kinfolk.processes.descendants import Descendants
from kinfolk.processes.process import Process
from tests.conformance.peers import HANG, Call, Peers, Voice, readable, state, until
from tests.other_user import User
from tests.unit.keepers import _the_keeper_ends as _the_keeper_ends
from tests.unit.strangers import strangers_group

LOCKS = 10

#: How a shell leaves an orphan that says who it is, in $OUT; each escapes from more than the one before.
ORPHANS = {
    "fork": "(sleep 1000 & echo $! > $OUT)",
    "session": "(setsid sh -c 'echo $$ > $OUT; exec sleep 1000' &)",
    "clean": "(env -i setsid sh -c 'echo $$ > '$OUT'; exec sleep 1000' &)",
    "daemon": """(setsid sh -c '(setsid sh -c "echo \\$\\$ > $OUT; exec sleep 1000" &)' &)""",
}

kinds = pytest.mark.parametrize("kind", ORPHANS)


@pytest.fixture
def leave(tmp_path: Path) -> Iterator[Callable[..., tuple[Process, int]]]:
    """Starts a process that leaves an orphan and goes on, or ends; both are gone at the end."""
    left: list[int] = []
    names = map(str, itertools.count())

    def start(
        kind: str, then: str = "exec sleep 1000", first: str = ":", **options: Any
    ) -> tuple[Process, int]:
        out = tmp_path / next(names)
        script = f"{first}; {ORPHANS[kind]}; {then}"
        process = kin.spawn(["sh", "-c", script], env={**os.environ, "OUT": str(out)}, **options)
        until(lambda: out.exists() and out.read_text().endswith("\n"), "the orphan is there")
        pid = int(out.read_text())
        until(lambda: felling.parent_of(pid) in (1, keeping.keeping().keeper_pid), "adopted")
        left.append(pid)
        return process, pid

    yield start
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        until(functools.partial(ended, pid), "it has ended")


def ended(pid: int) -> bool:
    return state(pid) in "XZ"


@kinds
def test_stop_finds_orphans(leave, kind):
    process, orphan = leave(kind)
    assert process.stop().signal == signal.SIGTERM
    assert ended(orphan)


@kinds
def test_without_a_mark_they_escape(leave, kind, monkeypatch):
    """The negative control."""
    monkeypatch.setattr(mark, "limits", list)
    process, orphan = leave(kind)
    process.stop()
    assert not ended(orphan)


def test_of_a_function_too(tmp_path):
    def starts(script: str, out: str) -> None:
        os.environ["OUT"] = out
        os.system(script)
        time.sleep(1000)

    out = tmp_path / "function"
    process = kin.spawn(starts, ORPHANS["daemon"], str(out))
    until(lambda: out.exists() and out.read_text().endswith("\n"), "the orphan is there")
    orphan = int(out.read_text())
    process.stop()
    assert ended(orphan)


@pytest.mark.parametrize("how", ["stop", "block", "kill"])
def test_what_an_ended_process_has_left(leave, how):
    process, orphan = leave("daemon", "exit 3")
    assert process.wait().code == 3
    assert not ended(orphan)
    match how:
        case "stop":
            assert process.stop().code == 3
            assert ended(orphan)
        case "block":
            with process:
                pass
            assert ended(orphan)
        case "kill":
            process.kill()
            until(lambda: ended(orphan), "it is killed")


@kinds
def test_who_does_not_obey_is_killed(leave, kind):
    process, orphan = leave(kind, first="trap '' TERM")
    assert process.stop(grace=0.02).signal == signal.SIGKILL
    assert ended(orphan)


def test_siblings_and_theirs_are_let_alone(leave):
    first, _ = leave("daemon")
    second, orphan = leave("daemon")
    third = kin.spawn(["sleep", "1000"])
    first.stop()
    assert (second.status, third.status) == (None, None)
    assert not ended(orphan)
    second.stop()
    third.stop()
    assert ended(orphan)


def test_a_sibling_in_the_same_group_is_let_alone(leave):
    first, orphan = leave("fork", process_group=0)
    with kin.spawn(["sleep", "1000"], process_group=first.pid) as second:
        first.stop()
        assert ended(orphan)
        assert second.status is None


@pytest.mark.parametrize("how", [{"new_session": True}, {"process_group": 0}])
def test_no_end_reaches_the_group_of_a_stranger(how):
    """Who has got the number of the ended process, and whose leader has gone too."""
    with strangers_group(lambda: kin.spawn(["true"], **how)) as (process, stranger):
        process.kill()
        assert process.stop().success
        with process:
            pass
        assert not ended(stranger)


@kinds
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_when_the_keeper_was_killed_orphans_are_found_by_their_mark_alone(leave, kind, how):
    """And they alone: one of a sibling's is not."""
    process, orphan = leave(kind, "exit 3")
    assert process.wait().code == 3
    sibling, other = leave("daemon", "exit 3")
    assert sibling.wait().code == 3
    keeper = os.pidfd_open(keeper_pid())
    signal.pidfd_send_signal(keeper, signal.SIGKILL)
    assert readable(keeper)
    os.close(keeper)
    assert not ended(orphan)
    if how == "stop":
        assert process.stop().code == 3
        assert ended(orphan)
    else:
        process.kill()
        until(lambda: ended(orphan), "it is killed")
    assert not ended(other)
    sibling.stop()
    assert ended(other)


def test_one_who_ends_while_everybody_is_looked_at_may_have_left_another(leave, monkeypatch):
    process, orphan = leave("fork")
    number, _ = resource.prlimit(orphan, LOCKS)
    looks = [{1 << 30}]  # somebody who was there, and has gone
    real = mark._everybody
    monkeypatch.setattr(mark, "_everybody", lambda: looks.pop() if looks else real())
    assert {who.pid for who in mark.orphans(number, 1 << 30)} == {process.pid, orphan}
    process.stop()


def test_who_has_the_mark_and_another_parent_is_a_stranger():
    """Nobody gets a mark by chance; but who reads it can put it on himself."""
    process = kin.spawn(["sleep", "1000"])
    with kin.spawn(["sleep", "1000"], containment="direct") as stranger:
        resource.prlimit(stranger.pid, LOCKS, resource.prlimit(process.pid, LOCKS))
        process.stop()
        assert stranger.status is None


def test_who_has_the_keeper_as_parent_and_another_mark_is_a_stranger(leave):
    process, orphan = leave("fork")
    _, hard = resource.prlimit(orphan, LOCKS)
    resource.prlimit(orphan, LOCKS, (hard, hard))  # as a login does
    process.stop()
    assert not ended(orphan)


def test_an_orphan_that_escaped_ends_with_the_owner(peers: Peers, tmp_path: Path) -> None:
    """It has taken its mark away; the keeper holds it all the same."""
    lost = f"import resource as r, os; r.setrlimit({LOCKS}, (-1, -1)); os.execvp('sleep', ['sleep', '1000'])"

    def body(voice: Voice) -> None:
        out = tmp_path / "lost"
        script = f'(setsid {sys.executable} -c "{lost}" & echo $! > {out})'
        process = kin.spawn(["sh", "-c", f"{script}; exec sleep 1000"])
        until(lambda: out.exists() and out.read_text().endswith("\n"), "it is there")
        pid = int(out.read_text())
        until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "it has no mark")
        process.stop()
        voice.say((pid, state(pid)))
        voice.hear()

    owner = peers.fork(body)
    pid, letter = owner.hear()
    assert letter in "RS"
    owner.kill()
    until(lambda: ended(pid), "the keeper ends it")


BOMB = """
import os, time
end = time.monotonic() + 20
while time.monotonic() < end:  # a chain: each forks the next and goes
    if os.fork():
        os._exit(0)
"""


@pytest.mark.parametrize("grace", [0, 0.02])
def test_a_chain_that_forks_and_goes_is_outrun(tmp_path, grace):
    process = kin.spawn([sys.executable, "-I", "-S", "-c", BOMB], cwd=tmp_path)
    process.wait(HANG)
    process.stop(grace)
    assert not any(at(tmp_path, pid) for pid in felling.children_of(keeper_pid()))


def test_one_who_ends_while_he_is_looked_at_may_have_left_another(leave, monkeypatch):
    """The first link of a chain, when the list was read; the second one, when he was."""
    process, orphan = leave("fork")
    gone = kin.spawn(["true"])
    gone.wait()
    lists = [[gone.pid]]
    monkeypatch.setattr(
        mark, "children_of", lambda pid: lists.pop() if lists else felling.children_of(pid)
    )
    number, _ = resource.prlimit(orphan, LOCKS)
    found = mark.bearers(number, (keeper_pid(),))
    assert {who.pid for who in found} == {process.pid, orphan}
    process.stop()


def test_whom_a_kill_has_missed_the_next_one_gets(leave, monkeypatch):
    """There is one after each end."""
    process, orphan = leave("fork")
    real, missing = Descendants.kill, [process.pid]

    def kill(tree: Descendants) -> None:
        if missing:
            os.kill(missing.pop(), signal.SIGKILL)
        else:
            real(tree)

    monkeypatch.setattr(Descendants, "kill", kill)
    Call(process.stop, 0).result()
    assert ended(orphan)


def keeper_pid() -> int:
    pid = keeping.keeping().keeper_pid
    assert pid is not None
    return pid


def at(directory: Path, pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(directory)
    except OSError:
        return False


def test_in_a_pid_namespace(tmp_path):
    out = tmp_path / "out"
    command = ["sh", "-c", f"(setsid sleep 1000 & echo > {out}); exec sleep 1000"]
    try:
        process = kin.spawn(command, containment="kernel")
    except kin.Unsupported as error:
        pytest.skip(str(error))
    until(out.exists, "the orphan is there")
    keeper = felling.parent_of(process.pid)
    assert keeper is not None
    until(lambda: len(felling.children_of(keeper)) == 2, "adopted")
    process.stop()
    until(lambda: felling.children_of(keeper) == [], "the keeper has reaped both")


# ── the mark itself ──────────────────────────────────────────────────────────────────────────


def marked_child(number: int) -> int:
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(LOCKS, (number, resource.getrlimit(LOCKS)[1]))
        signal.pause()
        os._exit(0)
    until(lambda: resource.prlimit(pid, LOCKS)[0] == number, "it has its mark")
    return pid


def as_bearer() -> tuple[list[Identity], Identity | None]:
    pid = marked_child(12345)
    try:
        return list(mark.bearers(12345, (os.getpid(),))), Identity.of(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_plain_user_sees_it(as_plain_user: User) -> None:
    found, child = as_plain_user.run(as_bearer)
    assert found == [child]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_is_seen_where_the_limits_of_others_are_closed(monkeypatch, peers):
    """A root without CAP_SYS_RESOURCE, and a child that has become another user."""

    def refuses(*_: object) -> None:
        raise PermissionError

    def body(voice: Voice) -> Any:
        pid = marked_child(12345)
        monkeypatch.setattr(resource, "prlimit", refuses)
        found = list(mark.bearers(12345, (os.getpid(),)))
        child = Identity.of(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return found, child

    found, child = peers.fork(body).result()
    assert found == [child]


@pytest.mark.parametrize("hard", [0, 100])
def test_without_room_for_one_there_is_none(peers, hard):
    def body(voice: Voice) -> Any:
        resource.setrlimit(LOCKS, (hard, hard))
        code = kin.spawn(["sh", "-c", "exit 3"]).wait(HANG).code
        keeping.keeping().end(0)
        return mark.limits(), code

    assert peers.fork(body).result() == ([], 3)


def test_each_is_another_one():
    assert len({mark.limits()[0][1] for _ in range(100)}) == 100


def test_only_this_limit_differs():
    process = kin.spawn(["sleep", "1000"])
    both = [Path(f"/proc/{pid}/limits").read_text().splitlines() for pid in (process.pid, "self")]
    changed = [theirs for theirs, ours in zip(*both, strict=True) if theirs != ours]
    assert [line[:14] for line in changed] == ["Max file locks"]
    assert changed[0].split()[4] == "unlimited"
    process.stop()
