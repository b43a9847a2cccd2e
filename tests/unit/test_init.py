"""One command and everything that it starts: passed on, reaped, ended; each protection with its negative control."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import shlex
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

import kinfolk as kin
from kinfolk import _native
from kinfolk.processes import felling, init, remains
from tests.conformance.peers import (
    HANG,
    Peers,
    Voice,
    open_descriptors,
    readable,
    state,
    until,
)
from tests.unit.supervised import (
    Gate,
    Line,
    Supervised,
    enter_pid_namespace,
    escaped,
    lives,
    need_pid_namespaces,
    pending,
    python,
    shell,
)

PR_GET_CHILD_SUBREAPER = 37


@pytest.fixture
def out() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


@pytest.fixture
def waiting() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


@pytest.fixture
def start(peers: Peers, out: Line, waiting: Gate) -> Supervised:
    return Supervised(peers, out, waiting)


# ── the status ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 128, 200, 255])
def test_its_code(start, code):
    outcome = start.to_its_end(*shell(f"exit {code}"))
    assert outcome == kin.InitOutcome(outcome.status, False, 0, 0, ())
    assert (outcome.status.kind, outcome.status.code) == ("exited", code)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 40])
def test_the_signal_that_ended_it(start, number):
    status = start.to_its_end(*shell(f"ulimit -c 0; kill -{int(number)} $$")).status
    assert (status.kind, status.signal) == ("signaled", number)
    assert status.shell_code == 128 + number


def test_what_it_used(start):
    usage = start.to_its_end(
        *shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    ).status.usage
    assert usage.ru_utime > 0


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["kinfolk-no-such-program"], kin.NotFound),
        (["/kinfolk/no/such"], kin.NotFound),
        (["/etc/passwd"], kin.AccessDenied),
        (["/"], kin.AccessDenied),
        (["true", "x" * 200_000], kin.LimitReached),
        ([], kin.InvalidValue),
        (["true", "a\0b"], kin.InvalidValue),
    ],
)
def test_what_can_not_be_started_changes_nothing(peers, argv, error):
    def body(voice: Voice) -> str:
        before = standing()
        with pytest.raises(error) as caught:
            kin.run_as_init(argv)
        assert standing() == before
        return str(caught.value)

    assert "\n" not in peers.fork(body).result()


def test_afterwards_everything_is_as_before(peers):
    def body(voice: Voice) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        before = standing()
        assert kin.run_as_init(["false"]).status.code == 1  # in spite of the ignored SIGCHLD
        assert standing() == before

    peers.fork(body).result()


def standing() -> tuple[object, ...]:
    """What running a command changes in its supervisor, for a time."""
    import ctypes

    subreaper = ctypes.c_int()
    ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(subreaper), 0, 0, 0)
    return (
        subreaper.value,
        signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        [
            (kind, action[:8])
            for kind, _, action in map(_native.signal_action, signal.valid_signals())
        ],
        open_descriptors(),
        os.listdir("/proc/self/task"),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"grace": -1},
        {"timeout": -1},
        {"grace": float("nan")},
        {"parent_death_signal": 0},
        {"parent_death_signal": signal.SIGSTOP},
        {"parent_death_signal": 999},
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(kin.InvalidValue):
        kin.run_as_init(["true"], **options)


def test_other_threads_are_refused(start, peers):
    def body(voice: Voice) -> str:
        over = threading.Event()
        thread = threading.Thread(target=over.wait, name="the-other")
        thread.start()
        try:
            with pytest.raises(kin.Unsupported, match="the-other") as caught:
                kin.run_as_init(["true"])
            return str(caught.value)
        finally:
            over.set()
            thread.join()

    peers.fork(body).result()


# ── what the command finds ───────────────────────────────────────────────────────────────────


def test_it_finds_what_an_exec_would_hand_on(start, out):
    private, passed = os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(passed, True)

    def before() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    script = "ls /proc/self/fd; grep Sig[BI] /proc/self/status; ps -o pgid= $$; echo $$"
    try:
        peer = start(*shell(script), before=before)
        said = out.everything()
    finally:
        os.close(private)
        os.close(passed)
    peer.result()
    numbers = {word for word in said if word.isdigit()}
    assert str(passed) in numbers
    assert str(private) not in numbers
    masks = {word.split(":")[0]: int(word.split()[1], 16) for word in said if ":" in word}
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] == 1 << signal.SIGHUP - 1  # and not Python's SIGPIPE
    assert said[-2].strip() == said[-1]  # it leads its group


# ── signals ──────────────────────────────────────────────────────────────────────────────────

#: Says each signal that comes, and its value; ends by SIGKILL alone.
LISTENER = """
every = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print("ready", flush=True)
while True:
    print(int(signal.sigwaitinfo(every).si_signo), flush=True)
"""

FORWARDED = sorted(
    set(map(int, signal.valid_signals())) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
)


def test_every_signal_is_passed_on(start, out):
    peer = start(*python(LISTENER))
    assert out.hear() == "ready"
    for number in FORWARDED:
        peer.signal(number)
        assert out.hear() == str(number)
    end_by_killing_the_command(peer)


def test_without_passing_on_it_never_hears(start, out, monkeypatch):
    """The negative control of the one above."""

    def before() -> None:
        monkeypatch.setattr(init._Supervision, "_deliver", lambda self, sent: True)

    peer = start(*python(LISTENER), before=before)
    assert out.hear() == "ready"
    for number in FORWARDED:
        peer.signal(number)
    until(lambda: not pending(peer.pid), "all were taken")
    end_by_killing_the_command(peer)
    assert out.everything() == []


def children(pid: int) -> list[int]:
    return felling.children_of(pid)


def end_by_killing_the_command(peer) -> None:
    (command,) = children(peer.pid)
    os.kill(command, signal.SIGKILL)
    assert peer.result().status.signal == signal.SIGKILL


#: The same with values, after a word from the test; ends with a SIGTERM.
COUNTER = """
import sys
sys.path[:0] = {path!r}
import kinfolk as kin
with kin.signals.stream(["TERM", "RTMIN", "RTMIN+1", "USR1"]) as arriving:
    print("ready", flush=True)
    os.read(0, 1)
    for each in arriving:
        print(int(each.signal), each.value, flush=True)
        if each.name == "SIGTERM":
            break
"""


def test_real_time_signals_all_arrive_in_order_with_their_values(start, out, waiting):
    """More than the queue holds: who sends too fast hears so from the kernel, as if there was nobody in between."""
    room = queued_of_this_user() + 200  # others of the same user use it as well

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (room, room))

    peer = start(*python(COUNTER.format(path=sys.path)), before=before)
    assert out.hear() == "ready"
    sent = sent_until_refused(peer.pid)
    assert sent < 9_999
    waiting.open()
    total = sent + 300
    for value in range(sent, total):
        kin.signals.send(peer.pid, "RTMIN+1", value, timeout=HANG)
    number = int(signal.SIGRTMIN) + 1
    assert [out.hear() for _ in range(total)] == [f"{number} {value}" for value in range(total)]
    kin.signals.send(peer.pid, "USR1", 7)  # a standard one with a value
    assert out.hear() == f"{int(signal.SIGUSR1)} 7"
    kin.signals.send(peer.pid, "TERM")
    assert out.hear() == f"{int(signal.SIGTERM)} None"
    assert peer.result().status.code == 0


def test_one_that_finds_no_room_is_offered_again(start, out, waiting, monkeypatch):
    """The queue is full for every other attempt."""
    attempts = itertools.count()

    def before() -> None:
        def queue(*args):
            if next(attempts) % 2 == 0:
                raise BlockingIOError
            real(*args)

        real = _native.queue_signal
        monkeypatch.setattr(_native, "queue_signal", queue)

    peer = start(*python(COUNTER.format(path=sys.path)), before=before)
    assert out.hear() == "ready"
    for value in range(5):
        kin.signals.send(peer.pid, "RTMIN+1", value)
    waiting.open()
    number = int(signal.SIGRTMIN) + 1
    assert [out.hear() for _ in range(5)] == [f"{number} {value}" for value in range(5)]
    peer.signal(signal.SIGTERM)
    peer.result()


def sent_until_refused(pid: int) -> int:
    with contextlib.suppress(kin.LimitReached):
        for value in range(10_000):
            kin.signals.send(pid, "RTMIN+1", value)
    return value


def queued_of_this_user() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["SigQ"].split("/")[0])


LOOP = "while :; do sleep 0.01; done"
FAMILY = f"trap 'echo command' USR1; sh -c 'trap \"echo child\" USR1; echo ready; {LOOP}' & {LOOP}"


def test_to_the_command_alone(start, out):
    peer = start(*shell(FAMILY), grace=0)
    assert out.hear() == "ready"
    peer.signal(signal.SIGUSR1)
    assert out.hear() == "command"
    end_by_killing_the_command(peer)
    assert out.everything() == []


def test_or_to_its_group(start, out):
    peer = start(*shell(FAMILY), grace=0, group=True)
    assert out.hear() == "ready"
    peer.signal(signal.SIGUSR1)
    assert {out.hear(), out.hear()} == {"command", "child"}
    end_by_killing_the_command(peer)


def test_one_that_has_left_its_group_hears_too(start, out):
    script = f"os.setpgid(0, os.getpgid(os.getppid()))\n{LISTENER}"
    peer = start(*python(script), group=True)
    assert out.hear() == "ready"
    peer.signal(signal.SIGUSR1)
    assert out.hear() == str(int(signal.SIGUSR1))
    end_by_killing_the_command(peer)


# ── strangers ────────────────────────────────────────────────────────────────────────────────

#: Leaves an orphan that ends soon, says its pid, and lives on.
LEAVES_AN_ORPHAN = "sh -c 'sleep 0.05 & echo $!'; read x"


def test_adopted_zombies_are_reaped(start, out, waiting):
    peer = start(*shell(LEAVES_AN_ORPHAN))
    orphan = out.hear_pid()
    until(lambda: state(orphan) == "X", "the orphan reaped")
    waiting.open()
    assert peer.result().reaped >= 1


def test_without_reaping_a_zombie_is_left(start, out, waiting, monkeypatch):
    """The negative control."""

    def before() -> None:
        def never(kind, number, options):
            return None if kind == os.P_ALL else real(kind, number, options)

        real = init._peek
        monkeypatch.setattr(init, "_peek", never)

    peer = start(
        *shell(LEAVES_AN_ORPHAN),
        before=before,
    )
    orphan = out.hear_pid()
    until(lambda: state(orphan) == "Z", "a zombie")
    peer.until_asleep()
    assert state(orphan) == "Z"
    waiting.open()
    peer.result()


# ── the end of the tree ──────────────────────────────────────────────────────────────────────

#: Forks twice in a session of its own, so that no parent and no group leads back to the command.
DAEMON = "setsid sh -c 'sleep 1000 & echo $!'"


def test_a_daemon_is_ended_with_the_command(start, out):
    peer = start(*shell(DAEMON))
    daemon = out.hear_pid()
    outcome = peer.result()
    assert state(daemon) == "X"
    assert (outcome.status.code, outcome.reaped, outcome.killed) == (0, 1, 0)


def test_without_the_subreaper_it_survives(start, out, monkeypatch):
    """The negative control."""

    def before() -> None:
        monkeypatch.setattr(_native, "set_child_subreaper", lambda on: None)

    peer = start(*shell(DAEMON), before=before)
    daemon = out.hear_pid()
    with escaped(daemon):
        peer.result()
        assert lives(daemon)


def test_without_ending_the_rest_it_survives(start, out, monkeypatch):
    """The other one."""

    def before() -> None:
        def end(self, grace, *, timed_out):
            return None

        monkeypatch.setattr(init._Supervision, "end", end)

    peer = start(*shell(DAEMON), before=before)
    daemon = out.hear_pid()
    with escaped(daemon):
        peer.result()
        assert lives(daemon)


TIDY = f"sh -c 'trap \"echo clean; exit\" TERM; echo ready; {LOOP}' & read x"


def test_what_is_left_may_clean_up(start, out, waiting):
    peer = start(*shell(TIDY), grace=HANG)
    assert out.hear() == "ready"
    waiting.open()
    assert peer.result().killed == 0
    assert out.everything() == ["clean"]


def test_without_a_grace_it_may_not(start, out, waiting):
    """The negative control."""
    peer = start(*shell(TIDY), grace=0)
    assert out.hear() == "ready"
    waiting.open()
    assert peer.result().killed >= 1
    assert out.everything() == []


#: Says each SIGTERM, and ends by SIGKILL alone; in a session of its own if asked.
STUBBORN = """
if {apart}:
    os.setsid()
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
print("ready", flush=True)
while True:
    print(int(signal.sigwait({{signal.SIGTERM}})), flush=True)
"""
TERM = str(int(signal.SIGTERM))


def stubborn(*, apart: bool) -> str:
    return shlex.join(python(STUBBORN.format(apart=apart)))


@pytest.mark.parametrize("apart", [False, True])
def test_each_is_asked_once_and_killed_after_the_grace(start, out, waiting, apart):
    peer = start(*shell(f"{stubborn(apart=apart)} & read x"), grace=0.3)
    assert out.hear() == "ready"
    waiting.open()
    assert out.hear() == TERM
    assert peer.result().killed == 1
    assert out.everything() == []


def test_one_whose_parent_dies_while_all_are_asked_is_asked_too(start, out, waiting):
    """The parent, in the command's group, obeys at once; then its child, in another session, is an orphan."""
    parent = f"sh -c {shlex.quote(stubborn(apart=True) + ' & wait')}"
    peer = start(*shell(f"{parent} & read x"), grace=None)
    assert out.hear() == "ready"
    waiting.open()
    assert out.hear() == TERM
    peer.signal(signal.SIGTERM)
    peer.result()
    assert out.everything() == []


@pytest.mark.parametrize("apart", ["", "setsid "])
def test_a_stopped_one_hears_it_too(start, out, waiting, apart):
    script = f"{apart}sh -c 'trap \"echo clean; exit\" TERM; echo $$; kill -STOP $$' & read x"
    peer = start(*shell(script), grace=HANG)
    stopped = out.hear_pid()
    until(lambda: state(stopped) == "T", "stopped")
    waiting.open()
    assert peer.result().killed == 0
    assert out.everything() == ["clean"]


@pytest.mark.parametrize("grace", [None, 1000.0])
def test_a_second_signal_ends_the_grace(start, out, waiting, grace):
    peer = start(*shell(f"{stubborn(apart=False)} & read x"), grace=grace)
    assert out.hear() == "ready"
    waiting.open()
    assert out.hear() == TERM
    peer.signal(signal.SIGUSR1)  # not that one
    until(lambda: not pending(peer.pid), "it was taken")
    assert not readable(peer.pidfd, 0.05)
    peer.signal(signal.SIGTERM)
    assert peer.result().killed == 1


# ── its time ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_its_time_is_up(start, timeout):
    outcome = start.to_its_end("sleep", "1000", timeout=timeout)
    assert outcome.timed_out
    assert outcome.status.signal == signal.SIGTERM


def test_its_time_is_up_and_it_does_not_obey(start):
    def before() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the command inherits

    outcome = start.to_its_end("sleep", "1000", before=before, timeout=0.01, grace=0.05)
    assert outcome.timed_out
    assert outcome.status.signal == signal.SIGKILL


def test_in_time(start):
    assert not start.to_its_end("true", timeout=HANG).timed_out


# ── who does not want to end ─────────────────────────────────────────────────────────────────

#: One process at any time, which forks and ends, for ever: another pid whenever somebody looks. It ends after a time if nobody ends it.
COMET = """
import time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = time.monotonic() + 40
if os.fork() == 0:
    print("ready", flush=True)
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        os.setsid()
    print("escaped", flush=True)
"""


@pytest.mark.parametrize("grace", [0, 0.05])
def test_one_that_forks_for_ever_is_ended(start, out, grace):
    peer = start(*python(COMET), grace=grace)
    assert out.hear() == "ready"
    assert peer.result().killed >= 1
    assert out.everything() == []


def test_without_freezing_it_escapes(start, out, monkeypatch):
    """The negative control: each is looked up, and killed by its number, as a shell script would."""

    def before() -> None:
        monkeypatch.setattr(felling, "kill_below", lambda pid, pidfd: [])
        monkeypatch.setattr(remains.Subtree, "out_of_reach", lambda self: [])

    peer = start(*python(COMET.replace("40", "0.3")), before=before, grace=0.05)
    assert out.hear() == "ready"
    peer.result()
    assert out.everything() == ["escaped"]


#: A whole family of them, in the command's group.
SWARM = """
import time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = time.monotonic() + 40
for _ in range(8):
    if os.fork() == 0:
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
print("ready", flush=True)
"""


def test_a_swarm_is_ended(start, out):
    peer = start(*python(SWARM), grace=0.05)
    assert out.hear() == "ready"
    peer.result()
    assert out.everything() == []


#: A chain of processes, each the parent of the next, in sessions of their own; only SIGKILL ends them.
CHAIN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
for number in range(100):
    if os.fork():
        if number:
            signal.pause()
        signal.sigwait({signal.SIGUSR1})
        os._exit(0)
    os.setsid()
    print(os.getpid(), flush=True)
signal.pause()
"""
FEW = 64


def test_more_generations_than_descriptors(start, out):
    """To hold a process takes a descriptor, and all the generations above it are held as well."""

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))

    peer = start(*python(CHAIN), before=before, grace=0.01)
    chain = [out.hear_pid() for _ in range(100)]
    peer.signal(signal.SIGUSR1)
    outcome = peer.result()
    assert (outcome.reaped, outcome.killed) == (100, 100)
    assert not any(map(lives, chain))


def test_without_the_way_round_it_fails(start, out, monkeypatch):
    """The negative control."""

    def before() -> None:
        def kill(self, group, held):
            with pytest.raises(OSError, match="Too many open files"):
                felling.kill_below(self._pid, self._self.fileno())

        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))
        monkeypatch.setattr(remains.Subtree, "kill", kill)
        monkeypatch.setattr(remains.Subtree, "out_of_reach", lambda self: [])

    peer = start(*python(CHAIN), before=before, grace=0.01)
    chain = [out.hear_pid() for _ in range(100)]
    peer.signal(signal.SIGUSR1)
    with contextlib.ExitStack() as cleaning:
        for pid in chain:
            cleaning.enter_context(escaped(pid))
        peer.result()
        assert all(map(lives, chain))


def test_at_any_limit_of_descriptors_nothing_is_left(peers):
    """Either it works, or it says so; with the one descriptor in reserve that looking for the rest takes."""
    outcomes = []
    for more in range(12):
        line, gate = Line(), Gate()

        def body(voice: Voice, more: int = more) -> bool:
            free = os.open(os.devnull, os.O_RDONLY)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, free + more))
            with contextlib.suppress(kin.LimitReached):
                kin.run_as_init(shell(f"{DAEMON}; {DAEMON}"), grace=0)
                return True
            return False

        outcomes.append(Supervised(peers, line, gate).fork(body).result())
        line.everything()  # waits for the end of all of them
        line.close()
        gate.close()
    assert outcomes == sorted(outcomes)
    assert {*outcomes} == {False, True}


def test_who_belongs_to_another_user_is_left_and_named(peers, foreign_user):
    """As a set-user-ID program would be."""

    def body(voice: Voice) -> kin.InitOutcome:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.alarm(int(HANG))
            signal.pause()
            os._exit(0)
        foreign_user.become()
        voice.say(pid)
        return kin.run_as_init(["true"], grace=0.01)

    peer = peers.fork(body)
    alien = peer.hear()
    with escaped(alien):
        assert peer.result().left == (alien,)
        assert lives(alien)


def test_as_a_plain_user(start, out, as_plain_user):
    peer = start(*shell(DAEMON), before=as_plain_user.become)
    daemon = out.hear_pid()
    assert peer.result().reaped == 1
    assert state(daemon) == "X"


# ── failures in the middle ───────────────────────────────────────────────────────────────────


def test_an_error_in_the_middle_ends_everything(start, out, monkeypatch):
    def body(voice: Voice) -> bool:
        def broken(self, *args):
            voice.hear()
            raise OSError(5, "broken")

        monkeypatch.setattr(init._Supervision, "attend", broken)
        before = standing()
        with pytest.raises(kin.KernelError, match="can't be supervised"):
            kin.run_as_init(shell(f"{DAEMON}; sleep 1000"))
        return standing() == before

    peer = start.fork(body)
    daemon = out.hear_pid()
    peer.say()
    assert peer.result()
    assert state(daemon) == "X"


def test_a_status_that_somebody_else_collected_is_unknown(start, monkeypatch):
    def before() -> None:
        def steal(self, grace, *, timed_out):
            os.waitpid(self._command, 0)
            return real(self, grace, timed_out=timed_out)

        real = init._Supervision.end
        monkeypatch.setattr(init._Supervision, "end", steal)

    status = start.to_its_end("true", before=before).status
    assert not status.known
    assert status.shell_code == 125


# ── the parent's death ───────────────────────────────────────────────────────────────────────


def with_parent(start: Supervised, program: str, **options):
    """A supervisor with a parent that is not the test, which says both pids; that adopts, so nobody escapes."""

    def adopter(voice: Voice) -> None:
        _native.set_child_subreaper(True)
        parent = os.fork()
        if parent == 0:
            pid = os.fork()
            if pid == 0:
                kin.run_as_init(python(program), **options)
                os._exit(0)
            voice.say((os.getpid(), pid))
            signal.pause()
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()

    peer = start.fork(adopter)
    return peer, *peer.hear()


def test_the_death_of_the_parent_is_passed_on(start, out):
    peer, parent, supervisor = with_parent(start, LISTENER, parent_death_signal="USR2", grace=0)
    assert out.hear() == "ready"
    os.kill(parent, signal.SIGKILL)
    assert out.hear() == str(int(signal.SIGUSR2))
    end_the_command_of(peer, supervisor)


def test_or_ends_everything(start, out):
    peer, parent, _ = with_parent(start, LISTENER, parent_death_signal=signal.SIGKILL)
    assert out.hear() == "ready"
    os.kill(parent, signal.SIGKILL)
    assert out.everything() == []
    peer.result()


def test_without_asking_it_means_nothing(start, out):
    """The negative control."""
    peer, parent, supervisor = with_parent(start, LISTENER)
    assert out.hear() == "ready"
    os.kill(parent, signal.SIGKILL)
    until(lambda: felling.parent_of(supervisor) == peer.pid, "adopted")
    os.kill(supervisor, signal.SIGUSR1)
    assert out.hear() == str(int(signal.SIGUSR1))  # the next thing that it hears
    end_the_command_of(peer, supervisor)


def end_the_command_of(adopter, supervisor: int) -> None:
    (command,) = children(supervisor)
    os.kill(command, signal.SIGKILL)
    adopter.result()


# ── PID 1 ────────────────────────────────────────────────────────────────────────────────────


def in_namespace(start: Supervised, program: tuple[str, ...], **options):
    """A supervisor that is PID 1, and its pid out here; the result of the peer, its parent, is how it ended."""
    need_pid_namespaces()

    def outside(voice: Voice) -> tuple[int, str]:
        enter_pid_namespace()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                assert os.getpid() == 1
                outcome = kin.run_as_init(program, **options)
                said = f"{outcome.status}, {outcome.reaped} reaped, {outcome.killed} killed"
                os.write(writer, said.encode())
                os._exit(outcome.status.shell_code)
            finally:
                os._exit(99)
        os.close(writer)
        voice.say(pid)
        word = os.waitpid(pid, 0)[1]
        return os.waitstatus_to_exitcode(word), os.read(reader, 4096).decode()

    peer = start.fork(outside)
    return peer, peer.hear()


def test_as_pid_1_it_reaps_forwards_and_ends(start, out):
    """Without a /proc of its own namespace, too."""
    script = f"trap 'echo term; exit 3' TERM; {DAEMON} >&2; sh -c 'sleep 0.01 & echo $$'; {LOOP}"
    peer, init_pid = in_namespace(start, shell(script))
    assert out.hear().isdigit()
    os.kill(init_pid, signal.SIGTERM)
    code, said = peer.result()
    assert code == 3
    assert re.fullmatch("exited 3, ([2-9]|[0-9]{2,}) reaped, 0 killed", said)
    assert out.everything() == ["term"]


def test_as_pid_1_who_does_not_obey_is_killed(start, out, waiting):
    script = f"{stubborn(apart=True)} & read x; exit 4"
    peer, _ = in_namespace(start, shell(script), grace=0.3)
    assert out.hear() == "ready"
    waiting.open()
    assert out.hear() == TERM
    assert peer.result() == (4, "exited 4, 1 reaped, 1 killed")
    assert out.everything() == []


def test_nobody_but_pid_1_signals_everybody():
    with pytest.raises(AssertionError, match="only PID 1"):
        remains.Namespace().kill(0, held=False)


def test_without_a_proc_nothing_is_promised(peers, monkeypatch):
    def body(voice: Voice) -> str:
        real = os.readlink
        monkeypatch.setattr(
            os,
            "readlink",
            lambda path, **named: "4711" if path == "/proc/self" else real(path, **named),
        )
        with pytest.raises(kin.Unsupported, match="mount") as caught:
            kin.run_as_init(["true"])
        return str(caught.value)

    assert "4711" in peers.fork(body).result()
