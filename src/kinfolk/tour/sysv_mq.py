"""Stop `sysv-mq`: System V message queues, whose messages have types. The source's 总结 (报文队列).

It shows
- one queue for several readers, each of which takes its own type (msgrcv(2));
- a negative type, which is a priority: the lowest type up to its number comes first;
- that the queue outlives every process until it is removed.
"""

from __future__ import annotations

import os

import kinfolk as kin
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome, unused_key

_JOBS = [(kind, f"job {number} of type {kind}") for number in range(4) for kind in (2, 3)]
_ERRANDS = [(7, "seven"), (5, "five"), (6, "six")]


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the parts."""
    address = f"sysv-mq:{unused_key()}"
    with kin.open_receiver(address, timeout=PATIENCE) as owner:
        try:
            _types(narrator, address, owner)
            _negative(narrator, address, owner)
        finally:
            owner.unlink()
    left = outcome(lambda: kin.open_sender(address, timeout=0).close())
    narrator.check("after unlink() nobody finds the key any more", left == "Timeout", left)


def _types(narrator: Narrator, address: str, owner: kin.Receiver) -> None:
    with crew() as hands:
        workers = {
            kind: hands.start(f"worker for {kind}", _work, address, kind, closes=[owner])
            for kind in (2, 3)
        }
        for worker in workers.values():
            worker.hear()
        sender = hands.start("sender", _send, address, _JOBS, closes=[owner])
        sender.result()
        done = {kind: worker.result() for kind, worker in workers.items()}
    narrator.says(
        f"Process {sender.pid} put {len(_JOBS)} jobs into one queue ({address}), of type 2 and 3 in "
        f"turn. Worker {workers[2].pid} asked for type 2 and took {len(done[2])}, worker "
        f"{workers[3].pid} for type 3 and took {len(done[3])}."
    )
    for kind, got in done.items():
        wanted = [text for its, text in _JOBS if its == kind]
        narrator.check(
            f"the worker for type {kind} got all of its own, in order, and nothing else",
            got == wanted,
            repr(got),
        )


def _negative(narrator: Narrator, address: str, owner: kin.Receiver) -> None:
    with crew() as hands:
        hands.start("sender", _send, address, _ERRANDS, closes=[owner]).result()
    with kin.open_receiver(address, type=-6, timeout=PATIENCE) as up_to_six:
        first = [up_to_six.recv(timeout=PATIENCE) for _ in range(2)]
        then = outcome(lambda: up_to_six.recv(timeout=0))
    rest = owner.recv(timeout=PATIENCE)
    narrator.says(
        f"Its sender had ended when process {os.getpid()} asked for type -6: it got {first[0]!r}, then "
        f"{first[1]!r}, though {_ERRANDS[0][1]!r} was sent first; that one waited for who asks for any."
    )
    narrator.check(
        "a negative type gives the lowest type first", first == ["five", "six"], repr(first)
    )
    narrator.check("and nothing above its number", then == "Timeout", then or "it got one")
    narrator.check("the other one stayed for another reader", rest == "seven", repr(rest))


def _work(line: Line, address: str, kind: int) -> list[object]:
    with kin.open_receiver(address, type=kind, timeout=PATIENCE) as receiver:
        line.tell("ready")
        return [receiver.recv(timeout=PATIENCE) for _ in range(len(_JOBS) // 2)]


def _send(line: Line, address: str, messages: list[tuple[int, str]]) -> None:
    with kin.open_sender(address, timeout=PATIENCE) as sender:
        for kind, text in messages:
            sender.send(text, priority=kind, timeout=PATIENCE)


STOP = Stop("sysv-mq", "System V queues: every reader takes its type", "总结 (报文队列)", visit)
