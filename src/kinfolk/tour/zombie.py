"""Stop `zombie`: a process that is dead and still has a number. The source's chapter 僵尸进程.

It shows
- a zombie: what /proc has left of it, that no signal has any effect on it, and why it is one (kin.diagnose_zombies);
- the three cures: its parent waits, its parent ignores SIGCHLD (before, not after), its parent ends.
"""

from __future__ import annotations

import os
import signal

import kinfolk as kin
from kinfolk.tour.evidence import status_line, watched
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.own_init import own_init
from kinfolk.tour.processes import PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, outcome


def visit(narrator: Narrator, walk: Walk) -> None:
    """Make zombies, and be rid of them."""
    _zombie(narrator)
    _ignored(narrator)
    _orphaned(narrator)


# ── the zombie, and the first cure ───────────────────────────────────────────────────────────


def _zombie(narrator: Narrator) -> None:
    with crew() as hands:
        parent = hands.start("parent", _wait_when_told)
        pid = parent.hear()
        with watched(pid) as zombie:
            dead = zombie.ended(PATIENCE)
            state, memory = status_line(pid, "State"), status_line(pid, "VmRSS")
            found = _diagnosis(pid)
            refused = outcome(lambda: kin.signals.send(pid, "KILL"))
            os.kill(pid, signal.SIGKILL)  # kill(2) says nothing of it
            still = status_line(pid, "State")
            parent.tell("wait")
            code = parent.result()
            gone = zombie.gone(0)
    narrator.says(
        f"Child {pid} exited with 5, and its parent {parent.pid} did not wait. /proc: State "
        f"{state}, "
        f"{'memory ' + memory if memory else 'no memory'}. SIGKILL changed nothing: {still}."
    )
    narrator.check("it was dead, and a zombie", dead and state.startswith("Z"), state)
    narrator.check("all it had was given back but its number", not memory, memory)
    narrator.check(
        "no signal has an effect on it; kinfolk's send says NotFound",
        still.startswith("Z") and refused == "NotFound",
        f"{still}, {refused}",
    )
    if found is not None:
        narrator.says(f"kin.diagnose_zombies: {found.why}. To type: {found.cures[0].command}")
    narrator.check(
        "the diagnosis names who has to wait",
        found is not None and found.reaper is not None and found.reaper.pid == parent.pid,
        "there is none" if found is None else found.why,
    )
    narrator.says(f"First cure: {parent.pid} waited, and got {code}.")
    narrator.check(
        "wait gave the status that the zombie had kept, and ended it",
        code == 5 and gone,
        f"status {code}, {'gone' if gone else 'still there'}",
    )


def _wait_when_told(line: Line) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    line.tell(pid)
    line.hear()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _diagnosis(pid: int) -> kin.ZombieDiagnosis | None:
    found = kin.diagnose_zombies(kin.process_tree())
    return next((each for each in found if each.zombie.pid == pid), None)


# ── the second cure ──────────────────────────────────────────────────────────────────────────


def _ignored(narrator: Narrator) -> None:
    with crew() as hands:
        parent = hands.start("parent", _ignore_children)
        pid = parent.hear()
        found = _diagnosis(pid)
        parent.tell("go on")
        told, unseen = parent.result()
    cause = found.cause.value if found else "no zombie"
    narrator.says(
        f"Second cure: process {parent.pid} ignored SIGCHLD. What had ended before stayed a "
        f"zombie ({cause}); the next child "
        f"left none, nor a status: waitpid said {told}."
    )
    narrator.check("with SIGCHLD ignored a child leaves no zombie", unseen, "it was there")
    narrator.check("and no status: ECHILD", told == "ECHILD", told)
    narrator.check("but it comes too late for one that is there", cause == "ignored", cause)


def _ignore_children(line: Line) -> tuple[str, bool]:
    early = os.fork()
    if early == 0:
        os._exit(0)
    os.waitid(os.P_PID, early, os.WEXITED | os.WNOWAIT)
    with kin.signals.ignore("CHLD"):
        line.tell(early)
        line.hear()
        os.waitpid(early, 0)
        late = os.fork()
        if late == 0:
            os._exit(0)
        try:
            os.waitpid(late, 0)  # waits for its end all the same
            told = "a status"
        except ChildProcessError:
            told = "ECHILD"
        return told, not os.path.exists(f"/proc/{late}")


# ── the third cure ───────────────────────────────────────────────────────────────────────────


def _orphaned(narrator: Narrator) -> None:
    # Not the machine's init: that one may take its time, or, in a container, never wait.
    with crew() as hands, own_init(hands, "echo ready; read word", _parent_of_a_zombie) as init:
        parent, pid = init.child.hear()
        with watched(parent), watched(pid) as zombie:
            dead = zombie.ended(PATIENCE)
            stays = not zombie.gone(0)
            os.kill(parent, signal.SIGKILL)
            gone = zombie.gone(PATIENCE)
        reaped = init.end()
    narrator.says(
        f"Third cure, the source's: parent {parent} was killed. Its zombie {pid} became an orphan; "
        f"{init.child.pid} adopted it (kin.run_as_init, which does what init does) and waited: "
        f"{'it is gone' if gone else 'it is still there'}."
    )
    narrator.check("until then it stayed", dead and stays)
    narrator.check(
        "when its parent ended, who adopted it reaped it",
        gone and reaped >= 1,
        f"{reaped} reaped",
    )


def _parent_of_a_zombie(line: Line) -> None:
    """In the process that becomes the init: fork the parent, which forks and never waits."""
    if os.fork() == 0:
        line.alive()
        pid = os.fork()
        if pid == 0:
            os._exit(5)
        line.tell((os.getpid(), pid))
        while True:
            signal.pause()


STOP = Stop(
    "zombie", "dead, and still in the table; and three cures", "孤儿进程和僵尸进程以及wait", visit
)
