"""The options of a start: what each does to a real child, and what is said about a bad value."""

from __future__ import annotations

import os
import resource
import signal
import tempfile

import pytest

import kinfolk as kin
from kinfolk.errors import AddressError, InvalidValue, Unsupported
from kinfolk.processes.options import prepared
from kinfolk.processes.streams import Redirect
from tests.conformance.peers import HANG, open_descriptors
from tests.unit.starting import output, shell, start

# ── values ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"umsk": 0o22}, "there is no option 'umsk' (did you mean umask?)"),
        ({"zzz": 1}, "there is no option 'zzz' (env, cwd"),
        ({"timeout": 1}, "there is no option 'timeout' (env, cwd"),
        ({"env": ["A=1"]}, "the environment is ['A=1']"),
        ({"env": {"A=B": "1"}}, "no variable can be called 'A=B'"),
        ({"env": {"A": "x\0y"}}, "holds a zero byte"),
        ({"cwd": "a\0b"}, "cwd holds a zero byte"),
        ({"cwd": 7}, "cwd is 7"),
        ({"umask": -1}, "umask=-0o1 makes no sense"),
        (
            {"umask": 0o1000},
            "umask=0o1000 makes no sense (give permission bits such as 0o077, from 0o0 to 0o777)",
        ),
        ({"nice": "low"}, "nice='low' makes no sense"),
        ({"user": "nobody-of-that-name"}, "there is no user 'nobody-of-that-name'"),
        ({"user": -1}, "user=-1 makes no sense"),
        ({"user": 4_000_000_000}, "user=4000000000 has no group"),
        ({"group": "none-of-that-name"}, "there is no group 'none-of-that-name'"),
        ({"extra_groups": [0, "none-of-that-name"]}, "there is no group"),
        ({"extra_groups": [None]}, "a group is None"),
        ({"rlimits": [1]}, "rlimits=[1] is no mapping"),
        ({"rlimits": {"files": 1}}, "there is no limit 'files'"),
        ({"rlimits": {"nofile": -7}}, "the limit 'nofile': -7"),
        ({"rlimits": {"nofile": (9, 8)}}, "soft is above hard"),
        ({"rlimits": {"nofile": (None, 8)}}, "soft is above hard"),
        ({"rlimits": {"nofile": (1, 2, 3)}}, "the limit 'nofile'"),
        ({"process_group": -1}, "process_group=-1 makes no sense"),
        ({"process_group": 7, "new_session": True}, "exclude each other"),
        ({"cgroup": "a\0b"}, "cgroup holds a zero byte"),
        ({"encoding": "klingon"}, "encoding='klingon' makes no sense"),
        ({"stdin": 987}, "descriptor 987 is not open"),
        ({"stdin": -9}, "stdin=-9 is no descriptor"),
        ({"stdin": Redirect.STDOUT}, "stdin=<Redirect.STDOUT: -2> is no descriptor"),
        ({"stdout": "file"}, "stdout='file' is no descriptor"),
        ({"stdout": True}, "stdout=True is no descriptor"),
        ({"pass_fds": [987]}, "descriptor 987 is not open"),
        ({"pass_fds": 3}, "pass_fds=3 makes no sense (give a list: [3])"),
        ({"pass_fds": "3"}, "pass_fds='3' makes no sense"),
        ({"extra_groups": 3}, "extra_groups=3 makes no sense"),
        ({"user": True}, "user=True makes no sense"),
        ({"group": True}, "group=True makes no sense"),
        ({"process_group": True}, "process_group=True makes no sense"),
        ({"nice": True}, "nice=True makes no sense"),
        ({"umask": False}, "umask=False makes no sense"),
        ({"rlimits": {"nofile": True}}, "the limit 'nofile': True"),
        (
            {"pass_fds": [1], "stdout": Redirect.DEVNULL},
            "descriptor 1 can't be passed by its number",
        ),
    ],
)
def test_a_bad_value_is_refused_before_anything_happens(options, says):
    before = open_descriptors()
    with pytest.raises(InvalidValue) as raised:
        start(["true"], **{"stderr": Redirect.PIPE, **options})
    assert says in str(raised.value)
    assert raised.value.remedy
    assert open_descriptors() == before


@pytest.mark.parametrize("argv", [[], "ls -l", b"ls", ["a\0b"], [""], [None], 7])
def test_a_bad_program_is_refused(argv):
    with pytest.raises(InvalidValue):
        prepared(argv, {}, "direct")


def test_a_closed_file_is_refused():
    with tempfile.TemporaryFile() as file:
        pass
    with pytest.raises(InvalidValue, match="has no descriptor"):
        start(["true"], stdout=file)


def test_a_stream_that_goes_the_wrong_way_is_refused():
    reading, writing = os.pipe()
    try:
        with pytest.raises(InvalidValue, match="it is open for reading only"):
            start(["true"], stdout=reading)
        with pytest.raises(InvalidValue, match="it is open for writing only"):
            start(["true"], stdin=writing)
    finally:
        os.close(reading)
        os.close(writing)


def test_limits_by_name_and_number():
    script = ["sh", "-c", "ulimit -c; ulimit -Sn; ulimit -Hn"]
    limits = {"RLIMIT_CORE": 0, resource.RLIMIT_NOFILE: (50, 60)}
    assert output(script, rlimits=limits).split() == ["0", "50", "60"]


def test_the_rest(tmp_path):
    script = "pwd; umask; echo $COLOUR; ps -o pgid= -p $$ | tr -d ' '; echo $$"
    text = output(
        ["sh", "-c", script],
        cwd=tmp_path,
        umask=0o077,
        env={"COLOUR": "green", "PATH": os.environ["PATH"]},
        new_session=True,
    )
    where, umask, colour, group, pid = text.split()
    assert (where, umask, colour) == (str(tmp_path), "0077", "green")
    assert group == pid


def test_a_user_brings_his_groups(foreign_user):
    ids = output(["id"], user=foreign_user.uid)
    assert f"uid={foreign_user.uid}" in ids
    assert f"gid={foreign_user.gid}" in ids
    assert "root" not in ids
    # By name, with other groups.
    assert "7" in output(["id", "-G"], user="nobody", extra_groups=[7]).split()
    assert output(["id", "-G"], user="nobody", group=7, extra_groups=[]).split() == ["7"]


def test_to_be_oneself_takes_no_privileges(as_plain_user):
    def live() -> int | None:
        return start(["true"], user=os.getuid(), group=os.getgid()).wait().code

    assert as_plain_user.run(live) == 0


def test_a_cgroup_is_entered(tmp_path):
    top = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
    name = f"{top}/kinfolk-test-{os.getpid()}"
    try:
        os.mkdir(name)
    except OSError as error:
        pytest.skip(f"needs a cgroup of version 2 that may be written to: {error}")
    try:
        assert os.path.basename(name) in output(["cat", "/proc/self/cgroup"], cgroup=name)
    finally:
        os.rmdir(name)


# ── streams ──────────────────────────────────────────────────────────────────────────────────


def test_pipes_both_ways():
    with start(["cat"], stdin=Redirect.PIPE, stdout=Redirect.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"hello")
        process.stdin.close()
        assert process.stdout.read() == b"hello"
        assert process.wait(HANG).success


def test_text():
    with start(["cat"], stdin=Redirect.PIPE, stdout=Redirect.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("grün\n")
        process.stdin.close()
        assert process.stdout.readline() == "grün\n"
    assert output(["printf", r"\344"], encoding="latin-1") == "ä"


def test_subprocess_constants_mean_the_same():
    import subprocess

    assert (Redirect.PIPE, Redirect.STDOUT, Redirect.DEVNULL) == (
        subprocess.PIPE,
        subprocess.STDOUT,
        subprocess.DEVNULL,
    )


def test_errors_go_where_the_output_goes():
    assert output(["sh", "-c", "echo one; echo two >&2"], stderr=Redirect.STDOUT) == "one\ntwo\n"


def test_nothing():
    assert shell("echo to nobody", stdout=Redirect.DEVNULL).wait().success
    assert output(["cat"], stdin=Redirect.DEVNULL) == ""


def test_files_and_numbers(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        assert shell("echo hello", stdout=file, stderr=file.fileno()).wait().success
        assert not file.closed
    with path.open("rb") as file:
        assert output(["cat"], stdin=file) == "hello\n"


def test_streams_that_are_closed_here_are_null_in_the_child(peers):
    def live(voice):
        for number in (0, 1):
            os.close(number)
        script = "test /proc/self/fd/0 -ef /dev/null && echo hello && cat"
        return start(["sh", "-c", script], stderr=Redirect.DEVNULL).wait().code

    assert peers.fork(live).result() == 0


def test_passed_descriptors_keep_their_numbers():
    reading, writing = os.pipe()
    with open(reading) as file:
        shell(f"echo hello > /proc/self/fd/{writing}", pass_fds=[writing]).wait()
        with os.fdopen(writing, "w") as other:
            shell(f"echo again > /proc/self/fd/{writing}", pass_fds=[other]).wait()
        assert file.read() == "hello\nagain\n"


def test_pipes_are_closed_when_the_start_fails():
    before = open_descriptors()
    for stream in ("stdin", "stdout", "stderr"):
        with pytest.raises(kin.NotFound):
            start(["/nonexistent"], **{stream: Redirect.PIPE})
    assert open_descriptors() == before


# ── ends of channels ─────────────────────────────────────────────────────────────────────────


def test_raw_ends_are_streams_of_a_program():
    """And they move: here they are closed once the child has them."""
    there_receives, here_sends = kin.channel("pipe:?framing=raw")
    here_receives, there_sends = kin.channel("pipe:?framing=raw")
    with here_sends, here_receives, start(["cat"], stdin=there_receives, stdout=there_sends) as cat:
        assert there_receives.closed
        assert there_sends.closed
        here_sends.send_bytes(b"hello")
        assert here_receives.recv_bytes(timeout=HANG) == b"hello"
        here_sends.close()
        assert cat.wait(HANG).success
        with pytest.raises(kin.EndOfChannel):
            here_receives.recv_bytes(timeout=HANG)


def test_the_program_finds_them_blocking_and_a_clone_stays_as_it_was():
    receiver, sender = kin.channel("pipe:?framing=raw")
    with sender, receiver.clone() as clone:
        # A non-blocking standard input would make it fail at once (EAGAIN).
        with start(["cat"], stdin=receiver, stdout=Redirect.PIPE) as cat:
            with pytest.raises(kin.Timeout):
                cat.wait(0.01)
            assert not os.get_blocking(clone.fileno())
            sender.send_bytes(b"x")
            assert cat.stdout is not None
            assert cat.stdout.read(1) == b"x"


def test_a_raw_connection_is_both():
    here, there = kin.pair("unix:?framing=raw")
    with here, start(["cat"], stdin=there, stdout=there) as cat:
        assert there.closed
        here.send_bytes(b"hello")
        assert here.recv_bytes(timeout=HANG) == b"hello"
        here.send_eof()
        assert cat.wait(HANG).success


def test_a_framed_pipe_keeps_its_number_for_a_program_of_ours():
    import sys

    receiver, sender = kin.channel("pipe:")
    code = f"import kinfolk; kinfolk.open_sender('pipe:{sender.fileno()}').send([1, 2])"
    env = {**os.environ, "PYTHONPATH": os.path.abspath(os.environ.get("PYTHONPATH", "."))}
    with receiver, start([sys.executable, "-W", "ignore", "-c", code], pass_fds=[sender], env=env):
        assert sender.closed
        assert receiver.recv(timeout=HANG) == [1, 2]
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)


def test_an_end_stays_when_the_start_fails():
    receiver, sender = kin.channel("pipe:?framing=raw")
    with receiver, sender:
        before = open_descriptors()
        with pytest.raises(kin.NotFound):
            start(["/nonexistent"], stdin=receiver)
        assert not receiver.closed
        sender.send_bytes(b"hello")
        assert receiver.recv_bytes(timeout=HANG) == b"hello"
        assert open_descriptors() == before


def test_ends_that_are_no_stream_are_refused():
    receiver, sender = kin.channel("pipe:?framing=raw")
    one, other = kin.pair("unix:")
    both, ways = kin.pair("pipe:")
    with receiver, sender, one, other, both, ways:
        with pytest.raises(Unsupported, match="goes the wrong way"):
            start(["cat"], stdin=sender)
        with pytest.raises(Unsupported, match="goes the wrong way"):
            start(["cat"], stdout=receiver)
        with pytest.raises(Unsupported, match="it reads ahead"):
            start(["cat"], stdin=other)
        with pytest.raises(Unsupported, match="goes the wrong way"):
            start(["cat"], pass_fds=[both])
    with pytest.raises((kin.Closed, AddressError)):
        start(["cat"], stdin=receiver)


def test_a_child_does_not_keep_what_was_not_given_to_it():
    """A sender that stays here is the only one; the end of the channel is seen when it closes."""
    receiver, sender = kin.channel("pipe:")
    with receiver, start(["sleep", "1000"]) as process:
        sender.close()
        with pytest.raises(kin.EndOfChannel):
            receiver.recv(timeout=HANG)
        assert process.signal(signal.SIGTERM)
