"""A function in an interpreter of its own, a child of this very process: for ``containment="direct"`` and ``detach=True``.

    start ── vfork, exec python, the options in force ──> imports kinfolk ── reads its errand ── runs the function
      └─ a socket pair: StartFunction, and a pipe for what it has to say ───────────┘ Begun

Nothing is forked from a process with threads, and there is no keeper; the price is the start of an interpreter. How
the function is run, and ends, is the same (function_child.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import NoReturn

import msgspec

from kinfolk.errors import from_os_error
from kinfolk.interest import Steps
from kinfolk.processes import function_child
from kinfolk.processes.direct import Direct
from kinfolk.processes.errand import Errand
from kinfolk.processes.handover import Handover
from kinfolk.processes.interpreter import command
from kinfolk.processes.keeper_messages import StartFunction, receive_request, send
from kinfolk.processes.launch import Launch


def start_function(launch: Launch, call: Errand, handover: Handover) -> Steps[Direct]:
    """Start an interpreter as the launch says, and have it run a function. Raises what `launch.start` does, InvalidValue."""
    request, descriptors = call.request(_NOTHING)
    with contextlib.ExitStack() as lent:
        try:
            line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            lent.enter_context(line)
            lent.enter_context(theirs)
            reader, report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            lent.callback(os.close, reader)
            told = lent.enter_context(contextlib.ExitStack())
            told.callback(os.close, report)
        except OSError as error:
            raise from_os_error(error, "a function's process can't be started") from error
        number = 1 + max(there for _, there in launch.descriptors)
        words = command(f"{__name__}:main", str(number))
        child = Direct(
            msgspec.structs.replace(
                launch,
                argv=words,
                executables=words[:1],
                descriptors=[*launch.descriptors, (theirs.fileno(), number)],
            ),
            handover=handover,
        )
        theirs.close()
        with contextlib.suppress(ConnectionError):  # it has ended, as its status says
            send(line, request(0), [*descriptors, report])
        told.close()
        yield from call.begun(reader, launch)
    return child


#: All options are in force when the interpreter starts.
_NOTHING = Launch(argv=[], executables=[])


def main(line: str) -> NoReturn:
    """Be the function's process. ``line`` is the number of its end of the socket pair."""
    with socket.socket(fileno=int(line)) as mine:
        received = receive_request(mine)
    if received is None:
        os._exit(1)  # whoever started this has gone
    request, descriptors = received
    assert isinstance(request, StartFunction)
    report = descriptors.pop()
    function_child.live(request, request.launch, descriptors, report, os.getppid(), {})
