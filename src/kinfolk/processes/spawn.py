"""`spawn`: a program or a Python function in a process of its own.

    spawn(["ls", "-l"], cwd="/")            options ── Launch ──> the keeper, or this process (containment="direct")
    spawn(function, 1, 2, kwargs={…})       the same, and the function and its arguments by cloudpickle

Rules:
1. The first argument decides: what can be called is a function, and its arguments follow; what is a sequence is a program
   and its arguments. Everything else is an option, by name, and means the same for both.
2. A function goes by what it is where its module can't be imported anew: ``__main__`` is never run again, not in scripts, not in
   ``python -m``, not at the prompt. What it uses of ``__main__`` is in the child's ``__main__`` (function_unpickle.py).
3. An end of a channel among the arguments moves: once the child has it, it is closed here. A ``clone()`` keeps the channel open here too.
4. What a function returns goes nowhere; an exception ends its process with 1 and a traceback on standard error.
5. Containment is what was asked for, or an error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Unpack

from kinfolk.errors import InvalidValue
from kinfolk.interest import Steps
from kinfolk.processes import alone
from kinfolk.processes.custody import Containment, Custody, awaiting, blocking
from kinfolk.processes.direct import Direct
from kinfolk.processes.errand import Errand, errand
from kinfolk.processes.handover import Handover
from kinfolk.processes.keeping import keeping
from kinfolk.processes.launch import Launch
from kinfolk.processes.options import Options, prepared
from kinfolk.processes.process import Process
from kinfolk.processes.program import Word
from kinfolk.processes.streams import Streams

Program = Sequence[Word]
Function = Callable[..., object]


def spawn(
    what: Program | Function,
    /,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    containment: Containment = "keeper",
    detach: bool = False,
    **options: Unpack[Options],
) -> Process:
    """Start a program, or a function with ``args`` and ``kwargs``, in a new process.

    ``containment`` says what ends it, and everything below it, when this process ends, however that happens:

    - ``"keeper"``: a small process that this one starts once. It is the parent of the child, and gets every orphan below
      it, so that also daemons below end. What escapes is said at the head of `kinfolk.processes.keeper`.
    - ``"kernel"``: the same in a pid namespace of its own, with a /proc of its own: what is in it can't leave it, and the kernel kills
      all of it with its first process. It needs CAP_SYS_ADMIN or user namespaces. A process there has another pid for itself than here.
    - ``"direct"``: this process is the parent. The kernel kills the child; what that had started escapes. A function runs in an
      interpreter of its own.

    With ``detach`` nothing ends it, and `Process.containment` is ``"none"``. The keeper has no part in it: this process is the parent
    (a function runs in an interpreter of its own), and ``containment`` plays no role. It leads a session of its own, without a
    terminal, unless ``process_group`` is given. Its standard streams are what is asked for, else those of this process: give DEVNULL or
    a file, for a pipe to this process breaks when it ends. `wait`, `signal` and `stop` work as for any other as long as this process
    lives, and so does the end of a ``with`` block, which stops it; afterwards init is its parent, and its status is nobody's. A keeper
    above this process still holds it, should there be one.

    The options are those of `kinfolk.processes.options.Options`: env, cwd, stdin, stdout, stderr, text, encoding, pass_fds, umask, user,
    group, extra_groups, nice, rlimits, new_session, process_group, cgroup.

    A function is pickled by cloudpickle. It may be a lambda or a closure. In the child it runs as a script does: what it returns is
    dropped, SystemExit gives the exit code, another exception a traceback and 1. Ends of channels among its
    arguments move there, sockets are duplicated, files are refused (`kinfolk.processes.function_pickle`). The first function imports cloudpickle, here and in the keeper; the first child starts the keeper.

    Thread-safe; blocks until the child runs (`aspawn` does not). A forked child has a keeper of its own.
    Raises NotFound, AccessDenied, LimitReached, … when it can't be started, KeeperDied when the keeper was killed meanwhile,
    CodecError for a function that can't be pickled, InvalidValue, Unsupported; UsageError in a signal handler that has interrupted
    another start of this thread, which holds the line to the keeper: start it with ``containment="direct"``, or later.
    """
    handover = Handover()
    try:
        with _prepared(handover, what, args, kwargs, containment, detach, options) as steps:
            if containment == "direct" or detach:
                process = blocking(steps, None, "spawn")
            else:
                process = keeping(containment).run(steps)
        return handover.taken(process)
    except BaseException:
        handover.give_up()
        raise


async def aspawn(
    what: Program | Function,
    /,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    containment: Containment = "keeper",
    detach: bool = False,
    **options: Unpack[Options],
) -> Process:
    """`spawn`, on asyncio. A start that is cancelled leaves no child."""
    handover = Handover()
    try:
        with _prepared(handover, what, args, kwargs, containment, detach, options) as steps:
            if containment == "direct" or detach:
                process = await awaiting(steps, None, "spawn")
            else:
                process = await keeping(containment).arun(steps)
        return handover.taken(process)
    except BaseException:
        handover.give_up()
        raise


def preload(*modules: str) -> None:
    """Import modules in the keeper, once for all functions to come (of ``containment="keeper"``): they find them imported.

    What a module makes while it is imported is the same in each of them, such as the seed of NumPy's global random generator.
    Thread-safe. Raises InvalidValue when one can't be imported or is no name, KeeperDied.
    """
    keeping().run(keeping().preload(modules))


def _prepared(
    handover: Handover,
    what: Program | Function,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    containment: Containment,
    detach: bool,
    options: Options,
) -> contextlib.AbstractContextManager[Steps[Process]]:
    """The steps of a start, to be run within the block: at its end what was made for the child is closed here."""
    _check(containment, kwargs)
    if detach and "process_group" not in options:
        options = {"new_session": True, **options}
    if callable(what):
        return _function(handover, what, args, dict(kwargs or {}), containment, detach, options)
    if args or kwargs:
        raise InvalidValue(
            "a program's arguments stand in one sequence with its name",
            remedy='spawn(["ls", "-l"]), or kin.system("ls -l") for the shell',
        )
    launch, streams = prepared(what, options, containment, detach=detach)
    name = what[0] if isinstance(what[0], str) else os.fsdecode(launch.argv[0])
    return _Prepared(_start_program(launch, handover, containment, detach), name, streams)


@contextlib.contextmanager
def _function(
    handover: Handover,
    function: Function,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    containment: Containment,
    detach: bool,
    options: Options,
) -> Iterator[Steps[Process]]:
    with errand(function, args, kwargs) as call:
        launch, streams = prepared([call.name], options, containment, detach=detach)
        start = _start_function(launch, call, handover, containment, detach)
        with _Prepared(start, call.name, streams) as steps:
            yield steps


class _Prepared:
    """See `_prepared`. A class, for a generator takes twice as long."""

    __slots__ = ("_steps", "_streams")

    def __init__(self, start: Steps[Custody], name: str, streams: Streams) -> None:
        self._steps, self._streams = _as_process(start, name, streams), streams

    def __enter__(self) -> Steps[Process]:
        return self._steps

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._streams.started()
        else:
            self._streams.failed()


def _check(containment: Containment, kwargs: Mapping[str, Any] | None) -> None:
    if containment not in ("keeper", "direct", "kernel"):
        raise InvalidValue(
            f"containment={containment!r} makes no sense",
            remedy='give "keeper", "direct" or "kernel", and detach=True for none',
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InvalidValue(f"kwargs={kwargs!r} is no mapping", remedy='give {"name": value}')


def _as_process(start: Steps[Custody], name: str, streams: Streams) -> Steps[Process]:
    try:
        return Process((yield from start), name, streams)
    finally:
        start.close()  # who keeps this frame must not keep what it was waiting for


def _start_program(
    launch: Launch, handover: Handover, containment: Containment, detach: bool
) -> Steps[Custody]:
    if containment == "direct" or detach:
        return Direct(launch, handover=handover)
    return (yield from keeping(containment).start_program(launch, handover))


def _start_function(
    launch: Launch, call: Errand, handover: Handover, containment: Containment, detach: bool
) -> Steps[Custody]:
    if containment == "direct" or detach:
        return (yield from alone.start_function(launch, call, handover))
    return (yield from keeping(containment).start_function(launch, call, handover))
