"""A function and its arguments on their way to a new process.

    pickled ── the options' launch, the pickle, what travels beside it ──> whoever makes the process ──> the child
       │                                                                                            (function_child.py)
       └─ begun: Begun in the status pipe ── what moves is closed here ── the gate hangs up ──> the child goes on

Rules:
1. What the pickle refers to rides as descriptors (`kinfolk.transfer`), as does a large pickle itself, in a sealed memfd.
2. If anything moves, the child waits at the *gate*, a pipe, until it was closed here.
3. A child that dies before it has what moves takes it along: it is closed here all the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from kinfolk import memfd
from kinfolk.descriptors import Descriptor
from kinfolk.errors import CodecError, KinfolkError, from_os_error
from kinfolk.interest import Interest, Steps
from kinfolk.processes import function_pickle
from kinfolk.processes.interpreter import arguments, import_path
from kinfolk.processes.keeper_messages import (
    LARGEST_PACKET,
    RECORD_SIZE,
    STEPS,
    Kind,
    Record,
    StartFunction,
)
from kinfolk.processes.launch import Launch, raise_failed
from kinfolk.transfer import Departure, departing

#: Above this a pickle does not ride in the packet.
_LARGE = LARGEST_PACKET // 2


class Errand:
    """One function to be run elsewhere. Made by `errand`."""

    def __init__(self, name: str, pickle: bytes, departure: Departure) -> None:
        self.name = name
        self._departure = departure
        self._gate: tuple[Descriptor, Descriptor] | None = None
        self._memory: Descriptor | None = None
        self._pickle = pickle
        try:
            if len(pickle) > _LARGE:
                self._memory = memfd.sealed([pickle], name)
                self._pickle = b""
            if departure.moving:
                there, here = os.pipe2(os.O_CLOEXEC)
                self._gate = Descriptor(there, "a gate"), Descriptor(here, "a gate")
        except OSError as error:
            self.close()
            raise from_os_error(error, "a function can't travel", name) from error

    def request(self, launch: Launch) -> tuple[Callable[[int], StartFunction], list[int]]:
        """How it is asked for by a number, and the descriptors that ride along: first those of the launch.

        Raises InvalidValue for a sys.argv that no program can have.
        """
        argv, path = arguments(), import_path()
        descriptors = [here for here, _ in launch.descriptors]
        places = [(place, there) for place, (_, there) in enumerate(launch.descriptors)]
        travelling = msgspec.structs.replace(launch, descriptors=places)
        arriving = range(len(descriptors), len(descriptors) + len(self._departure.descriptors))
        descriptors += self._departure.descriptors
        payload_at = gate_at = -1
        if self._memory is not None:
            payload_at = len(descriptors)
            descriptors.append(self._memory.fileno())
        if self._gate is not None:
            gate_at = len(descriptors)
            descriptors.append(self._gate[0].fileno())

        def numbered(number: int) -> StartFunction:
            return StartFunction(
                number,
                travelling,
                self._pickle,
                payload_at,
                list(arriving),
                gate_at,
                argv,
                path,
                self.name.encode(errors="replace").decode(),
            )

        return numbered, descriptors

    def begun(self, pipe: int, launch: Launch) -> Steps[bool]:
        """Wait until the child has what it needs; False when it died before. Raises what `launch.raise_failed` does."""
        record: Record | None = None
        while record is None:
            try:
                data = os.read(pipe, RECORD_SIZE)
            except BlockingIOError:
                yield Interest(readable=(pipe,))
                continue
            if not data:
                break
            record = Record.unpack(data)
        if record is not None and record.kind == Kind.FAILED:
            raise_failed(launch, STEPS[record.first], record.second, record.third)
        self._departure.moved()
        self.close()
        return record is not None

    def close(self) -> None:
        """Give back everything; the gate opens."""
        for descriptor in (self._memory, *(self._gate or ())):
            if descriptor is not None:
                descriptor.close()


@contextlib.contextmanager
def errand(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[Errand]:
    """Pickle a function; it can be sent within the block. Raises CodecError, and LimitReached for want of descriptors."""
    name = str(getattr(function, "__qualname__", None) or type(function).__qualname__)
    with departing() as departure:
        try:
            pickle = function_pickle.dumps(function, args, kwargs)
        except KinfolkError:
            raise
        except Exception as error:
            raise CodecError(
                "a function can't go to a new process",
                subject=name,
                why=f"it or one of its arguments can't be pickled: {error}",
                remedy="give it what can be, and let it open the rest itself",
            ) from error
        call = Errand(name, pickle, departure)
        try:
            yield call
        finally:
            call.close()
