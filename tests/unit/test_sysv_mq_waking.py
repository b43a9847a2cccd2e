"""System V message queues: whoever is blocked in one is woken."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

import kinfolk as kin
from tests.conformance.peers import HANG, state, thread_of, until, until_blocked
from tests.unit.sysv_queues import queues

# ── waking ───────────────────────────────────────────────────────────────────────────────────


def test_close_wakes_at_every_moment(key):
    with kin.open_receiver(f"sysv-mq:{key}?capacity=64") as first:
        with kin.open_sender(f"sysv-mq:{key}") as filler:
            with contextlib.suppress(kin.Timeout):
                while True:
                    filler.send_bytes(b"x" * 10, timeout=0)
        for number in range(600):
            end: kin.Receiver | kin.Sender
            if number % 2:
                end = receiver = kin.open_receiver(f"sysv-mq:{key}?type=5")
                body = receiver.recv
            else:
                end = sender = kin.open_sender(f"sysv-mq:{key}")
                body = functools.partial(sender.send_bytes, b"y" * 10)
            with thread_of(body) as call:
                for _ in range(random.randrange(3000)):
                    pass
                end.close()
                with pytest.raises(kin.Closed):
                    call.result()
        first.unlink()


def test_deadlines_end_every_wait(ends):
    receiver, _ = ends
    for _ in range(300):
        timeout = random.random() * 0.003
        start = time.monotonic()
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=timeout)
        assert time.monotonic() - start >= timeout


def test_a_timer_every_100_microseconds(ends):
    receiver, sender = ends
    ticks = 0

    def tick(*_):
        nonlocal ticks
        ticks += 1

    before = signal.signal(signal.SIGUSR1, tick)
    over = threading.Event()

    victim = threading.get_ident()

    def storm():
        while not over.is_set():
            signal.pthread_kill(victim, signal.SIGUSR1)
            time.sleep(0.0001)

    def send():
        for number in range(2000):
            sender.send_bytes(b"%8d" % number + bytes(2000))

    stormy = threading.Thread(target=storm)
    stormy.start()
    try:
        with thread_of(send) as call:
            for number in range(2000):
                assert receiver.recv_bytes(timeout=HANG)[:8] == b"%8d" % number
            call.result()
    finally:
        over.set()
        stormy.join()
        signal.signal(signal.SIGUSR1, before)
    assert ticks > 10


def test_handlers_run_while_a_call_is_blocked(ends):
    receiver, _ = ends

    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().native_id
    try:

        def send_signal():
            until_blocked(receiver)
            until(lambda: state(os.getpid(), main) == "S", "the main thread asleep")
            os.kill(os.getpid(), signal.SIGUSR1)

        with thread_of(send_signal) as call:
            with pytest.raises(Interrupted):
                receiver.recv(timeout=HANG)
            call.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_sigurg_ignored_blocked_or_handled(ends):
    receiver, _ = ends
    seen = []
    before = signal.getsignal(signal.SIGURG)
    try:
        for disposition in (signal.SIG_IGN, signal.SIG_DFL, lambda *_: seen.append(1)):
            signal.signal(signal.SIGURG, disposition)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
            with pytest.raises(kin.Timeout):
                receiver.recv(timeout=0.005)
            assert signal.SIGURG in signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGURG})
        assert seen, "the handler that the user set was replaced"
        assert signal.getsignal(signal.SIGURG) is disposition
    finally:
        signal.signal(signal.SIGURG, before or signal.SIG_DFL)


def test_a_send_that_timed_out_is_not_delivered(key):
    with kin.open_receiver(f"sysv-mq:{key}?capacity=64") as receiver:
        with kin.open_sender(f"sysv-mq:{key}") as sender:
            got = []

            def drain():
                while (number := receiver.recv(timeout=HANG)) is not None:
                    got.append(number)
                    time.sleep(random.random() * 0.002)

            sent = []
            with thread_of(drain) as call:
                for number in range(1500):
                    with contextlib.suppress(kin.Timeout):
                        sender.send(number, timeout=random.random() * 0.002)
                        sent.append(number)
                sender.send(None, timeout=HANG)
                call.result()
    assert got == sent
    assert len(sent) < 1500


def test_unlink_wakes_who_is_blocked(ends):
    receiver, sender = ends
    with thread_of(receiver.recv, timeout=HANG) as call:
        until_blocked(receiver)
        sender.unlink()
        with pytest.raises(kin.BrokenChannel, match="removed"):
            call.result()
    with pytest.raises(kin.BrokenChannel, match="removed"):
        sender.send(1)
    with pytest.raises(kin.NotFound):
        sender.unlink()


def test_a_blocked_thread_uses_no_processor(ends):
    receiver, sender = ends

    def cpu():
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    with thread_of(receiver.recv, timeout=HANG) as call:
        until_blocked(receiver)
        before = cpu()
        time.sleep(0.3)
        assert cpu() - before < 0.1
        sender.send(1)
        call.result()


# ── asyncio ──────────────────────────────────────────────────────────────────────────────────


def test_many_tasks_wait_at_once():
    async def main():
        channels = [kin.channel("sysv-mq:") for _ in range(12)]
        tasks = [asyncio.create_task(receiver.arecv()) for receiver, _ in channels]
        await asyncio.sleep(0.01)
        for number, (_, sender) in enumerate(channels):
            await sender.asend(number)
        got = await asyncio.gather(*tasks)
        for receiver, sender in channels:
            sender.close()
            with pytest.raises(kin.EndOfChannel):
                await receiver.arecv(timeout=HANG)
            receiver.close()
        return got

    assert asyncio.run(main()) == list(range(12))
    until(lambda: len(helpers()) <= 8, "the others have ended")


def helpers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "kinfolk helper"]


def test_timeouts_and_closing_on_asyncio(ends):
    receiver, sender = ends

    async def main():
        with pytest.raises(kin.Timeout):
            await receiver.arecv(timeout=0.01)
        async with asyncio.timeout(HANG):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await receiver.arecv()
            await sender.asend("still whole")
            assert await receiver.arecv() == "still whole"
            task = asyncio.create_task(receiver.arecv())
            await asyncio.sleep(0.01)
            receiver.close()
            with pytest.raises(kin.Closed):
                await task

    asyncio.run(main())


def test_a_send_that_was_done_when_it_was_cancelled_returns_and_the_next_await_is_cancelled(key):
    """Sending and cancelling meet: either not sent and cancelled, or sent and cancelled one await later."""
    outcomes = set()

    async def one(receiver, sender, number):
        # The queue is full; the receiver makes room while the task is being cancelled.
        returned = False

        async def body():
            nonlocal returned
            await sender.asend(number)
            returned = True
            await asyncio.sleep(HANG)

        task = asyncio.create_task(body())
        waits = sender.statistics().waits
        while sender.statistics().waits == waits:
            await asyncio.sleep(0)
        await asyncio.sleep(random.random() * 0.001)
        first = receiver.recv(timeout=0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        outcomes.add(returned)
        if not returned:
            await sender.asend(number)
        return first

    async def main():
        with kin.open_receiver(f"sysv-mq:{key}?capacity=32&codec=raw&framing=raw") as receiver:
            with kin.open_sender(f"sysv-mq:{key}?framing=raw") as sender:
                sender.send(b"%20d" % 0)
                number = 0
                while number < 300 or (number < 20_000 and outcomes != {False, True}):
                    number += 1
                    assert int(await one(receiver, sender, b"%20d" % number)) == number - 1
                receiver.unlink()

    asyncio.run(main())
    assert outcomes == {False, True}, "the two never met"


_EXIT = """
import asyncio, os, threading, time
import kinfolk as kin
receiver, sender = kin.channel("sysv-mq:")
async def main():
    task = asyncio.create_task(receiver.arecv())
    await asyncio.sleep(0.01)
    os.write(1, b"waiting\\n")
    %s
try:
    asyncio.run(main())
finally:
    receiver.close(), sender.close()
"""


@pytest.mark.parametrize(
    "how", ["return", "loop = asyncio.get_running_loop(); loop.stop(); await task"]
)
def test_an_interpreter_ends_though_somebody_waits(how):
    process = subprocess.run(
        [sys.executable, "-c", _EXIT % how], check=False, capture_output=True, timeout=HANG
    )
    assert process.stdout == b"waiting\n"
    assert process.returncode in {0, 1}


_EXIT_BLOCKED = """
import os, threading
import kinfolk as kin
receiver, sender = kin.channel("sysv-mq:")
print(receiver._receiving._queue._id)
threading.Thread(target=receiver.recv, daemon=True).start()
while not receiver.statistics().waits:
    pass
"""


def test_an_interpreter_ends_though_a_daemon_thread_is_blocked():
    script = [sys.executable, "-c", _EXIT_BLOCKED]
    process = subprocess.run(script, check=True, stdout=subprocess.PIPE, timeout=HANG)
    for end in kin.channel("sysv-mq:"):
        end.close()  # sweeps
    assert int(process.stdout) not in queues()


def test_a_task_that_is_dropped_with_its_loop_takes_its_helper_out():
    """Else the helper stays in the call, with the watch, and the next receive finds both."""
    receiver, sender = kin.channel("sysv-mq:")
    loop = asyncio.new_event_loop()

    async def until_waiting():
        while not receiver.statistics().waits:
            await asyncio.sleep(0)

    coroutine = receiver.arecv()
    task: Any = loop.create_task(coroutine)
    loop.run_until_complete(until_waiting())
    loop.close()
    task._log_destroy_pending = False
    coroutine.close()
    with receiver, sender:
        sender.send("x")
        assert receiver.recv(timeout=HANG) == "x"
        with pytest.raises(kin.Timeout):
            receiver.recv(timeout=0.001)
