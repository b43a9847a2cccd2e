"""Stop `ring`: a camera and two workers, its frames in shared memory; one of them is killed with a frame in its hands. The source's 共享内存.

The source: shared memory copies nothing, but who uses it has to keep his processes apart. Here that is done.

It shows
- frames that are built where they are read: NumPy arrays, which nobody copies;
- that the frame of a worker that was killed goes to the other one, marked as one that may have been worked on;
- that without acknowledging just this one is lost, and no other, and nobody hangs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import kinfolk as kin
from kinfolk.tour.narrator import Column, Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, unused_name

_SHAPE = (480, 640)
_FRAMES = 60
#: what the one that is killed has done before
_DONE = 3

_COLUMNS = (
    Column("how", "the workers", number=False),
    Column("sent", "frames", "{:,}".format),
    Column("first", "done by the killed one", "{:,}".format),
    Column("second", "by the other", "{:,}".format),
    Column("again", "came again", "{:,}".format),
    Column("lost", "lost", "{:,}".format),
)


class Seen(NamedTuple):
    """What a worker found in a frame."""

    number: int
    whole: bool
    in_place: bool
    redelivered: bool
    #: when it was received, as time.monotonic has it
    moment: float


class Shift(NamedTuple):
    """What the two workers did."""

    #: of the one that was killed: what it had done, and what it was working on
    first: list[Seen]
    held: int
    second: list[Seen]
    killed: float

    @property
    def again(self) -> list[Seen]:
        """What came a second time."""
        return [each for each in self.second if each.redelivered]

    @property
    def done(self) -> list[int]:
        """The frames that somebody has done, each as often as it was."""
        return sorted(each.number for each in (*self.first, *self.second))

    @property
    def lost(self) -> set[int]:
        """Those that nobody has."""
        return set(range(_FRAMES)) - set(self.done)


def visit(narrator: Narrator, walk: Walk) -> None:
    """Film twice: with workers who acknowledge, and with such as don't."""
    sure, quick = _film(acknowledge=True), _film(acknowledge=False)
    size = _SHAPE[0] * _SHAPE[1]
    narrator.says(
        f"A camera built {_FRAMES} frames of {size:,} bytes in the memory of a ring; two workers read them there. The first was killed (SIGKILL) "
        f"with frame {sure.held} in its hands."
    )
    narrator.table(
        "shifts",
        _COLUMNS,
        [_row("acknowledge what is done", sure), _row("just receive", quick)],
    )
    if sure.again:
        took = sure.again[0].moment - sure.killed
        narrator.says(
            f"The other worker had frame {sure.again[0].number} {took * 1000:.1f} ms after the SIGKILL, marked as redelivered."
        )
        narrator.figure("redelivered_after_seconds", took)
    everything = [*sure.first, *sure.second, *quick.first, *quick.second]
    narrator.check(
        "no frame is lost, and none is done twice",
        sure.done == list(range(_FRAMES)),
        f"{len(sure.done)} done, {len(sure.lost)} lost",
    )
    narrator.check(
        "what a killed worker had in its hands comes again, marked",
        [each.number for each in sure.again] == [sure.held],
        ", ".join(str(each.number) for each in sure.again) or "nothing",
    )
    narrator.check(
        "without acknowledging, just that one is lost",
        quick.lost == {quick.held} and not quick.again,
        f"{len(quick.lost)} lost",
    )
    narrator.check("no frame is torn", all(each.whole for each in everything))
    narrator.check("no frame was copied", all(each.in_place for each in everything))


def _row(how: str, shift: Shift) -> dict[str, Any]:
    return {
        "how": how,
        "sent": _FRAMES,
        "first": len(shift.first),
        "second": len(shift.second),
        "again": len(shift.again),
        "lost": len(shift.lost),
    }


def _film(*, acknowledge: bool) -> Shift:
    """The first worker takes some frames and stops in the middle of one; then the second begins, and the first is killed."""
    address = f"ring:{unused_name()}"
    with crew() as hands:
        first = hands.start("first worker", _work, address, acknowledge, _DONE)
        first.hear()
        second = hands.start("second worker", _work, address, acknowledge, None)
        second.hear()
        with kin.open_sender(address, timeout=PATIENCE) as camera:
            first.tell("go")
            for number in range(_FRAMES):
                with camera.reserve_array(_SHAPE, "u1", timeout=PATIENCE) as frame:
                    frame.fill(number)
            done, held = first.hear()
            second.tell("go")
            killed = first.kill()
        return Shift(done, held, second.result(), killed)


# ── in the children ──────────────────────────────────────────────────────────────────────────


def _work(line: Line, address: str, acknowledge: bool, most: int | None) -> list[Seen]:
    """Work until the camera has gone, or stop in the middle of the frame after so many."""
    seen: list[Seen] = []
    with kin.open_receiver(address, acknowledge=acknowledge, timeout=PATIENCE) as receiver:
        line.tell("ready")
        line.hear()
        with contextlib.suppress(kin.EndOfChannel):
            while True:
                with _next(receiver, acknowledge) as (frame, redelivered):
                    look = _look(frame, redelivered)
                    if len(seen) == most:
                        line.tell((seen, look.number))
                        line.hear()
                seen.append(look)
    return seen


@contextlib.contextmanager
def _next(receiver: kin.Receiver, acknowledge: bool) -> Iterator[tuple[Any, bool]]:
    """A frame, which is acknowledged at the end of the block."""
    if not acknowledge:
        yield receiver.recv(timeout=PATIENCE), False
        return
    with receiver.recv_message(timeout=PATIENCE) as message:
        yield message.object, message.redelivered


def _look(frame: Any, redelivered: bool) -> Seen:
    number = int(frame[0, 0])
    in_place = not frame.flags.owndata and not frame.flags.writeable
    return Seen(number, bool((frame == number).all()), in_place, redelivered, time.monotonic())


STOP = Stop(
    "ring",
    "A camera and two workers: frames in shared memory, and one worker is killed",
    "共享内存",
    visit,
)
