"""SysVSemaphore: keys, sets, several operations as one, what is undone, and limits."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import sys
import threading

import pytest
import sysv_ipc

import kinfolk as kin
from kinfolk._native import sysv_sem_get, sysv_sem_set_value
from kinfolk.sync import sysv_set
from kinfolk.sysctl import kernel_numbers
from tests.conformance.peers import HANG, thread_of, until
from tests.namespaces import CLONE_NEWIPC, in_namespaces
from tests.unit.semaphores import sem_key as sem_key
from tests.unit.semaphores import set_of, sets, until_blocked

IPC_CREAT, IPC_EXCL = 0o1000, 0o2000
MOST = 32767


@pytest.fixture
def semaphore():
    made = kin.SysVSemaphore(n=3, value=[2, 0, 5])
    yield made
    made.close()


# ── keys ─────────────────────────────────────────────────────────────────────────────────────


def test_unrelated_processes_meet_at_a_key(sem_key, peers):
    semaphore = kin.SysVSemaphore(sem_key, n=2, value=[1, 4])
    other = peers.fork(lambda voice: kin.SysVSemaphore(hex(sem_key), value=9, undo=False).acquire())
    other.result()
    assert semaphore.values == (0, 4)
    assert semaphore.last_pid() == other.pid
    assert semaphore.n == 2


def test_a_key_of_a_file(tmp_path):
    path = tmp_path / "a#b"
    path.touch()
    semaphore = kin.SysVSemaphore(f"{path}#7", value=3)
    try:
        assert sysv_ipc.ftok(str(path), 7, silence_warning=True) == next(
            status.key for number, status in sysv_set.all_sets() if number == semaphore.id
        )
        assert kin.SysVSemaphore(f"{path}#7", value=None).id == semaphore.id
        assert repr(semaphore) == f"<SysVSemaphore {path}#7, (3,)>"
    finally:
        semaphore.unlink()
    with pytest.raises(kin.NotFound, match="create the file first"):
        kin.SysVSemaphore(f"{tmp_path}/none#7")


@pytest.mark.parametrize(
    "bad",
    ["", "x", "sysv-sem:5", 0, -1, 2**32, "0x", True, 1.5, b"1", "a\0#1", "\ud800#1", "/tmp#0"],
)
def test_keys_that_are_none(bad):
    with pytest.raises(kin.AddressError):
        kin.SysVSemaphore(bad)


def test_it_outlives_everybody_until_it_is_removed(sem_key, peers):
    peers.fork(lambda voice: kin.SysVSemaphore(sem_key, value=4).id).result()
    semaphore = kin.SysVSemaphore(sem_key, value=None)
    assert semaphore.values == (4,)
    semaphore.unlink()
    for use in (semaphore.unlink, semaphore.acquire, lambda: semaphore.values):
        with pytest.raises(kin.NotFound, match="removed") as caught:
            use()
        assert caught.value.errno == errno.EIDRM
    assert set_of(sem_key) is None
    with pytest.raises(kin.NotFound):
        kin.SysVSemaphore(sem_key, value=None)


@pytest.mark.parametrize("umask", [0, 0o777])
def test_its_mode_is_what_was_asked_for(sem_key, umask):
    before = os.umask(umask)
    try:
        semaphore = kin.SysVSemaphore(sem_key)
    finally:
        os.umask(before)
    assert (semaphore.mode, semaphore.owner) == (0o600, os.geteuid())
    semaphore.chmod(0o660)
    assert sysv_set.status_of(semaphore.id).mode == 0o660


def test_many_make_it_at_the_same_moment(sem_key, peers):
    """Whoever finds it finds its values: nobody ever sees less than was put in."""

    def make(voice) -> None:
        voice.hear()
        for _ in range(100):
            try:
                semaphore = kin.SysVSemaphore(sem_key, n=2, value=3)
                semaphore.operate([(0, -1), (1, -1)], timeout=0)
                semaphore.operate([(0, 1), (1, 1)])
                semaphore.unlink()
            except kin.NotFound:
                pass

    makers = [peers.fork(make) for _ in range(3)]
    for peer in makers:
        peer.say()
    for peer in makers:
        peer.result()


def test_fewer_than_are_needed(sem_key):
    kin.SysVSemaphore(sem_key, n=2)
    assert kin.SysVSemaphore(sem_key).n == 2
    with pytest.raises(kin.InvalidValue, match="the set has 2, and 3 are needed"):
        kin.SysVSemaphore(sem_key, n=3)


# ── made by others ───────────────────────────────────────────────────────────────────────────


def test_one_that_another_program_is_making_is_waited_for(sem_key):
    """It has no values yet; then it has."""
    number = sysv_sem_get(sem_key, 2, IPC_CREAT | IPC_EXCL | 0o600)
    with thread_of(kin.SysVSemaphore, sem_key, n=2) as call:
        until_blocked(call)
        sysv_sem_set_value(number, 0, 3)  # one of two
        until_blocked(call)
        assert call.thread.is_alive()
        sysv_sem_set_value(number, 1, 0)
        assert call.result().values == (3, 0)


def test_one_that_another_program_never_fills(sem_key, monkeypatch):
    monkeypatch.setattr(sysv_set, "PATIENCE", 0.05)
    number = sysv_sem_get(sem_key, 1, IPC_CREAT | IPC_EXCL | 0o600)
    with pytest.raises(kin.CorruptObject, match=f"has no values.*ipcrm -s {number}"):
        kin.SysVSemaphore(sem_key)


@pytest.mark.parametrize("mode", [0o600, 0o700, 0o777, 0o755])
def test_one_that_another_program_filled_is_left_as_it_is(sem_key, mode):
    """Whatever it has for a mode, and also when nobody has ever operated on it."""
    number = sysv_sem_get(sem_key, 1, IPC_CREAT | IPC_EXCL | mode)
    sysv_sem_set_value(number, 0, 5)
    assert kin.SysVSemaphore(sem_key, value=1).values == (5,)
    assert sysv_set.status_of(number).mode == mode


def test_a_set_of_another_user(sem_key, foreign_user):
    foreign_user.run(lambda: kin.SysVSemaphore(sem_key, value=2).close())
    with pytest.raises(kin.UntrustedPeer, match=f"a semaphore set of user {foreign_user.uid}"):
        kin.SysVSemaphore(sem_key)
    with kin.SysVSemaphore(sem_key, owner=foreign_user.uid) as semaphore:
        assert semaphore.values == (1,)


def test_another_user_is_let_in_by_the_mode(sem_key, foreign_user):
    semaphore = kin.SysVSemaphore(sem_key, value=2)

    def take() -> str:
        try:
            found = kin.SysVSemaphore(sem_key, value=None, undo=False)
            found.acquire(timeout=0)
        except kin.AccessDenied as error:
            return error.what
        for change in (found.unlink, lambda: found.chmod(0o777)):
            try:
                change()
            except kin.AccessDenied:
                continue
            return "changed"
        return "taken"

    assert foreign_user.run(take) == "can't open it"
    semaphore.chmod(0o644)
    assert foreign_user.run(take) == "this user may not do that"
    semaphore.chmod(0o666)
    assert foreign_user.run(take) == "taken"
    assert semaphore.values == (1,)


def test_for_a_plain_user(as_plain_user, sem_key):
    def body() -> tuple[int, ...]:
        semaphore = kin.SysVSemaphore(sem_key, n=2, value=2)
        try:
            with semaphore, kin.SysVSemaphore() as private:
                return (*semaphore.values, *private.values)
        finally:
            semaphore.unlink()

    assert as_plain_user.run(body) == (1, 2, 0)


def test_a_mode_that_lets_nobody_in(as_plain_user, sem_key):
    def body() -> str:
        before = sets()
        for key in (sem_key, None):
            with pytest.raises(kin.AccessDenied, match="can't use what was made"):
                kin.SysVSemaphore(key, mode=0)
        return str(sets() - before)

    assert as_plain_user.run(body) == "set()" or os.geteuid() == 0


# ── without a key ────────────────────────────────────────────────────────────────────────────


def test_without_a_key_it_goes_with_its_last_user(peers):
    semaphore = kin.SysVSemaphore()
    number = semaphore.id

    def use(voice) -> None:
        voice.hear()
        semaphore.acquire(timeout=0)
        semaphore.close()

    peer = peers.fork(use)
    semaphore.close()
    assert number in sets()
    peer.say()
    peer.result()
    assert number not in sets()


# ── several operations as one ────────────────────────────────────────────────────────────────


def test_all_or_none(semaphore):
    semaphore.operate([(0, -2), (1, 1), (2, -5)])
    assert semaphore.values == (0, 1, 0)
    with pytest.raises(kin.Timeout, match="the values are 0, 1, 0"):
        semaphore.operate([(1, -1), (0, -1)], timeout=0)
    assert semaphore.values == (0, 1, 0)


def test_all_are_waited_for(semaphore):
    with thread_of(semaphore.operate, [(0, -1), (1, -1)]) as call:
        until_blocked(call)
        assert semaphore.values == (2, 0, 5)  # it holds nothing meanwhile
        assert semaphore.waiting(1) == (1, 0)
        semaphore.release(index=1)
        call.result()
    assert semaphore.values == (1, 0, 5)


def test_waiting_for_zero(semaphore):
    semaphore.wait_for_zero(timeout=0, index=1)
    with thread_of(semaphore.wait_for_zero) as call:
        until_blocked(call)
        assert semaphore.waiting() == (0, 1)
        semaphore.acquire(count=2)
        call.result()
    with pytest.raises(kin.Timeout):
        semaphore.wait_for_zero(timeout=0.01, index=2)


def test_by_index_and_count(semaphore):
    semaphore.acquire(0, index=2, count=3)
    assert semaphore.values == (2, 0, 2)
    semaphore.release(index=2, count=3)
    with semaphore.hold(index=2, count=5):
        assert semaphore.values == (2, 0, 0)
    with semaphore:
        assert semaphore.values == (1, 0, 5)
    assert semaphore.values == (2, 0, 5)


def test_one_thread_waits_for_what_another_puts_in_elsewhere(semaphore):
    """By one object: no call of it stands in another's way."""
    with thread_of(semaphore.acquire, index=1) as call:
        until_blocked(call)
        semaphore.acquire(timeout=HANG)
        semaphore.operate([(0, 1), (1, 1)], timeout=HANG)
        call.result()


def test_tasks_operate(semaphore):
    async def main() -> None:
        task = asyncio.create_task(semaphore.aoperate([(0, -1), (1, -1)]))
        await asyncio.sleep(0)
        await semaphore.aacquire(index=2, count=4)
        semaphore.release(index=1)
        await task
        with pytest.raises(kin.Timeout):
            await semaphore.aoperate([(1, -1)], timeout=0.01)
        with pytest.raises(kin.InvalidValue):
            await semaphore.aacquire(count=0)

    asyncio.run(main())
    assert semaphore.values == (1, 0, 1)


def test_tasks_wait_for_zero(semaphore):
    async def main() -> None:
        with pytest.raises(kin.Timeout):
            await semaphore.aoperate([(0, 0)], timeout=0)
        task = asyncio.create_task(semaphore.aoperate([(0, 0)], timeout=HANG))
        await asyncio.to_thread(until, lambda: semaphore.waiting(0) == (0, 1), "a task that waits")
        await semaphore.aacquire()
        assert not task.done()
        await semaphore.aacquire()
        await task
        await semaphore.aoperate([(0, 0), (1, 1)])  # at once, and with something else as one

    asyncio.run(main())
    assert semaphore.values == (0, 1, 5)


@pytest.mark.parametrize(
    "bad",
    [[], [1], [(0,)], [(0, 1, 2)], [("0", 1)], [(0, None)], [(3, 1)], [(-1, 1)], [(2**70, 1)]],
)
def test_operations_that_make_no_sense(semaphore, bad):
    with pytest.raises(kin.InvalidValue):
        semaphore.operate(bad)
    assert semaphore.values == (2, 0, 5)


@pytest.mark.parametrize("bad", [{"index": 3}, {"index": -1}, {"count": 0}, {"count": -1}])
def test_indices_and_counts_that_make_no_sense(semaphore, bad):
    for use in (
        semaphore.acquire,
        semaphore.release,
        lambda **named: semaphore.hold(**named).__enter__(),
    ):
        with pytest.raises(kin.InvalidValue):
            use(**bad)


def test_a_removal_is_told_to_who_waits(semaphore, peers):
    def wait(voice) -> str:
        voice.say()
        try:
            semaphore.acquire(index=1)
        except kin.NotFound as error:
            return str(error)
        return ""

    async def task() -> None:
        waiting = asyncio.create_task(semaphore.aacquire(index=1))
        await asyncio.sleep(0)
        until(lambda: semaphore.waiting(1)[0] == 3, "three who wait")
        semaphore.unlink()
        with pytest.raises(kin.NotFound):
            await waiting

    peer = peers.fork(wait)
    peer.hear()
    with thread_of(semaphore.acquire, index=1) as call:
        asyncio.run(task())
        assert isinstance(call.raised(), kin.NotFound)
    assert "somebody has unlinked it" in peer.result()


# ── values ───────────────────────────────────────────────────────────────────────────────────


def test_setting(semaphore):
    semaphore.set(7, index=1)
    assert semaphore.values == (2, 7, 5)
    semaphore.set([1, 2, 3])
    assert semaphore.values == (1, 2, 3)
    semaphore.set(0)
    assert semaphore.values == (0, 0, 0)
    assert semaphore.last_pid(2) == os.getpid()


def test_setting_wakes_who_waits(semaphore):
    with thread_of(semaphore.acquire, index=1) as call:
        until_blocked(call)
        semaphore.set(1, index=1)
        call.result()


@pytest.mark.parametrize("bad", [-1, True, "1", None, [1], [1, 2, "3"], [1, 2, 3, 4], 1.5])
def test_values_that_make_no_sense(semaphore, bad):
    with pytest.raises(kin.InvalidValue):
        semaphore.set(bad)
    if bad is not None:
        with pytest.raises(kin.InvalidValue):
            kin.SysVSemaphore(n=3, value=bad)
    assert semaphore.values == (2, 0, 5)


@pytest.mark.parametrize("bad", [0, -1, True, "2", 1.5, None])
def test_numbers_of_semaphores_that_make_no_sense(bad):
    with pytest.raises(kin.InvalidValue, match="n="):
        kin.SysVSemaphore(n=bad)


def test_looking_at_what_is_not_there(semaphore):
    for look in (
        semaphore.last_pid,
        semaphore.waiting,
        lambda index: semaphore.set(1, index=index),
    ):
        for index in (3, -1, "", b"x", 1.5, 2**70):
            with pytest.raises(kin.InvalidValue, match="the set has 3, counted from 0"):
                look(index)


# ── limits, with the figures ─────────────────────────────────────────────────────────────────


def test_values_have_a_limit(semaphore):
    for make in (lambda: kin.SysVSemaphore(value=MOST + 1), lambda: semaphore.set(MOST + 1)):
        with pytest.raises(kin.LimitReached, match=f"SEMVMX is {MOST}"):
            make()
    semaphore.set(MOST)
    for exceed in (
        semaphore.release,
        lambda: semaphore.operate([(0, 1)], undo=False),
        lambda: semaphore.operate([(0, MOST + 1)]),
    ):
        with pytest.raises(kin.LimitReached, match=f"{MOST} .*the values are {MOST}") as caught:
            exceed()
        assert caught.value.errno == errno.ERANGE


def test_what_is_to_be_undone_has_a_limit(peers):
    """One process takes, without a promise to undo, what another one puts in."""
    semaphore = kin.SysVSemaphore(value=0)

    def put_in(voice) -> int:
        for number in range(2 * MOST):
            try:
                semaphore.release()
            except kin.LimitReached as error:
                assert "undone for one process" in str(error)
                return number
            semaphore.operate([(0, -1)], undo=False)
        return 0

    assert peers.fork(put_in).result() == MOST + 1
    semaphore.close()


def test_operations_have_a_limit():
    most = kernel_numbers("kernel.sem")[2]
    with kin.SysVSemaphore(n=2, value=most) as semaphore:
        semaphore.operate([(1, -1)] * most)
        with pytest.raises(kin.LimitReached, match=f"SEMOPM is {most}.*sysctl") as caught:
            semaphore.operate([(0, -1)] * (most + 1))
        assert caught.value.errno == errno.E2BIG


def test_a_set_has_a_limit():
    most = kernel_numbers("kernel.sem")[0]
    with pytest.raises(kin.LimitReached, match=f"SEMMSL is {most}"):
        kin.SysVSemaphore(n=most + 1)
    for n in (2**31, 2**70):
        with pytest.raises(kin.LimitReached):
            kin.SysVSemaphore(n=n)
    semaphore = kin.SysVSemaphore(n=most, value=range(most))
    assert semaphore.values == tuple(range(most))
    semaphore.close()


@pytest.mark.parametrize(("allowed", "n"), [("10 15 5 9", 10), ("10 90 5 2", 1)])
def test_sets_have_a_limit(allowed, n, peers):
    """In an IPC namespace of its own, for the limits are those of one: of semaphores in all, and of sets."""

    def fill() -> str:
        try:
            with open("/proc/sys/kernel/sem", "w") as file:
                file.write(allowed)
        except PermissionError:
            return ""
        kept = [kin.SysVSemaphore(n=n)]
        with pytest.raises(kin.NoSpace) as caught:
            kept += [kin.SysVSemaphore(n=n) for _ in range(9)]
        kept[0].close()
        return str(caught.value)

    _, in_all, _, most = allowed.split()
    said = in_namespaces(peers, CLONE_NEWIPC, fill)
    if not said:
        pytest.skip("the limits of a namespace may not be set here")
    assert f"there may be {most} sets (SEMMNI), and {in_all} semaphores in all (SEMMNS)" in said


# ── what is undone, and what not ─────────────────────────────────────────────────────────────


def test_the_end_of_a_process_undoes_what_it_did(semaphore, peers):
    def work(voice) -> None:
        semaphore.operate([(0, -2), (1, 1), (2, -1)])
        semaphore.operate([(2, -1)], undo=False)
        voice.say(semaphore.values)
        voice.hear()

    peer = peers.fork(work)
    assert peer.hear() == (0, 1, 3)
    peer.say()
    peer.result()
    assert semaphore.values == (2, 0, 4)


def test_the_end_of_a_thread_does_not(semaphore):
    thread = threading.Thread(target=semaphore.acquire)
    thread.start()
    thread.join()
    assert semaphore.values == (1, 0, 5)
    semaphore.release()


def test_a_forked_child_has_nothing_to_be_undone(semaphore, peers):
    semaphore.acquire()
    peers.fork(lambda voice: None).result()
    assert semaphore.values == (1, 0, 5)
    semaphore.release()


def test_a_program_that_is_executed_keeps_it(sem_key, peers):
    semaphore = kin.SysVSemaphore(sem_key)

    def become(voice) -> None:
        semaphore.acquire()
        os.execv(
            sys.executable, [sys.executable, "-c", "import os; os.write(1, b'x'); os.read(0, 1)"]
        )

    reading, writing = os.pipe()
    there, here = os.pipe()

    def start(voice) -> None:
        os.dup2(writing, 1)
        os.dup2(there, 0)
        os.close(here)
        become(voice)

    peer = peers.fork(start)
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    assert semaphore.values == (0,)
    os.close(here)
    peer.wait()
    assert semaphore.values == (1,)
    for fd in (reading, there):
        os.close(fd)


def test_setting_forgets_it(semaphore, peers):
    def work(voice) -> None:
        semaphore.acquire(count=2)
        voice.say()
        voice.hear()

    peer = peers.fork(work)
    peer.hear()
    semaphore.set(1, index=0)
    peer.say()
    peer.result()
    assert semaphore.values == (1, 0, 5)


def test_undoing_goes_no_further_than_zero(semaphore, peers):
    """What one put in, and another one took: there is nothing left to take back."""

    def work(voice) -> None:
        semaphore.release(index=1)
        voice.say()
        voice.hear()

    peer = peers.fork(work)
    peer.hear()
    semaphore.operate([(1, -1)], undo=False)
    peer.say()
    peer.result()
    assert semaphore.values == (2, 0, 5)


# ── the rest ─────────────────────────────────────────────────────────────────────────────────


def test_how_it_looks(semaphore, sem_key):
    assert repr(semaphore) == f"<SysVSemaphore id {semaphore.id}, (2, 0, 5)>"
    keyed = kin.SysVSemaphore(sem_key)
    assert repr(keyed) == f"<SysVSemaphore {sem_key}, (1,)>"
    keyed.unlink()
    assert repr(keyed) == f"<SysVSemaphore {sem_key}, the set was removed>"


def test_what_is_asked_of_a_closed_one(semaphore):
    semaphore.close()
    for look in (
        lambda: semaphore.values,
        lambda: semaphore.mode,
        semaphore.last_pid,
        semaphore.unlink,
        lambda: semaphore.set(1),
        lambda: semaphore.operate([(0, 1)]),
    ):
        with pytest.raises(kin.Closed):
            look()


def test_a_sembuf_is_packed_as_the_kernel_has_it(semaphore):
    assert semaphore._packed([(2, -3), (0, 0)], True) == struct.pack(
        "HhhHhh", 2, -3, 0x1000, 0, 0, 0x1000
    )
