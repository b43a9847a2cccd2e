"""Large messages of a ring: blocks, reservations, views, and who has them."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import signal
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kinfolk as kin

np = pytest.importorskip("numpy")

HANG = 30
#: The smallest arena, of 16 units: its largest message is half of it.
SMALL = "ring:?arena=64K"
MOST = 32 << 10


@pytest.fixture
def ends():
    receiver, sender = kin.channel("ring:?arena=1M&capacity=4096")
    with receiver, sender:
        yield receiver, sender


@pytest.fixture
def small():
    receiver, sender = kin.channel(f"{SMALL}&capacity=4096")
    with receiver, sender:
        yield receiver, sender


def in_child(function):
    """Run it in a forked child, which has to end well."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_all_free(sender):
    """Whether half of the arena can be had twice."""
    half = sender.limits.max_message
    for _ in range(
        2
    ):  # the dead are looked for when there is no room: then the first half may lie in the middle
        try:
            with sender.reserve(half, timeout=0), sender.reserve(half, timeout=0):
                raise InterruptedError
        except kin.Timeout:
            pass
        except InterruptedError:
            return True
    return False


# ── in place ─────────────────────────────────────────────────────────────────────────────────


def test_an_array_is_read_where_it_was_written(ends):
    receiver, sender = ends
    with sender.reserve_array((100, 200), "f8") as frame:
        frame[:] = 7
        frame[3, 4] = 8
    array = receiver.recv(timeout=HANG)
    assert array.shape == (100, 200)
    assert array.dtype == "f8"
    assert array[3, 4] == 8
    assert not array.flags.writeable
    assert not frame.flags.writeable
    assert array.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "dtype", ["u1", ">i4", "c16", "M8[ns]", "U3", [("a", "i2"), ("b", "f4", 3)]]
)
def test_reserved_arrays_of_all_types(ends, dtype):
    receiver, sender = ends
    with sender.reserve_array(5, dtype) as frame:
        frame.view("u1")[:] = 0
        wanted = frame.copy()
    array = receiver.recv(timeout=HANG)
    assert array.dtype == wanted.dtype
    assert (array == wanted).all()


def test_memory_is_looked_at_or_copied(ends):
    receiver, sender = ends
    for _ in range(3):
        with sender.reserve(70_000) as view:
            view[:5] = b"hello"
            view[-1] = 9
    looked_at = receiver.recv(timeout=HANG)
    assert isinstance(looked_at, memoryview)
    assert looked_at.readonly
    assert bytes(looked_at[:5]) == b"hello"
    assert looked_at[-1] == 9
    mine = receiver.recv(copy=True)
    mine[0] = 1
    assert len(receiver.recv_bytes()) == 70_000
    with pytest.raises(ValueError, match="released"):
        view[0] = 1


def test_what_raises_is_not_sent(small):
    receiver, sender = small
    with pytest.raises(KeyError), sender.reserve(MOST):
        raise KeyError
    assert sender.statistics().messages_sent == 0
    with pytest.raises(kin.Timeout):
        receiver.recv(timeout=0)
    assert is_all_free(sender)


def test_objects_carry_their_arrays_in_blocks(ends):
    receiver, sender = ends
    frame = np.arange(30_000, dtype="i4")
    sender.send({"frame": frame, "t": 1.0})
    got = receiver.recv(timeout=HANG)
    assert (got["frame"] == frame).all()
    assert got["t"] == 1.0
    assert not got["frame"].flags.writeable
    sender.send({"frame": frame})
    mine = receiver.recv(copy=True)["frame"]
    mine[0] = 5
    assert mine.flags.owndata or mine.flags.writeable


def test_large_bytes(ends):
    receiver, sender = ends
    data = random.Random(1).randbytes(200_000)
    sender.send_bytes(data)
    sender.send(data)
    assert receiver.recv_bytes() == receiver.recv() == data
    assert is_all_free(sender)


def test_it_counts(ends):
    receiver, sender = ends
    array = np.zeros(100_000, "u1")
    sender.send(array)
    with sender.reserve_array(100_000):
        pass
    sent = sender.statistics()
    assert sent.messages_sent == 2
    assert sent.bytes_sent >= 200_000
    assert 200_000 <= sent.depth <= sent.bytes_sent + 100
    receiver.recv()
    receiver.recv()
    received = receiver.statistics()
    assert (received.messages_received, received.bytes_received) == (2, sent.bytes_sent)
    assert received.depth == 0


def test_asyncio():
    async def go():
        receiver, sender = kin.channel("ring:?arena=1M")
        async with receiver, sender:
            async with sender.reserve(80_000) as view:
                view[0] = 3
            assert (await receiver.arecv(timeout=HANG))[0] == 3
            await sender.asend(np.ones(80_000, "u1"))
            assert (await receiver.arecv(timeout=HANG)).sum() == 80_000

    asyncio.run(go())


# ── who has it ───────────────────────────────────────────────────────────────────────────────


def test_a_view_is_never_of_reused_memory(small):
    receiver, sender = small
    kept = []
    for number in range(40):
        sender.send(np.full(5000, number, "u1"), timeout=HANG)
        sender.send_bytes(bytes([number]) * 70)
        kept.append(receiver.recv(timeout=HANG))
        assert receiver.recv_bytes() == bytes([number]) * 70
    for number, array in enumerate(kept):
        assert (array == number).all()
    random.Random(2).shuffle(kept)
    while kept:
        del kept[-1:]
        sender.send(np.full(5000, 99, "u1"), timeout=HANG)
        receiver.recv()
    del array
    gc.collect()
    assert is_all_free(sender)


def test_who_hoards_gets_copies_and_starves_nobody():
    receiver, sender = kin.channel("ring:?arena=1M")
    with receiver, sender:
        kept = []
        for number in range(60):
            sender.send(np.full(100_000, number, "u1"), timeout=HANG)
            kept.append(receiver.recv(timeout=HANG))
        copied = sum(isinstance(array.base, bytes) for array in kept)
        assert 0 < copied < 60
        with sender.reserve(sender.limits.max_message, timeout=HANG):
            pass
        assert all((array == number).all() for number, array in enumerate(kept))


def test_the_senders_view_keeps_the_block_after_the_commit(small):
    receiver, sender = small
    with sender.reserve_array(MOST - 64) as frame:
        frame[:] = 1
    receiver.recv(timeout=HANG)
    with sender.reserve_array(MOST - 64) as other:
        other[:] = 2
    assert (frame == 1).all()
    del frame, other
    receiver.recv()
    assert is_all_free(sender)


def test_views_outlive_the_end():
    receiver, sender = kin.channel("ring:?arena=1M")
    sender.send(np.full(100_000, 6, "u1"))
    array = receiver.recv(timeout=HANG)
    sender.close()
    receiver.close()
    assert array.sum() == 600_000
    del array
    gc.collect()


def test_a_reservation_when_the_receivers_have_gone():
    receiver, sender = kin.channel("ring:?arena=1M")
    with sender:
        with pytest.raises(kin.BrokenChannel), sender.reserve(100_000):
            receiver.close()
        with pytest.raises(kin.BrokenChannel), sender.reserve(100_000):
            pass


# ── full, and too large ──────────────────────────────────────────────────────────────────────


def test_a_full_arena_waits_until_blocks_come_back(small):
    receiver, sender = small
    for _ in range(2):
        with sender.reserve_array(MOST - 64) as frame:
            frame[:] = 1
        del frame
    for patience in (0, 0.05):
        with pytest.raises(kin.Timeout):
            sender.send(np.zeros(MOST - 64, "u1"), timeout=patience)
    assert sender.statistics().messages_sent == 2
    done = threading.Event()

    def send():
        sender.send(np.full(MOST - 64, 3, "u1"), timeout=HANG)
        done.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert [int(receiver.recv(timeout=HANG)[0]) for _ in range(3)] == [1, 1, 3]
    assert done.wait(HANG)
    thread.join()
    assert is_all_free(sender)


def test_a_close_ends_the_wait_for_a_block(small):
    _, sender = small
    for _ in range(2):
        sender.send(np.zeros(MOST - 64, "u1"), timeout=0)
    caught = []

    def send():
        try:
            sender.send(np.zeros(5000, "u1"))
        except kin.Closed as error:
            caught.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    while sender.statistics().waits == 0:
        os.sched_yield()
    sender.close()
    thread.join(HANG)
    assert caught


@pytest.mark.parametrize("how", ["send", "reserve", "reserve_array"])
def test_what_never_fits_is_refused_with_figures(small, how):
    _, sender = small

    def send_it():
        if how == "send":
            sender.send(np.zeros(MOST, "u1"))
        else:
            with getattr(sender, how)(MOST + 1):
                pass

    with pytest.raises(kin.MessageTooBig, match=str(MOST)) as caught:
        send_it()
    assert "arena=" in caught.value.remedy


@pytest.mark.parametrize("wrong", [-1, "x", None, 1.5])
def test_what_is_no_size(small, wrong):
    _, sender = small
    with pytest.raises(kin.InvalidValue):
        sender.reserve(wrong)
    with pytest.raises(kin.InvalidValue):
        sender.reserve_array(wrong)


@pytest.mark.parametrize("shape", [(2**40, 2**40), (2**70, 0), (2**62, 2)])
def test_no_array_that_nothing_could_hold(small, shape):
    with pytest.raises(kin.InvalidValue, match="more than memory"):
        small[1].reserve_array(shape, "f8")


@pytest.mark.parametrize("shape", [(1,) * 65, (0, 2**61)], ids=["dimensions", "product"])
def test_what_numpy_refuses_is_told_before_there_is_memory(small, shape):
    with pytest.raises(kin.InvalidValue, match="no such array"):
        small[1].reserve_array(shape, "f8")


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "1"])
def test_a_time_limit_that_makes_no_sense_is_told_when_nothing_is_waited_for(small, wrong):
    with pytest.raises(kin.InvalidValue, match="timeout"):
        small[1].reserve(10, timeout=wrong)


def test_a_reservation_ends_once_and_not_before_it_began(small):
    receiver, sender = small
    reservation = sender.reserve(10)
    with pytest.raises(kin.UsageError, match="with block"):
        reservation.__exit__(None, None, None)
    with reservation:
        pass
    with pytest.raises(kin.UsageError, match="with block"):
        reservation.__exit__(None, None, None)
    assert len(receiver.recv(timeout=0)) == 10


@pytest.mark.parametrize("way", ["sends", "receives"])
def test_an_end_of_which_just_a_method_was_kept(way):
    ends: dict[str, Any] = dict(zip(("receives", "sends"), kin.channel(SMALL), strict=True))
    call = ends["sends"].send if way == "sends" else ends["receives"].recv
    with pytest.warns(ResourceWarning, match="unclosed"):
        del ends[way]
    with pytest.raises(kin.Closed, match="variable"):
        call(b"x") if way == "sends" else call(timeout=0)
    for other in ends.values():
        other.close()


def test_no_array_of_python_objects(small):
    with pytest.raises(kin.InvalidValue, match="objects"):
        small[1].reserve_array(3, "O")


def test_other_mechanisms_have_no_memory_to_build_in():
    receiver, sender = kin.channel("pipe:")
    with receiver, sender, pytest.raises(kin.Unsupported, match="memory"), sender.reserve(10):
        pass


# ── other processes ──────────────────────────────────────────────────────────────────────────


def test_what_a_killed_process_had_comes_back(small):
    receiver, sender = small
    sender.send(np.full(5000, 1, "u1"))
    reading, writing = os.pipe()

    def hold():
        array = receiver.recv(timeout=HANG)
        with sender.reserve(MOST):
            os.write(writing, array[:1].tobytes())
            signal.pause()

    pid = in_child(hold)
    assert os.read(reading, 1) == b"\1"
    assert not is_all_free(sender)
    os.kill(pid, signal.SIGKILL)
    with sender.reserve(MOST, timeout=HANG), sender.reserve(MOST, timeout=HANG):
        pass
    assert ended(pid) == -signal.SIGKILL
    os.close(reading)
    os.close(writing)


def test_a_forked_child_has_the_views_too(small):
    receiver, sender = small
    sender.send(np.full(20_000, 4, "u1"))
    array = receiver.recv(timeout=HANG)
    reading, writing = os.pipe()
    go_reading, go_writing = os.pipe()

    def look():
        nonlocal array
        os.read(go_reading, 1)
        assert (array == 4).all(), "reused"
        assert ended(in_child(lambda kept=array: kept.sum() == 80_000 or os._exit(3))) == 0
        del array
        gc.collect()
        os.write(writing, b"x")
        signal.pause()

    pid = in_child(look)
    del array
    gc.collect()
    assert not is_all_free(sender), "the child has it"
    for number in range(20):
        sender.send(np.full(10_000, number, "u1"), timeout=HANG)
        receiver.recv(timeout=HANG)
    os.write(go_writing, b"x")
    assert os.read(reading, 1) == b"x"
    assert is_all_free(sender), "the child has let it go"
    os.kill(pid, signal.SIGKILL)
    ended(pid)
    for fd in (reading, writing, go_reading, go_writing):
        os.close(fd)


def test_a_child_that_is_killed_gives_back_what_it_inherited(small):
    receiver, sender = small
    sender.send(np.full(20_000, 4, "u1"))
    array = receiver.recv(timeout=HANG)
    pid = in_child(signal.pause)
    del array
    gc.collect()
    assert not is_all_free(sender)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL
    assert is_all_free(sender)


def test_a_reservation_is_sent_where_it_was_made(small):
    receiver, sender = small
    with sender.reserve(100) as view:
        view[0] = 1

        def send():
            with pytest.raises(kin.UsageError, match="another process"):
                reservation.__exit__(None, None, None)

        reservation = sender.reserve(200)
        reservation.__enter__()
        assert ended(in_child(send)) == 0
        reservation.__exit__(None, None, None)
    assert [len(receiver.recv(timeout=HANG)) for _ in range(2)] == [200, 100]


# ── against a naive queue ────────────────────────────────────────────────────────────────────

SIZES = st.sampled_from([0, 1, 60, 900, 1100, 4096, 5000, 9000, 20_000, MOST - 64])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), SIZES),
        st.tuples(st.just("reserve"), SIZES),
        st.tuples(st.just("drop"), SIZES),
        st.tuples(st.just("receive"), st.booleans()),
        st.tuples(st.just("forget"), st.integers(0, 9)),
    ),
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(STEPS)
def test_it_is_as_a_queue(steps):
    receiver, sender = kin.channel(f"{SMALL}&capacity=4096")
    queue, kept, number = [], [], 0
    with receiver, sender:
        for what, value in steps:
            number = (number + 1) % 251
            if what == "send":
                try:
                    sender.send(np.full(value, number, "u1"), timeout=0)
                    queue.append((value, number))
                except kin.Timeout:
                    assert queue or kept
            elif what in ("reserve", "drop"):
                try:
                    with sender.reserve_array(value, timeout=0) as frame:
                        frame[:] = number
                        if what == "drop":
                            raise KeyError
                    queue.append((value, number))
                except kin.Timeout:
                    assert queue or kept
                except KeyError:
                    pass
                frame = None
            elif what == "receive":
                try:
                    array = receiver.recv(timeout=0, copy=value)
                except kin.Timeout:
                    assert not queue
                else:
                    assert (array.size, number_in(array)) == (
                        queue[0][0],
                        queue[0][1] if array.size else 0,
                    )
                    kept.append((array, queue.pop(0)[1]))
                    array = None
            elif kept:
                del kept[value % len(kept)]
            for array, wanted in kept:
                assert (array == wanted).all()
            array = None
        for size, wanted in queue:
            array = receiver.recv(timeout=0)
            assert array.size == size
            assert (array == wanted).all()
        array = None
        kept.clear()
        gc.collect()
        assert is_all_free(sender)


def number_in(array):
    return int(array[0]) if array.size else 0
