"""Stop `orphan`: who adopts a process whose parent has ended. The source's chapter 孤儿进程.

It shows
- that an orphan gets a new parent at once: init, or the nearest subreaper above it;
- a subreaper of our own (kin.run_as_init), which adopts, and ends what it has adopted;
- that a child of kin.spawn is left to nobody: when its owner is killed, it ends too.
"""

from __future__ import annotations

import os
import select
import signal
import time

import kinfolk as kin
from kinfolk.tour.evidence import status_line, watched
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import HANG_LIMIT, PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk

#: A shell below leaves a sleeper behind, and ends; then the command says the sleeper's number, and waits for a word.
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
        f"Process {before} ended before its child {pid}, which so became an orphan: its parent is {after} now ({name})."
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
    said, say = os.pipe()
    word, give_word = os.pipe()
    with open(said) as answers, open(give_word, "w") as words, crew() as hands:
        subreaper = hands.start("subreaper", _adopt, word, say, closes=[answers, words])
        os.close(say)
        os.close(word)
        pid = int(_line_of(answers.fileno()) or 0)
        with watched(pid) as orphan:
            parent = int(status_line(pid, "PPid"))
            words.write("end\n")
            words.flush()
            reaped = subreaper.result()
            ended = orphan.ended(0)
    narrator.says(
        f"Under kin.run_as_init, process {subreaper.pid} is a subreaper (PR_SET_CHILD_SUBREAPER): it adopted {pid}, which "
        f"a shell below had left behind, and when its own command ended, it ended and reaped {reaped} more."
    )
    narrator.check(
        "the subreaper adopted the orphan, and not init",
        parent == subreaper.pid,
        f"{parent}, not {subreaper.pid}",
    )
    narrator.check("with the command the orphan was ended, and reaped", ended and reaped >= 1)


def _adopt(line: Line, word: int, say: int) -> int:
    os.dup2(word, 0)
    os.dup2(say, 1)
    os.close(word)
    os.close(say)
    return kin.run_as_init(["/bin/sh", "-c", _LEAVES_AN_ORPHAN]).reaped


def _line_of(descriptor: int) -> str:
    """What is written into a pipe, in one piece, if it comes in time."""
    ready = select.select([descriptor], [], [], PATIENCE)[0]
    return os.read(descriptor, 100).decode() if ready else ""


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
        f"Process {owner.pid} started sleep ({pid}) by kin.spawn, whose keeper, process {keeper_pid}, is its parent. "
        f"{owner.pid} was killed (SIGKILL): {pid} had ended {seconds * 1000:.1f} ms later, and the keeper ended as well."
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
