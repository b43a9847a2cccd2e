"""Negative controls of the leak check: a run that leaks has to fail and name what it left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import posix_ipc
import pytest
import sysv_ipc

from tests import leak_check

ROOT = Path(__file__).parent.parent

CLEAN = """
def test_clean(unique_name, socket_path, as_plain_user):
    import os, socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
    socket_path.unlink()
    assert len(str(socket_path)) < 100
    assert as_plain_user.run(os.geteuid) != 0
"""

LEAKS = {
    "zombie": (
        "if os.fork() == 0: os._exit(0)",
        r"child process: \d+ \(zombie\)",
    ),
    "child": (
        "subprocess.Popen(['sleep', '1000'])",
        r"child process: \d+ sleep 1000",
    ),
    "orphan_by_fork": (
        "if os.fork() == 0:\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); os.closerange(0, 100); signal.pause()\n"
        "    os._exit(0)\n"
        "os.wait()",
        r"orphaned process: \d+ .*pytest",
    ),
    "orphan_by_exec": (
        "subprocess.run('setsid sleep 1001 >/dev/null 2>&1 &', shell=True)",
        r"orphaned process: \d+ sleep 1001",
    ),
    "shared_memory": (
        "posix_ipc.SharedMemory('/' + unique_name, posix_ipc.O_CREX, size=1).close_fd()",
        r"in /dev/shm: NAME",
    ),
    "sysv_queue": ("sysv_ipc.MessageQueue(None, sysv_ipc.IPC_CREX)", r"SysV message queue: id \d+"),
    "sysv_segment": ("sysv_ipc.SharedMemory(None, sysv_ipc.IPC_CREX)", r"SysV segment: id \d+"),
    "sysv_semaphore": ("sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX)", r"SysV semaphore set: id"),
    "queue": (
        "posix_ipc.MessageQueue('/' + unique_name, posix_ipc.O_CREX).close()",
        r"POSIX message queue: /NAME",
    ),
    "descriptor": ("os.open('/etc/passwd', os.O_RDONLY)", r"descriptor: /etc/passwd"),
    "pipe": ("os.pipe()", r"descriptor: pipe \(2 more than before\)"),
    "thread": (
        "threading.Thread(target=signal.pause, daemon=True, name='idle').start()",
        r"thread: idle",
    ),
    "socket_file": (
        "socket.socket(socket.AF_UNIX).bind(str(tmp_path / 'left'))",
        r"socket file: .*/left",
    ),
}


def run_pytest(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    file = directory / "test_inner.py"
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-c", os.devnull, "--rootdir", str(directory), "--basetemp", str(directory / "t")]
    whole = {name: text for name, text in os.environ.items() if name != leak_check.VARIABLE}
    return subprocess.run(
        [*command, str(file)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env=whole,
    )  # fmt: skip


def test_a_clean_run_passes(tmp_path):
    done = run_pytest(tmp_path, CLEAN)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_leak_fails_the_run_and_is_named(tmp_path):
    lines = ["import os, signal, socket, subprocess, threading", "import posix_ipc, sysv_ipc"]
    lines += ["import pytest", "pytestmark = pytest.mark.filterwarnings('ignore')"]
    for name, (code, _) in LEAKS.items():
        lines += [f"def test_{name}(unique_name, tmp_path):", textwrap.indent(code, "    ")]
    done = run_pytest(tmp_path, "\n".join(lines))
    try:
        assert done.returncode == 1, done.stdout + done.stderr
        assert "The tests left behind" in done.stdout
        assert "1 error" in done.stdout.splitlines()[-1]
        missing = [
            name
            for name, (_, pattern) in LEAKS.items()
            if not re.search(pattern.replace("NAME", r"kf[0-9a-f]+-\d+"), done.stdout)
        ]
        assert not missing, f"not reported: {missing}\n{done.stdout}"
        assert re.search(
            r"descriptor: /etc/passwd; first seen after \S+::test_descriptor", done.stdout
        )
    finally:
        remove_what_was_left(done.stdout)


def remove_what_was_left(report: str) -> None:
    """The inner run leaked on purpose; this run must not."""
    removals: dict[str, Callable[[str], object]] = {
        r"orphaned process: (\d+)": lambda pid: os.kill(int(pid), signal.SIGKILL),
        r"child process: (\d+) sleep": lambda pid: os.kill(int(pid), signal.SIGKILL),
        r"in /dev/shm: (kf\S+?)(?:;|$)": lambda name: posix_ipc.unlink_shared_memory("/" + name),
        r"message queue: (/kf\S+?)(?:;|$)": posix_ipc.unlink_message_queue,
        r"socket file: (\S+?)(?:;|$)": os.unlink,
        r"SysV message queue: id (\d+)": lambda number: sysv_ipc.remove_message_queue(int(number)),
        r"SysV segment: id (\d+)": lambda number: sysv_ipc.remove_shared_memory(int(number)),
        r"SysV semaphore set: id (\d+)": lambda number: sysv_ipc.remove_semaphore(int(number)),
    }
    for pattern, remove in removals.items():
        for what in set(re.findall(pattern, report, re.MULTILINE)):  # pytest says some twice
            remove(what)


def test_a_socket_left_in_the_directory_of_socket_path_fails_the_test(tmp_path):
    done = run_pytest(tmp_path, "def test_it(socket_path): socket_path.write_text('')")
    assert done.returncode == 1
    assert "left in the directory of socket_path: s" in done.stdout


def test_as_plain_user_gives_results_and_exceptions(as_plain_user):
    assert as_plain_user.run(lambda: os.getuid() != 0)
    with pytest.raises(ZeroDivisionError):
        as_plain_user.run(lambda: 1 // 0)


def test_the_foreign_user_is_not_us(foreign_user, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("ours", encoding="utf-8")
    secret.chmod(0o600)
    with pytest.raises(PermissionError):
        foreign_user.run(secret.read_text)
    with foreign_user.popen(["id", "-u"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == foreign_user.uid
