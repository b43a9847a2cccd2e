"""The keeper: what it is, what it tells, and what its children take from their owner."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

import kinfolk as kin
from kinfolk import _native
from kinfolk.ancillary import close_all
from kinfolk.processes import felling, inheritance, keeper_messages, keeping, lost_status
from kinfolk.processes.handover import Handover
from kinfolk.processes.keeper_messages import Kind, Preload, Record, Started, StartProgram
from kinfolk.processes.launch import Launch
from tests.conformance.peers import (
    HANG,
    Peers,
    open_descriptors,
    readable,
    state,
    thread_of,
    until,
)
from tests.other_user import User
from tests.unit.keepers import _the_keeper_ends, children_of, output_of, peers

__all__ = ["_the_keeper_ends", "peers"]

SLEEP = ["sleep", "1000"]


def the_keeper() -> int:
    kin.spawn(["true"]).wait(HANG)
    pid = keeping.keeping().keeper_pid
    assert pid is not None
    return pid


def field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return line.partition(":")[2].strip()
    raise KeyError(name)


# ── what it is ───────────────────────────────────────────────────────────────────────────────


def test_it_is_a_small_process_of_its_own_group_in_our_session() -> None:
    pid = the_keeper()
    assert Path(f"/proc/{pid}/comm").read_text() == "kin-keeper\n"
    assert field(pid, "Threads") == "1"
    assert field(pid, "PPid") == str(os.getpid())
    assert os.getpgid(pid) == pid
    assert os.getsid(pid) == os.getsid(0)
    assert the_keeper() == pid


def test_what_a_terminal_sends_to_everybody_is_not_for_it() -> None:
    pid = the_keeper()
    for number in keeper_messages.DEAF_TO:
        os.kill(pid, number)
    assert the_keeper() == pid


def test_its_children_are_in_our_process_group() -> None:
    groups = output_of(["sh", "-c", "ps -o pgid= -p $$ || cut -d' ' -f5 /proc/$$/stat"])
    assert int(groups.split()[-1]) == os.getpgrp()
    with kin.spawn(SLEEP, process_group=0) as own, kin.spawn(SLEEP, new_session=True) as session:
        assert os.getpgid(own.pid) == own.pid
        assert os.getsid(session.pid) == session.pid


def test_the_memory_of_its_owner_is_not_taken_along(peers: Peers) -> None:
    def is_large(voice) -> None:
        ballast = bytearray(200 << 20)
        ballast[:: resource.getpagesize()] = b"x" * len(ballast[:: resource.getpagesize()])
        pid = the_keeper()
        voice.say(int(field(pid, "VmRSS").split()[0]) << 10)
        keeping.keeping().end(0)

    assert peers.fork(is_large).hear() < 100 << 20


def test_it_keeps_no_descriptor_of_a_child() -> None:
    pid = the_keeper()
    ours = open_descriptors()

    def theirs() -> list[str]:
        found = []
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(path))
        return found

    for _ in range(5):
        kin.spawn(["true"]).wait(HANG)
        kin.spawn(len, ()).wait(HANG)
        with pytest.raises(kin.NotFound):
            kin.spawn(["no such program"])
    until(lambda: not any(what.startswith("pipe:") for what in theirs()), "closed pipes")
    assert len(theirs()) == 8  # two streams, complaints, line, three pidfds, signalfd
    assert open_descriptors() == ours


# ── what it tells ────────────────────────────────────────────────────────────────────────────


def test_every_exit_code_comes_back() -> None:
    for code in range(256):
        status = kin.spawn(["sh", "-c", f"exit {code}"]).wait(HANG)
        assert (status.kind, status.code) == ("exited", code)


def test_every_fatal_signal_comes_back() -> None:
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    stopping = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    for number in signal.valid_signals() - harmless - stopping:
        process = kin.spawn(SLEEP, rlimits={"core": 0})
        process.signal(number)
        assert process.wait(HANG).signal == number


def test_the_use_of_resources_comes_back() -> None:
    usage = kin.spawn(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]).wait().usage
    assert usage is not None
    assert usage.ru_utime + usage.ru_stime > 0
    assert usage.ru_maxrss > 0


def test_that_it_stops_and_goes_on_comes_back() -> None:
    with kin.spawn(SLEEP) as process:
        process.signal(signal.SIGSTOP)
        stopped = process.wait_change(HANG)
        assert (stopped.kind, stopped.signal) == ("stopped", signal.SIGSTOP)
        process.signal(signal.SIGCONT)
        assert process.wait_change(HANG).kind == "continued"
        assert process.poll() is None


def test_changes_that_nobody_asks_for_leave_room_for_the_end() -> None:
    process = kin.spawn(SLEEP)
    fcntl.fcntl(process.fileno(), fcntl.F_SETPIPE_SZ, 4096)  # as users get them who have many
    for _ in range(30):
        os.kill(process.pid, signal.SIGSTOP)  # `signal` would look for the end, and read
        until(lambda: state(process.pid) == "T", "stopped")
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: state(process.pid) != "T", "going on")
    os.kill(process.pid, signal.SIGTERM)
    status = process.wait(HANG)
    assert status.signal == signal.SIGTERM
    assert status.usage is not None  # else the keeper could not tell, and the kernel was asked


def test_failures_read_the_same_as_without_a_keeper() -> None:
    for what, options in (
        (["no such program"], {}),
        (["/"], {}),
        (["/etc/passwd"], {}),
        (["true"], {"cwd": "/no/such/directory"}),
        (["true"], {"cgroup": "/no/such/cgroup"}),
        (["true"], {"process_group": 1 << 21}),
        (["true"], {"rlimits": {"nofile": (10, 1 << 40)}}),
        (["/bin/true", "x" * 200_000], {}),
        (["/bin/true", "x" * (65 << 20)], {}),
    ):
        errors = []
        for containment in ("direct", "keeper"):
            with pytest.raises(kin.KinfolkError) as caught:
                kin.spawn(what, containment=containment, **options)
            errors.append((type(caught.value), str(caught.value)))
        assert errors[0] == errors[1]
        if "cwd" in options or "cgroup" in options:
            with pytest.raises(errors[0][0], match="no/such"):
                kin.spawn(len, (), **options)


def test_an_orphan_below_is_reaped() -> None:
    keeper = the_keeper()
    pid = int(output_of(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]))
    until(lambda: felling.parent_of(pid) == keeper, "adopted")
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(pid) == "X", "reaped")


# ── what its children take from their owner ──────────────────────────────────────────────────


def test_what_has_changed_here_since_it_was_started_holds_for_its_children(
    peers: Peers, tmp_path: Path
) -> None:
    def changes(voice) -> None:
        the_keeper()
        os.chdir(tmp_path)
        os.umask(0o027)
        os.environ["KINFOLK_TEST_CHANGED"] = "yes"
        os.environ.pop("HOME", None)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
        script = 'pwd; umask; echo "$KINFOLK_TEST_CHANGED-$HOME"; ulimit -Sn'
        voice.say((output_of(["sh", "-c", script]).split(), output_of(tells).split(), soft))
        keeping.keeping().end(0)

    def tells() -> None:
        print(os.getcwd(), f"{os.umask(0):04o}", end=" ")
        print(os.environ["KINFOLK_TEST_CHANGED"] + "-" + os.environ.get("HOME", ""), end=" ")
        print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    program, function, soft = peers.fork(changes).hear()
    assert program == function == [str(tmp_path), "0027", "yes-", str(soft - 1)]


def test_a_directory_that_was_removed_is_still_ours(peers: Peers, tmp_path: Path) -> None:
    def stands_nowhere(voice) -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        voice.say((os.stat(".").st_ino, int(output_of(["stat", "-c", "%i", "."]))))
        keeping.keeping().end(0)

    here, there = peers.fork(stands_nowhere).hear()
    assert here == there


def test_from_a_pid_namespace_it_can_not_be_reached(peers: Peers, tmp_path: Path) -> None:
    def stands_nowhere(voice) -> None:
        (tmp_path / "gone").mkdir()
        os.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        try:
            kin.spawn(["true"], containment="kernel")
        except (kin.NotFound, kin.Unsupported) as error:
            voice.say(error)
        keeping.keeping("kernel").end(0)

    error = peers.fork(stands_nowhere).hear()
    if isinstance(error, kin.Unsupported):
        pytest.skip(str(error))
    assert "its directory has been removed" in str(error)
    assert "(give cwd=" in str(error)


def test_privileges_that_were_given_up_are_not_had_by_children(peers: Peers) -> None:
    def gives_up(voice) -> None:
        privileged = the_keeper()
        running = kin.spawn(["sh", "-c", "read line; exit 3"], stdin=(pipe := os.pipe())[0])
        assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        voice.say(output_of(["grep", "NoNewPrivs", "/proc/self/status"]))
        voice.say((keeping.keeping().keeper_pid != privileged, state(privileged)))
        os.close(pipe[1])
        voice.say(running.wait(HANG).code)  # by the old one
        keeping.keeping().end(0)
        voice.say(state(privileged))

    owner = peers.fork(gives_up)
    told = owner.hear()
    assert told.split() == ["NoNewPrivs:", "1"]
    assert owner.hear() == (True, "S")
    assert owner.hear() == 3
    assert owner.hear() == "X"


def test_a_user_who_may_not_run_python_gets_an_error_and_no_privileges(
    peers: Peers, foreign_user: User
) -> None:
    def becomes_somebody(voice) -> None:
        the_keeper()
        foreign_user.become()
        try:
            voice.say(int(output_of(["id", "-u"])) == os.getuid())
        except kin.AccessDenied:  # Python is installed where only root can read it
            voice.say(True)

    assert peers.fork(becomes_somebody).hear()


def test_the_cpus_that_children_may_run_on(peers: Peers) -> None:
    """The keeper stays on one while it makes them, and nobody is to notice."""
    everywhere = os.sched_getaffinity(0)
    one = {min(everywhere)}

    def of_a_child() -> set[int]:
        return set(numbers_in(output_of(["grep", "Cpus_allowed_list", "/proc/self/status"])))

    def is_restricted(voice) -> None:
        os.sched_setaffinity(0, one)
        voice.say((of_a_child(), os.sched_getaffinity(the_keeper())))
        keeping.keeping().end(0)

    assert peers.fork(is_restricted).hear() == (one, one)
    assert (of_a_child(), os.sched_getaffinity(the_keeper())) == (everywhere, everywhere)
    os.sched_setaffinity(the_keeper(), one)
    try:
        assert (of_a_child(), os.sched_getaffinity(the_keeper())) == (one, one)
    finally:
        os.sched_setaffinity(the_keeper(), everywhere)


def numbers_in(line: str) -> Iterator[int]:
    """The numbers in ``0-2,5``."""
    for part in line.split()[1].split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def test_signals_are_at_their_defaults_in_children() -> None:
    told = output_of(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
    assert [int(line.split()[1], 16) for line in told.splitlines()] == [0, 0]

    def tells() -> None:
        ignored = {n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}
        print(sorted(ignored), signal.getsignal(signal.SIGINT).__name__)  # type: ignore[union-attr]
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    ignored = sorted({signal.SIGPIPE, signal.SIGXFSZ})
    assert output_of(tells) == f"{ignored} default_int_handler\nset()\n"


def test_a_large_environment_travels() -> None:
    env = {"PATH": os.environ["PATH"], **{f"LARGE_{n}": "x" * 60_000 for n in range(5)}}
    assert output_of(["sh", "-c", "printenv LARGE_4 | wc -c"], env=env).strip() == "60001"


def test_the_line_carries_what_is_larger_than_a_packet() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        for size in (
            10,
            keeper_messages.LARGEST_PACKET - 100,
            keeper_messages.LARGEST_PACKET,
            5_000_000,
        ):
            sent = StartProgram(7, b"x" * size)
            keeper_messages.send(here, sent, [here.fileno()])
            received = keeper_messages.receive_request(there)
            assert received is not None
            assert received[0] == sent
            assert [os.fstat(fd).st_ino for fd in received[1]] == [os.fstat(here.fileno()).st_ino]
            close_all(received[1])
        here.close()
        assert keeper_messages.receive_request(there) is None


def test_a_request_of_any_size_gets_to_the_keeper() -> None:
    """As a packet up to its largest, beyond that in memory."""
    largest = keeper_messages.LARGEST_PACKET
    for size in range(largest - 400, largest + 100, 20):
        assert kin.spawn(["/bin/true"], env={"X": "x" * size}).wait(HANG).success


def test_a_request_that_is_damaged_is_refused() -> None:
    launch = Launch(argv=[b"true"], executables=[b"/bin/true"], env=[], descriptors=[(0, 5)])
    block, descriptors = _native.pack_launch(launch)
    assert descriptors == [0]
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        loop = _native.KeeperLoop(there.fileno(), -1, -1, 0, vouches=False)
        for damaged in (b"", block[:-1], block + b"\0", b"\0" * len(block)):
            loop.start_program(7, damaged, [0])
            assert refusal(here) == (7, errno.EPROTO)
        loop.start_program(8, block, [])  # without its descriptor
        assert refusal(here) == (8, errno.EPROTO)


def refusal(line: socket.socket) -> tuple[int, int]:
    received = keeper_messages.receive_reply(line)
    assert received is not None
    reply = received[0]
    assert isinstance(reply, keeper_messages.Refused)
    assert reply.why == os.strerror(reply.code)
    return reply.number, reply.code


def test_records_are_whole() -> None:
    usage = tuple(resource.getrusage(resource.RUSAGE_SELF))
    data = Record(Kind.ENDED, 3 << 8, usage=usage).pack()
    assert len(data) == keeper_messages.RECORD_SIZE < 512
    status = Record.unpack(data).status()
    assert status.code == 3
    assert status.usage is not None
    assert tuple(status.usage) == usage


# ── requests that are given up ───────────────────────────────────────────────────────────────


def test_a_start_that_is_given_up_leaves_no_child() -> None:
    pid = the_keeper()
    before = open_descriptors()
    launch = Launch(argv=[b"sleep", b"1000"], executables=[b"/bin/sleep"])
    steps = keeping.keeping().start_program(launch, Handover())
    interest = next(steps)
    assert readable(interest.readable[0])  # it is there already
    children = children_of(pid)
    assert len(children) == 1
    steps.close()
    until(lambda: children_of(pid) == [], "an abandoned child's end")
    assert output_of(["echo", "next"]) == "next\n"
    assert open_descriptors() == before


@pytest.mark.parametrize("free", range(2))
def test_without_descriptors_for_a_child_there_is_none(peers: Peers, free: int) -> None:
    """With none it can't be seen what the child is to take from here; with one it can, but pidfd and pipe need two."""

    def has_few(voice) -> None:
        keeper = the_keeper()
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        held = list(all_descriptors())
        for fd in held[:free]:
            os.close(fd)
        with pytest.raises(kin.LimitReached):
            kin.spawn(SLEEP)
        for fd in held[free:]:
            os.close(fd)
        until(lambda: children_of(keeper) == [], "a child's end")
        voice.say(output_of(["echo", "next"]))
        keeping.keeping().end(0)

    assert peers.fork(has_few).hear() == "next\n"


def all_descriptors() -> Iterator[int]:
    with suppress(OSError):
        while True:
            yield os.dup(0)


def test_one_request_at_a_time_from_any_thread() -> None:
    codes = list(range(24))
    found: list[int | None] = []

    def work(code: int) -> None:
        found.append(kin.spawn(["sh", "-c", f"exit {code}"]).wait(HANG).code)

    threads = [threading.Thread(target=work, args=(code,)) for code in codes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == sorted(codes, key=str)


def test_waiting_for_a_child_is_no_request() -> None:
    with kin.spawn(SLEEP) as process, thread_of(process.wait, HANG) as call:
        assert output_of(["echo", "meanwhile"]) == "meanwhile\n"
        process.signal(signal.SIGTERM)
        assert call.result().signal == signal.SIGTERM


# ── preloading ───────────────────────────────────────────────────────────────────────────────


def test_a_preloaded_module_is_there(peers: Peers) -> None:
    def is_loaded() -> None:
        print("colorsys" in sys.modules)

    def preloads(voice) -> None:
        said = [output_of(is_loaded)]
        kin.preload("colorsys", "json")
        said.append(output_of(is_loaded))
        pid = keeping.keeping().keeper_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        said.append(output_of(is_loaded))  # another keeper
        voice.say(said)
        keeping.keeping().end(0)

    assert peers.fork(preloads).hear() == ["False\n", "True\n", "True\n"]


def test_what_a_module_does_when_it_is_imported_is_not_done_again(
    peers: Peers, short_directory: Path
) -> None:
    (short_directory / "kinfolk_test_loud.py").write_text(
        "import signal\nprint('loud')\nsignal.signal(signal.SIGTERM, lambda *_: print('handled'))"
    )

    def preloads(voice) -> None:
        os.environ.pop("PYTHONUNBUFFERED", None)
        sys.path.append(str(short_directory))
        kin.preload("kinfolk_test_loud")
        voice.say(output_of(print, "words"))
        pid = the_keeper()
        os.kill(pid, signal.SIGTERM)
        process = kin.spawn(os.kill, 0, signal.SIGTERM, process_group=0)
        voice.say((process.wait(HANG).signal, the_keeper() == pid))
        (short_directory / "kinfolk_test_loud.py").unlink()
        os.kill(pid, signal.SIGKILL)
        with pytest.warns(UserWarning, match="kinfolk_test_loud"):
            voice.say(the_keeper() != pid)
        keeping.keeping().end(0)

    owner = peers.fork(preloads)
    assert owner.hear() == "words\n"
    assert owner.hear() == (signal.SIGTERM, True)
    assert owner.hear()


def test_a_module_that_can_not_be_imported_is_told(short_directory: Path) -> None:
    (short_directory / "kinfolk_test_exits.py").write_text("raise SystemExit(3)")
    sys.path.append(str(short_directory))
    pid = the_keeper()
    try:
        with pytest.raises(kin.InvalidValue, match="no_such_module"):
            kin.preload("no_such_module")
        with pytest.raises(kin.InvalidValue, match="SystemExit"):
            kin.preload("kinfolk_test_exits")
    finally:
        sys.path.pop()
    assert the_keeper() == pid


def test_what_a_module_changed_before_it_failed_is_not_seen_by_functions(
    peers: Peers, short_directory: Path
) -> None:
    (short_directory / "kinfolk_test_halfway.py").write_text(
        "import os, signal\nos.environ['KINFOLK_TEST_LEFT'] = 'behind'\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\nraise ValueError"
    )

    def looks() -> None:
        usual = signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
        print(os.environ.get("KINFOLK_TEST_LEFT"), usual)

    def preloads(voice) -> None:
        output_of(looks)  # the keeper settles after the first one
        sys.path.append(str(short_directory))
        with pytest.raises(kin.InvalidValue, match="ValueError"):
            kin.preload("kinfolk_test_halfway")
        voice.say(output_of(looks))
        voice.say(kin.spawn(os.kill, 0, signal.SIGUSR1, process_group=0).wait(HANG).signal)
        keeping.keeping().end(0)

    owner = peers.fork(preloads)
    assert owner.hear() == "None True\n"
    assert owner.hear() == signal.SIGUSR1


# ── how it ends ──────────────────────────────────────────────────────────────────────────────


def test_a_goodbye_gives_children_time(peers: Peers, tmp_path: Path) -> None:
    told = tmp_path / "told"

    def says_goodbye(voice) -> None:
        polite = [
            "sh",
            "-c",
            f"trap 'echo bye >{told}; exit 4' TERM; echo >{told}; sleep 1000 & wait",
        ]
        deaf = ["sh", "-c", "trap '' TERM; sleep 1000"]
        first, second = kin.spawn(polite), kin.spawn(deaf)
        until(told.exists, "the trap")
        until(lambda: field(second.pid, "SigIgn") != "0" * 16, "deafness")
        keeping.keeping().end(0.2)
        voice.say((first.wait(0).code, second.wait(0).signal))

    owner = peers.fork(says_goodbye)
    assert owner.hear() == (4, signal.SIGKILL)
    assert told.read_text() == "bye\n"


def test_a_status_that_the_kernel_remembers() -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 9"], {})
    pidfd = os.pidfd_open(pid)
    try:
        assert readable(pidfd)
        zombie = lost_status.remembered(pidfd)
        assert zombie is None or not zombie.known
        os.waitpid(pid, 0)
        status = lost_status.remembered(pidfd)
        assert status is not None
        assert status.code == 9 or not status.known
    finally:
        os.close(pidfd)


def test_the_surroundings_are_ours() -> None:
    around = inheritance.look()
    own = os.getpid()
    assert around.umask == int(field(own, "Umask"), 8)
    assert around.ignored == int(field(own, "SigIgn"), 16)
    assert around.process_group == os.getpgrp()
    assert around.directory == os.getcwdb()
    standing = dict(line.split(":\t") for line in around.standing.decode().splitlines())
    assert standing["Uid"].split("\t") == [str(uid) for uid in (*os.getresuid(), os.geteuid())]
    for name in ("Groups", "CapEff", "NoNewPrivs", "Seccomp"):
        assert standing[name].strip() == field(own, name)
    assert standing["Session"] == str(os.getsid(0))
    assert standing["Root"] == f"{os.stat('/').st_dev}:{os.stat('/').st_ino}"
    limits = list(struct.iter_unpack("=qq", around.limits))
    assert limits == [resource.getrlimit(n) for n in range(len(limits))]
    assert len(limits) == 16


def test_surroundings_are_whole_with_many_groups(peers: Peers) -> None:
    def has_many(voice) -> None:
        try:
            os.setgroups(range(100_000, 110_000))
        except PermissionError:
            voice.say(0)
            return
        voice.say(len(inheritance.look().standing))

    length = peers.fork(has_many).hear()
    assert length > 70_000 or os.geteuid() != 0


def test_replies_and_requests_are_told_apart() -> None:
    encode = msgspec.msgpack.encode
    assert msgspec.msgpack.decode(encode(Started(1, 2)), type=keeper_messages.Reply) == Started(
        1, 2
    )
    request = Preload(1, ["a"], [])
    assert msgspec.msgpack.decode(encode(request), type=keeper_messages.Request) == request
