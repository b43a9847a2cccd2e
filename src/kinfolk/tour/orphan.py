"""Stop `orphan`: who adopts a process whose parent has ended. The source's chapter 孤儿进程.

It shows
- that an orphan gets a new parent at once: init, or the nearest subreaper above it;
- a subreaper of our own (kin.run_as_init), which adopts, and ends what it has adopted;
- that a child of kin.spawn is left to nobody: when its owner is killed, it ends too.
"""

from __future__ import annotations

import os
import signal
import time

import kinfolk as kin
from kinfolk.tour.evidence import status_line, watched
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.own_init import own_init
from kinfolk.tour.processes import HANG_LIMIT, PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk

#: A shell below leaves a sleeper behind, and ends; then the command says the sleeper's number, and
#: waits for a word.
_LEAVES_AN_ORPHAN = f"pid=$(sh -c 'sleep {HANG_LIMIT} >&2 & echo $!'); echo $pid; read word"


def visit(narrator: Narrator, walk: Walk) -> None:
    """Walk through the three parts."""
    _adopted(narrator)
    _subreaper(narrator)
    _kept(narrator)


# ── an orphan ────────────────────────────────────────────────────────────────────────────────


def _adopted(narrator: Narrator) -> None:
    with crew() as hands:
        parent = hands.start("parent", _leave_a_child)
        pid = parent.hear()
        with watched(pid) as orphan:
            before = int(status_line(pid, "PPid"))
            parent.tell("end")
            parent.result()
            tree = kin.process_tree()
            after = tree.process(pid).parent
            adopter = tree.get(after)
            above = {each.pid for each in tree.ancestors(tree.process(os.getpid()))}
            runs_on = not orphan.ended(0)
    name = adopter.name if adopter else "outside of this pid namespace"
    narrator.says(
        f"Process {before} ended before its child {pid}, which so became an orphan: its parent "
        f"is {after} now ({name})."
    )
    narrator.check("before, its parent was the one that had forked it", before == parent.pid)
    narrator.check("the orphan runs on", runs_on)
    narrator.check(
        "it was adopted, by init or a subreaper above it",
        after in {0, 1, os.getpid(), *above},
        f"by {after} ({name})",
    )


def _leave_a_child(line: Line) -> None:
    with kin.fork(detach=True) as side:
        if side.child is None:
            line.alive()
            line.tell(os.getpid())
            while True:
                signal.pause()
        line.hear()


# ── a subreaper ──────────────────────────────────────────────────────────────────────────────


def _subreaper(narrator: Narrator) -> None:
    with crew() as hands, own_init(hands, _LEAVES_AN_ORPHAN) as init:
        pid, subreaper = int(init.said), init.child.pid
        with watched(pid) as orphan:
            parent = int(status_line(pid, "PPid"))
            reaped = init.end()
            ended = orphan.ended(0)
    narrator.says(
        f"Under kin.run_as_init, process {subreaper} is a subreaper (PR_SET_CHILD_SUBREAPER): it "
        f"adopted {pid}, which a shell below had left behind, and when its own command ended, it "
        f"ended and reaped {reaped} more."
    )
    narrator.check(
        "the subreaper adopted the orphan, and not init",
        parent == subreaper,
        f"{parent}, not {subreaper}",
    )
    narrator.check("with the command the orphan was ended, and reaped", ended and reaped >= 1)


# ── no orphan ────────────────────────────────────────────────────────────────────────────────


def _kept(narrator: Narrator) -> None:
    with crew() as hands:
        owner = hands.start("owner", _own)
        pid, containment = owner.hear()
        keeper_pid = int(status_line(pid, "PPid"))
        with watched(pid) as child, watched(keeper_pid) as keeper:
            killed = owner.kill()
            ended = child.ended(PATIENCE)
            seconds = time.monotonic() - killed
            left = keeper.ended(PATIENCE)
    narrator.says(
        f"Process {owner.pid} started sleep ({pid}) by kin.spawn, whose keeper, process "
        f"{keeper_pid}, is its parent. "
        f"{owner.pid} was killed (SIGKILL): {pid} had ended {seconds * 1000:.1f} ms later, and "
        "the keeper ended as well."
    )
    narrator.figure("ended_ms", seconds * 1000)
    narrator.check(
        "a child under the keeper did not outlive its owner",
        ended and containment == "keeper",
        f"containment {containment!r}",
    )
    narrator.check("nor did the keeper", left)


def _own(line: Line) -> None:
    process = kin.spawn(["sleep", str(HANG_LIMIT)])
    line.tell((process.pid, process.containment))
    line.hear()


STOP = Stop("orphan", "who adopts whom, and who is left to nobody", "孤儿进程和僵尸进程", visit)
