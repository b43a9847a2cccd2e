"""The life of a child that runs a function: a fork of the keeper, from its first instruction to its end.

    fork ── the keeper's things closed ── the launch in force ── unpickled ── the gate open ── the function ── the end
                                            │ Failed               └ Begun, if anything was moved here
                                            └ Begun, otherwise

Rules:
1. It is as a script of its own would be: SIGINT raises KeyboardInterrupt, SIGPIPE and SIGXFSZ are ignored, every other signal
   has its default action, but for those that the launch has ignored (`ignored_signals`); standard streams are those of the launch; what the function leaves unflushed is flushed.
2. It ends as a script does (script_end.py).
3. ``__main__`` has nothing but what the function needs of the owner's, and what came along in the pickle (function_unpickle.py).
4. What moves here moves in this order: unpickled, Begun, closed by the owner (the gate hangs up), the function. So there is no moment at
   which nobody has it, and none at which the function could meet the owner in it.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import signal
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from kinfolk import _native, transfer
from kinfolk.processes import function_unpickle, script_end
from kinfolk.processes.keeper_messages import STEPS, Kind, Record, StartFunction
from kinfolk.processes.launch import Launch

#: What Python does not leave at the default when it starts (pylifecycle.c).
_USUAL: dict[int, Any] = {
    signal.SIGPIPE: signal.SIG_IGN,
    signal.SIGXFSZ: signal.SIG_IGN,
    signal.SIGINT: signal.default_int_handler,
}

#: Made ahead of forks, for what runs first in a child copies what it touches.
_BEGUN = Record(Kind.BEGUN).pack()


def live(
    request: StartFunction,
    launch: Launch,
    descriptors: Sequence[int],
    report: int,
    parent: int,
    actions: Mapping[int, Any],
) -> NoReturn:
    """Be the child. ``launch`` has the numbers of this process; ``report`` is the write end of the status pipe.

    ``actions``, and what the launch has ignored, are set before any signal is let through.
    """
    for number, action in actions.items():
        signal.signal(number, action)
    for number in launch.ignored:
        signal.signal(number, signal.SIG_IGN)
    others = [report, *descriptors]
    step, code, item = _native.become(launch, parent, others)
    report, *descriptors = others
    if code:
        _tell(report, Record(Kind.FAILED, STEPS.index(step), code, item).pack())
        os._exit(127)
    if launch.env is not None:
        _set_environment(launch.env)
    error: BaseException | None = None
    try:
        _look_like_a_script(request)
        function, args, kwargs = _arrive(request, descriptors, report)
        function(*args, **kwargs)
    except BaseException as raised:
        error = raised
    script_end.end(script_end.outcome(error, own_frames=1))


def _arrive(request: StartFunction, descriptors: Sequence[int], report: int) -> Any:
    """The function and its arguments, once all of it is here and nowhere else."""
    moves = request.gate >= 0
    if not moves:
        _tell(report, _BEGUN)
    try:
        return _unpickle(request, descriptors)
    finally:
        if moves:
            _tell(report, _BEGUN)
        os.close(report)
        if moves:
            os.read(descriptors[request.gate], 1)
            os.close(descriptors[request.gate])


def altered_signals() -> dict[int, Any]:
    """The signals that have another action here than at the start of a script, and that one. For a keeper, ahead of forks."""
    altered: dict[int, Any] = {}
    for number in signal.valid_signals():
        usual = _USUAL.get(number, signal.SIG_DFL)
        if signal.getsignal(number) not in (usual, None):  # None: it is not Python's (faulthandler)
            altered[number] = usual
    return altered


def _look_like_a_script(request: StartFunction) -> None:
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb", buffering=0) as name:
        name.write(_short_name(request.name))
    sys.argv[:] = map(os.fsdecode, request.argv)
    sys.path[:] = map(os.fsdecode, request.path)
    sys.modules["__main__"] = types.ModuleType("__main__")
    # The numbers under these objects are the same, and nothing was read or written through them yet.
    if os.isatty(1):
        with contextlib.suppress(OSError, AttributeError):
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _short_name(name: str) -> bytes:
    """Of a function, as ps(1) shows it; the kernel takes 15 bytes."""
    return name.rpartition(".")[2].encode()[:15].decode(errors="ignore").encode()


def _unpickle(request: StartFunction, descriptors: Sequence[int]) -> Any:
    arriving = [descriptors[place] for place in request.arriving]
    with transfer.arriving(arriving):
        if request.payload_at < 0:
            return function_unpickle.load(io.BytesIO(request.payload))
        held = descriptors[request.payload_at]
        with mmap.mmap(held, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as payload:
            os.close(held)
            return function_unpickle.load(payload)


def _set_environment(env: list[bytes]) -> None:
    present: dict[bytes, bytes] = os.environb._data.copy()  # type: ignore[attr-defined]
    wanted = dict(line.split(b"=", 1) for line in env)
    for name in present.keys() - wanted.keys():
        del os.environb[name]
    for name, value in wanted.items():
        if present.get(name) != value:
            os.environb[name] = value


def _tell(report: int, record: bytes) -> None:
    with contextlib.suppress(OSError):  # the owner has gone, or lost interest
        os.write(report, record)
