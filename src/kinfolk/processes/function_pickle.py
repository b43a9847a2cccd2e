"""How a function and its arguments are pickled for a new process: cloudpickle, and what it would get wrong.

    a function, a class, data        by value, or by the name of its module: cloudpickle
    an end of a channel              moves: its __reduce__ carries the descriptor (kinfolk.transfer)
    a socket                         a duplicate of its descriptor: both processes have it
    sys.stdout, sys.stderr           the child's own
    any other file                   refused: half of it is a buffer and a position, which are this process's
    a Process, a multiprocessing     refused: what they hold means something in this process alone
      Connection

Rules:
1. What is refused says how it is done instead. Nothing turns into something else in silence, as a text file does in cloudpickle (a copy of
   its whole content), or a Connection (the bare number of a descriptor, which is another file there).
2. A socket keeps its timeout, and stays open here: it is no end of a channel, whose other side would wait for both.
"""

from __future__ import annotations

import functools
import io
import pickle
import socket
import sys
from collections import ChainMap
from collections.abc import Callable, MutableMapping
from typing import Any, NoReturn

from kinfolk.errors import CodecError, from_os_error
from kinfolk.processes.process import Process
from kinfolk.transfer import Rider, current_departure

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


def dumps(function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The pickle; what travels beside it joins the current departure. Raises CodecError, and whatever pickling raises."""
    file = io.BytesIO()
    _pickler()(file, protocol=pickle.HIGHEST_PROTOCOL).dump((function, args, kwargs))
    return file.getvalue()


def _pickler() -> Any:
    return _pickler_that_knows("multiprocessing.connection" in sys.modules)


@functools.cache
def _pickler_that_knows(connections: bool) -> Any:
    """Cloudpickle is imported with the first function; multiprocessing never, unless the user does."""
    import cloudpickle

    usual: MutableMapping[type, Any] = cloudpickle.Pickler.dispatch_table
    ours: dict[type, Callable[[Any], Any]] = {
        socket.socket: _socket,
        Process: _refuse_process,
        io.TextIOWrapper: functools.partial(_text_file, usual[io.TextIOWrapper]),
    }
    ours |= dict.fromkeys(
        (io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom), _refuse_file
    )
    if connections:
        ours[sys.modules["multiprocessing.connection"].Connection] = _refuse_connection
    return type("Pickler", (cloudpickle.Pickler,), {"dispatch_table": ChainMap(ours, usual)})


def _socket(sock: socket.socket) -> Reduced:
    departure = current_departure()
    if departure is None or sock.fileno() < 0:
        raise pickle.PicklingError("the socket is closed")
    try:
        return _arrived_socket, (departure.carry(sock.fileno()), sock.gettimeout())
    except OSError as error:
        raise from_os_error(error, "a socket can't go to a new process", repr(sock)) from error


def _arrived_socket(rider: Rider, timeout: float | None) -> socket.socket:
    sock = socket.socket(fileno=rider.detach())
    sock.settimeout(timeout)
    return sock


def _text_file(usual: Callable[[Any], Any], file: io.TextIOWrapper) -> Any:
    return usual(file) if file in (sys.stdout, sys.stderr) else _refuse_file(file)


def _refuse_file(file: io.IOBase) -> NoReturn:
    raise CodecError(
        "a file can't go to a new process as an argument",
        subject=repr(file),
        why="what it has read ahead, or not yet written, is in this process",
        remedy="give its path; or its number, fileno(), and pass_fds=[file], and open(number) there",
    )


def _refuse_process(process: Process) -> NoReturn:
    raise CodecError(
        "a Process can't go to a new process as an argument",
        subject=str(process),
        why="only the one that started it can wait for it",
        remedy="give its identity, which kin.signals.send takes",
    )


def _refuse_connection(connection: object) -> NoReturn:
    raise CodecError(
        "a Connection of multiprocessing can't go to a new process as an argument",
        subject=repr(connection),
        why="only the number of its descriptor would, which is another file there",
        remedy="give an end of kin.channel or kin.pair",
    )
