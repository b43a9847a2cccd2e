"""The watcher: one native thread, which acts once a watch, and is not there while the process forks."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path

import pytest

import kinfolk as kin
from kinfolk._native import Watcher
from kinfolk.watcher import watching
from tests.conformance.peers import HANG, readable, state, thread_of, until, until_blocked
from tests.unit.starting import SLEEP, start


@pytest.fixture
def eventfd():
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def close_writer(pipe):
    os.close(pipe[1])
    pipe[1] = -1


def watcher_threads():
    """Thread ids of the watchers of this process."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(task.name) for task in tasks if (task / "comm").read_text() == "kinfolk-watcher\n"]


def test_a_hang_up_writes_the_eventfd(pipe, eventfd):
    with watching(pipe[0], eventfd=eventfd):
        os.write(pipe[1], b"data are no hang-up")
        close_writer(pipe)
        assert readable(eventfd)
        assert os.eventfd_read(eventfd) == 1


def test_data_are_no_hang_up(pipe, eventfd):
    """The negative control of the one above."""
    with watching(pipe[0], eventfd=eventfd):
        os.write(pipe[1], b"x")
        assert not readable(eventfd, 0.05)


def test_what_was_ready_before_counts(pipe, eventfd):
    close_writer(pipe)
    with watching(pipe[0], eventfd=eventfd):
        assert readable(eventfd)


def test_it_acts_once(pipe, eventfd):
    close_writer(pipe)
    with watching(pipe[0], eventfd=eventfd):
        assert readable(eventfd)
        os.eventfd_read(eventfd)
        assert not readable(eventfd, 0.05)


def test_other_events(pipe, eventfd):
    with watching(pipe[0], events=select.EPOLLIN, eventfd=eventfd):
        os.write(pipe[1], b"x")
        assert readable(eventfd)


def test_the_death_of_a_process(eventfd, peers):
    """What decision A will use it for: a pidfd."""
    peer = peers.fork(lambda voice: voice.hear())
    with watching(peer.pidfd, events=select.EPOLLIN, eventfd=eventfd):
        peer.kill(reap=False)
        assert readable(eventfd)


def test_after_its_block_a_watch_does_nothing(pipe, eventfd):
    for _ in range(300):
        reading, writing = os.pipe()
        with watching(reading, eventfd=eventfd):
            os.close(writing)  # the action runs now, or never
        seen = readable(eventfd, 0)
        if seen:
            os.eventfd_read(eventfd)
        os.close(reading)
        assert not readable(eventfd, 0)


def test_one_watch_a_descriptor(pipe, eventfd):
    with watching(pipe[0], eventfd=eventfd):
        with pytest.raises(FileExistsError), watching(pipe[0], eventfd=eventfd):
            pass
        close_writer(pipe)
        assert readable(eventfd)


def test_what_can_not_be_polled(eventfd, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
            with watching(file.fileno(), eventfd=eventfd):
                pass


def test_it_sleeps(pipe, eventfd):
    with watching(pipe[0], eventfd=eventfd):
        (thread,) = watcher_threads()
        until(lambda: state(os.getpid(), thread) == "S", "the watcher asleep")
        statistics = Path(f"/proc/self/task/{thread}/status")
        before = switches(statistics)
        assert not readable(eventfd, 0.2)
        assert switches(statistics) == before


def switches(status: Path):
    return [line for line in status.read_text().splitlines() if "ctxt_switches" in line]


def test_signals_do_not_go_to_it(pipe):
    with watching(pipe[0]):
        (thread,) = watcher_threads()
        lines = Path(f"/proc/self/task/{thread}/status").read_text().splitlines()
        blocked = next(line for line in lines if line.startswith("SigBlk")).split()[1]
        assert int(blocked, 16) & (1 << 30) - 1 & ~(1 << 8 | 1 << 18) == (1 << 30) - 1 & ~(
            1 << 8 | 1 << 18
        )


def test_a_fork_finds_no_watcher_and_both_sides_get_their_own(pipe, eventfd, peers):
    def child(voice, inherited):
        tasks = len(os.listdir("/proc/self/task"))
        own = os.eventfd(0)
        with watching(inherited, eventfd=own):  # the parent's watch of it is none of ours
            threads = len(watcher_threads())
            voice.say((tasks, threads))
            return readable(own)

    with watching(pipe[0], eventfd=eventfd):
        assert len(watcher_threads()) == 1
        peer = peers.fork(lambda voice: child(voice, pipe[0]))
        assert peer.hear() == (1, 1)
        assert len(watcher_threads()) == 1  # it goes on here
        # The child holds a copy of the write end too; end it last.
        peer.kill()
        close_writer(pipe)
        assert readable(eventfd)


def test_a_fork_without_watches_leaves_it_stopped(peers):
    reading, writing = os.pipe()
    with watching(reading):
        pass
    peers.fork(lambda voice: None).result()
    assert watcher_threads() == []
    os.close(reading)
    os.close(writing)


def test_forks_in_the_middle_of_it(peers, eventfd):
    """Watches come and go in threads while others fork."""
    over = threading.Event()
    counts = [0, 0]

    def watch_and_hang_up(index):
        while not over.is_set():
            reading, writing = os.pipe()
            own = os.eventfd(0)
            with watching(reading, eventfd=own):
                os.close(writing)
                # A child that was forked just now holds the write end until it has ended.
                assert readable(own)
            os.close(reading)
            os.close(own)
            counts[index] += 1

    threads = [threading.Thread(target=watch_and_hang_up, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            peers.fork(lambda voice: len(os.listdir("/proc/self/task"))).result()
    finally:
        over.set()
        for thread in threads:
            thread.join(HANG)
    assert all(counts), counts


def test_a_watcher_that_is_dropped_ends_its_thread(pipe):
    watcher = Watcher()
    before = len(watcher_threads())
    watch = watcher.watch((pipe[0],), 0, -1, None)
    assert len(watcher_threads()) == before + 1
    del watcher, watch
    # A thread can be joined a moment before the kernel has taken it out of /proc.
    until(lambda: len(watcher_threads()) == before, "the thread has gone")


# ── a fork that leaves no room for the thread ────────────────────────────────────────────────


@contextlib.contextmanager
def no_more_processes():
    """Nor threads. Only for a plain user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))


def fail_to_fork():
    """What Python prints of handlers at fork that failed."""
    printed = []
    sys.unraisablehook = lambda args: printed.append(str(args.exc_value))
    with pytest.raises(OSError):  # noqa: PT011 - the number may be lost on Python 3.11.2
        os.fork()
    return printed


def test_after_a_fork_without_room_for_it_every_watch_acts(as_plain_user):
    def body():
        reading, writing = os.pipe()
        eventfd = os.eventfd(0, os.EFD_NONBLOCK)
        with watching(reading, eventfd=eventfd), no_more_processes():
            assert fail_to_fork() == []
            assert watcher_threads() == []
            assert os.eventfd_read(eventfd) == 1
            with pytest.raises(kin.LimitReached, match="ulimit -u") as caught:
                watching(writing, eventfd=eventfd)
            assert caught.value.errno == errno.EAGAIN
            assert fail_to_fork() == []
            assert not readable(eventfd, 0)  # it acts once

    as_plain_user.run(body)


def test_deaths_are_seen_again_once_there_is_room(as_plain_user):
    """The next watch that is left starts the thread, and so does the next fork."""

    def body(revive):
        children = [start(SLEEP) for _ in range(3)]
        with no_more_processes():
            assert fail_to_fork() == []
            os.kill(children[0].pid, signal.SIGKILL)
            assert children[0].wait(HANG).signal == signal.SIGKILL
            assert watcher_threads() == []
        revive(children[1])
        assert len(watcher_threads()) == 1
        os.kill(children[2].pid, signal.SIGKILL)
        until(lambda: state(children[2].pid) == "X", "reaped, though nobody asks")
        assert children[2].wait(0).signal == signal.SIGKILL

    def stop(child):
        child.stop(0)

    def fork(child):
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        child.stop(0)

    as_plain_user.run(body, stop)
    as_plain_user.run(body, fork)


def test_a_call_that_the_watcher_would_have_woken_says_what_is_wrong(as_plain_user):
    def body():
        receiver, sender = kin.channel("sysv-mq:")
        with receiver, sender, thread_of(receiver.recv) as call:
            until_blocked(receiver)
            with no_more_processes():
                assert fail_to_fork() == []
                return str(call.raised())

    assert "no thread that watches can be started" in as_plain_user.run(body)
