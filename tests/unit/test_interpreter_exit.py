"""What is open when the interpreter ends: names go, nothing hangs, nothing is said, and warnings are as ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import posix_ipc
import pytest
import sysv_ipc

from kinfolk.channels.presence import presence_path
from tests.conformance.peers import HANG

#: Whoever waits for anything at exit that does not come, hangs.
PRELUDE = f"""
import asyncio, atexit, os, sys, threading, time
import kinfolk as kin
from kinfolk import interpreter_exit
interpreter_exit.PATIENCE = {HANG * 10}

def until_blocked(end, calls=1):
    while end.statistics().waits < calls:
        pass
"""

#: Put before a script: as if there were no hook.
WITHOUT = (
    "from kinfolk import exit_hooks, turnstile\n"
    "exit_hooks._hooks[:] = [hook for hook in exit_hooks._hooks if not hasattr(hook, 'func')]\n"
)


def end_of(script: str, *options: str, first: str = "") -> str:
    """What a script printed; it has to end well. ``first`` is what it does before it imports kinfolk."""
    ended = subprocess.run(
        [sys.executable, *options, "-c", first + PRELUDE + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def opened(address: str) -> str:
    return f'r = kin.open_receiver("{address}")\n'


DAEMON_BLOCKED = """
threading.Thread(target=r.recv, daemon=True).start()
until_blocked(r)
"""

#: held by a thread that is somewhere else
DAEMON_ELSEWHERE = """
def hold(r):
    held.set()
    while True:
        time.sleep(3600)
held = threading.Event()
threading.Thread(target=hold, args=(r,), daemon=True).start()
held.wait()
del r
"""


@pytest.mark.parametrize("body", [DAEMON_BLOCKED, DAEMON_ELSEWHERE], ids=["blocked", "elsewhere"])
@pytest.mark.parametrize("scheme", ["fifo", "unix", "unix-dgram", "unix-seqpacket"])
def test_a_path_goes_although_a_daemon_thread_holds_the_end(
    scheme: str, body: str, socket_path: Path
) -> None:
    assert end_of(opened(f"{scheme}:{socket_path}") + body) == ""
    assert not os.path.lexists(socket_path)  # nor is anything beside it: see the fixture


def test_without_the_hook_the_path_stays(short_directory: Path) -> None:
    """The negative control."""
    end_of(WITHOUT + opened(f"fifo:{short_directory}/s") + DAEMON_BLOCKED)
    assert os.path.lexists(short_directory / "s")


@pytest.mark.parametrize("import_first", [True, False])
def test_a_hook_of_who_imported_kinfolk_still_has_everything(import_first: bool) -> None:
    """Also one that was registered before the first end was opened. The control is one that is older than the import."""
    hook = "import atexit; atexit.register(lambda: print('sent', sender.send(b'x'), p.poll()))\n"
    script = (
        "import os\nreceiver, sender = kin.channel('pipe:')\np = kin.spawn(['sleep', '1000'])\n"
    )
    if import_first:
        assert end_of(hook + script) == "sent None None\n"
    else:
        assert "Closed" in end_of(script, "-W", "ignore", first=hook)


def test_a_listener_goes(socket_path: Path) -> None:
    script = f'r = kin.listen("unix:{socket_path}")\n'
    script += "threading.Thread(target=r.accept, daemon=True).start()\n"
    script += "while not r._turn.waits: pass\n"
    assert end_of(script) == ""
    assert not os.path.lexists(socket_path)


def test_a_posix_queue_and_its_presence_go(unique_name: str) -> None:
    assert end_of(opened(f"mq:/{unique_name}?lifetime=peers") + DAEMON_BLOCKED) == ""
    with pytest.raises(posix_ipc.ExistentialError):
        posix_ipc.MessageQueue(f"/{unique_name}")
    assert not os.path.lexists(presence_path("mq", f"/{unique_name}"))


def test_a_system_v_queue_goes(key: int) -> None:
    assert end_of(opened(f"sysv-mq:{key}?lifetime=peers") + DAEMON_BLOCKED) == ""
    with pytest.raises(sysv_ipc.ExistentialError):
        sysv_ipc.MessageQueue(key)


def test_nobody_hears_of_the_end_of_another_end() -> None:
    """Both ends of each channel, and a thread in one of them: an EndOfChannel in a thread would be printed."""
    script = """
ends = [kin.channel(address) for address in ("pipe:", "unix:", "unix-dgram:", "mq:", "sysv-mq:") * 3]
for r, s in ends:
    threading.Thread(target=r.recv, daemon=True).start()
for r, s in ends:
    until_blocked(r)
"""
    assert end_of(script, "-W", "ignore::ResourceWarning") == ""


def test_nothing_after_the_call_runs(socket_path: Path) -> None:
    script = """
def read():
    try:
        r.recv()
    finally:
        print("went on")
threading.Thread(target=read, daemon=True).start()
until_blocked(r)
"""
    assert end_of(opened(f"fifo:{socket_path}") + script) == ""


def test_a_thread_that_does_not_leave_hangs_nobody(socket_path: Path) -> None:
    script = f"""
interpreter_exit.PATIENCE = 0.1
r = kin.open_receiver("fifo:{socket_path}")
s = kin.open_sender("fifo:{socket_path}")
begun = threading.Event()
def objects():
    begun.set()
    while True:
        time.sleep(3600)
    yield
threading.Thread(target=s.send_many, args=(objects(),), daemon=True).start()
begun.wait()
"""
    assert end_of(script, "-W", "ignore::ResourceWarning") == ""
    assert not os.path.lexists(socket_path)


@pytest.mark.parametrize("scheme", ["fifo", "unix"])
def test_a_loop_in_a_daemon_thread(scheme: str, socket_path: Path) -> None:
    script = """
async def main():
    tasks = [asyncio.ensure_future(r.arecv()) for _ in range(3)]
    await asyncio.gather(*tasks)
threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
until_blocked(r)
"""
    assert end_of(opened(f"{scheme}:{socket_path}") + script) == ""
    assert not os.path.lexists(socket_path)


def test_a_task_of_a_loop_that_does_not_run_is_not_waited_for(socket_path: Path) -> None:
    script = """
loop = asyncio.new_event_loop()
task = loop.create_task(r.arecv())
loop.run_until_complete(asyncio.sleep(0))
print(r.statistics().waits)
"""
    said = end_of(opened(f"fifo:{socket_path}") + script, "-W", "ignore::ResourceWarning")
    assert said.startswith("1\n")  # asyncio complains of the task
    assert not os.path.lexists(socket_path)


@pytest.mark.parametrize("hook", ["", WITHOUT], ids=["with", "without"])
def test_the_warning_is_the_same_with_and_without_it(hook: str) -> None:
    script = 'r, s = kin.channel("pipe:")\ns.close()\n'
    said = end_of(hook + script, "-W", "default::ResourceWarning")
    assert said.count("ResourceWarning") == 1
    assert "unclosed <kinfolk.Receiver pipe:>" in said


def test_hooks_of_the_user_may_still_send(socket_path: Path) -> None:
    script = f"""
r = kin.open_receiver("fifo:{socket_path}")
atexit.register(lambda: print(r.recv()))
atexit.register(lambda: kin.open_sender("fifo:{socket_path}").send("from a hook"))
"""
    assert end_of(script, "-W", "ignore::ResourceWarning") == "from a hook\n"


#: They run after ours.
OLDER_HOOKS = {
    "close and join": "r.close(); thread.join(); print(ended)",
    "join after a timeout": "stop.set(); thread.join(); print(ended)",
    "send": """
try: s.send("x")
except kin.Closed as error: print([type(error).__name__])
""",
}


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("close and join", "['Closed']"),
        ("join after a timeout", "['Timeout']"),
        ("send", "['Closed']"),
    ],
)
def test_older_hooks_find_silent_ends_and_threads_that_can_be_joined(
    hook: str, said: str, socket_path: Path
) -> None:
    first = f"import atexit\natexit.register(lambda: exec({OLDER_HOOKS[hook]!r}, globals()))\n"
    timeout = 0.05 if "timeout" in hook else None
    script = f"""
ended, stop = [], threading.Event()
def read():
    try:
        while not stop.is_set() or not ended:
            try:
                r.recv(timeout={timeout})
            except kin.Timeout as error:
                ended[:] = [type(error).__name__]
    except kin.Closed as error:
        ended.append(type(error).__name__)
r = kin.open_receiver("fifo:{socket_path}")
s = kin.open_sender("fifo:{socket_path}")
thread = threading.Thread(target=read, daemon=True)
thread.start()
until_blocked(r)
"""
    assert end_of(script, "-W", "ignore::ResourceWarning", first=first) == f"{said}\n"
    assert not os.path.lexists(socket_path)


def test_children_that_multiprocessing_joins_may_still_send(socket_path: Path) -> None:
    """Its hook is the older one here, and would run after ours."""
    script = f"""
class Child(multiprocessing.get_context("fork").Process):
    def run(self):
        os.close(writing)
        os.close(telling)
        os.read(reading, 1)  # until the parent is at its end
        with kin.open_sender("fifo:{socket_path}", timeout={HANG}) as s:
            s.send("from a child")
        os.read(told, 1)  # until it was received: who joins this one waits for no thread

def receive():
    os.write(1, r.recv().encode())
    os.write(telling, b"1")

reading, writing = os.pipe()
told, telling = os.pipe()
Child().start()
r = kin.open_receiver("fifo:{socket_path}")
threading.Thread(target=receive, daemon=True).start()
until_blocked(r)
atexit.register(os.close, writing)
"""
    assert end_of(script, first="import multiprocessing.util\n") == "from a child"
    assert not os.path.lexists(socket_path)


def test_a_forked_child_leaves_the_end_of_its_parent_alone(socket_path: Path) -> None:
    script = (
        opened(f"fifo:{socket_path}")
        + DAEMON_BLOCKED
        + """
for end in (lambda: os._exit(0), sys.exit):
    child = os.fork()
    if not child:
        end()
    assert os.waitpid(child, 0)[1] == 0
    assert os.path.lexists(r.address.removeprefix("fifo:"))
"""
    )
    end_of(script, "-W", "ignore")
