"""Zombies: who has to call wait, why it has not, and what to type so that it happens.

A zombie is dead. What is left of it is its exit status, for the one who has to collect it: its tracer first, then its parent.
So a cure always is about that one, the *reaper*; no signal has any effect on the zombie itself.

Causes, in the order in which they are looked for; the first that holds is the one:

    unseen            the reaper is outside of this pid namespace, or hidden from this user
    held by tracer    a tracer has to wait before the parent sees anything (ptrace(2))
    frozen, traced, stopped, uninterruptible     the parent can't run
    clone child       wait(2) sees it only with __WALL: it was not made by fork (clone(2))
    waits elsewhere   the parent sleeps in wait(2), for another child
    ignored           SIGCHLD is ignored; that reaps what ends later, and this one ended before
    blocked           SIGCHLD is pending, and every thread blocks it
    handler           it has a handler, which did not collect this one
    never waits       SIGCHLD has its default action, or was taken, and nobody waits

Rules:
1. What the kernel does not tell is said to be unknown.
2. Cures stand in order of harm. Each is a command, and says what it does. The harmless ones nudge or wake the reaper; the next ends it; a
   debugger that calls waitpid inside it comes last.
3. A zombie that is collected meanwhile is not diagnosed: each process is one for a moment.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import StrEnum

from kinfolk.inspection import cures
from kinfolk.inspection.cures import Cure
from kinfolk.inspection.process_info import ProcessInfo, list_threads
from kinfolk.inspection.procfs import Gone, ProcessFiles
from kinfolk.inspection.reaper import SIGCHLD, Reaper, look_at
from kinfolk.inspection.tree import ProcessTree


class ZombieCause(StrEnum):
    """Why a zombie has not been collected."""

    UNSEEN = "unseen"
    HELD_BY_TRACER = "held by tracer"
    STOPPED = "stopped"
    TRACED = "traced"
    FROZEN = "frozen"
    UNINTERRUPTIBLE = "uninterruptible"
    CLONE_CHILD = "clone child"
    WAITS_ELSEWHERE = "waits elsewhere"
    IGNORED = "ignored"
    BLOCKED = "blocked"
    HANDLER = "handler"
    NEVER_WAITS = "never waits"
    UNKNOWN = "unknown"


_TRIES = 3

_CANNOT_RUN = frozenset(
    {ZombieCause.STOPPED, ZombieCause.TRACED, ZombieCause.FROZEN, ZombieCause.UNINTERRUPTIBLE}
)


@dataclass(frozen=True, slots=True)
class ZombieDiagnosis:
    """A zombie, and what keeps it. Immutable."""

    zombie: ProcessInfo
    #: who has to call wait; None when this user can't see it
    reaper: ProcessInfo | None
    cause: ZombieCause
    #: the cause as a sentence
    why: str
    #: what to type, the least harmful first; empty when no command of this user can help
    cures: tuple[Cure, ...]
    #: what to do where no command helps, or what else to know; may be empty
    advice: str = ""


def diagnose_zombies(tree: ProcessTree) -> list[ZombieDiagnosis]:
    """Why each zombie of a snapshot is still there, as far as it is, and how to be rid of it.

    Looks at the processes as they are now, and does nothing to them. Raises LimitReached. Thread-safe. See wait(2), proc(5).
    """
    clinic = _Clinic(tree)
    return [found for zombie in tree.zombies if (found := clinic.diagnose(zombie)) is not None]


class _Clinic:
    """Looks at each reaper once, however many zombies it has."""

    def __init__(self, tree: ProcessTree) -> None:
        self._tree = tree
        self._reapers: dict[int, Reaper] = {}
        self._adopters = {each.adopted.adopter for each in tree if each.adopted is not None}

    def diagnose(self, zombie: ProcessInfo) -> ZombieDiagnosis | None:
        """None when it has been collected meanwhile."""
        missing = 0
        for _ in range(_TRIES):  # a parent that ends just now hands the zombie on
            try:
                with self._tree.procfs.open(zombie.pid) as files:
                    stat = files.stat()
                    if stat is None or (stat.state, stat.start_time) != ("Z", zombie.start_time):
                        return None
                    parent, tracer = stat.parent, _tracer(files, zombie)
            except Gone:
                return None
            held = tracer not in (0, parent)
            missing = tracer if held else parent
            reaper = self._reaper(missing)
            if reaper is not None:
                return self._explain(zombie, reaper, parent, held=held)
        return _unseen(zombie, missing)

    def _reaper(self, pid: int) -> Reaper | None:
        if pid not in self._reapers:
            process = self._tree.get(pid)
            reaper = None if process is None else look_at(self._tree.procfs, process)
            if reaper is None:
                return None
            self._reapers[pid] = reaper
        return self._reapers[pid]

    def _explain(
        self, zombie: ProcessInfo, reaper: Reaper, parent: int, *, held: bool
    ) -> ZombieDiagnosis:
        if held:
            cause, why = ZombieCause.HELD_BY_TRACER, _held(reaper, parent)
            remedies = cures.for_halted(reaper) if reaper.halted else []
            then = f"then process {parent} is told of the end, and can collect"
            remedies.append(cures.end(reaper, then))
        else:
            cause, why = _cause(zombie, reaper)
            remedies = self._cures(zombie, reaper, cause)
        advice = _advice(zombie, reaper)
        return ZombieDiagnosis(zombie, reaper.process, cause, why, tuple(remedies), advice)

    def _cures(self, zombie: ProcessInfo, reaper: Reaper, cause: ZombieCause) -> list[Cure]:
        found: list[Cure] = []
        if reaper.frozen_by is not None:
            found.append(cures.thaw(reaper.frozen_by))
        if reaper.halted:
            found += cures.for_halted(reaper)
        elif reaper.catches(SIGCHLD) and not reaper.blocks(SIGCHLD):
            found.append(cures.nudge(reaper))
        if reaper.process.pid != 1:
            found.append(cures.end(reaper, f"then {self._heir(reaper)} collects the zombie"))
        if cause not in _CANNOT_RUN:
            found.append(cures.debugger(reaper, zombie))
        return found

    def _heir(self, reaper: Reaper) -> str:
        """Who adopts the zombie when the reaper ends."""
        above = self._tree.ancestors(reaper.process)
        known = next((process for process in above if process.pid in self._adopters), None)
        if known is None:
            return "process 1, or a subreaper below it,"
        if known is above[0]:
            return cures.named(known)
        return f"{cures.named(known)}, or a subreaper below it,"


def _tracer(files: ProcessFiles, zombie: ProcessInfo) -> int:
    """Who traces it, or one of its threads, which then has to be waited for first."""
    tracers = [files.status()]
    if zombie.thread_count > 1:
        for thread in list_threads(files):
            with contextlib.suppress(Gone):
                tracers.append(files.status(thread.tid))
    return next((status.tracer for status in tracers if status and status.tracer), 0)


def _held(tracer: Reaper, parent: int) -> str:
    state = " and is stopped" * tracer.halted
    return (
        f"its tracer, {cures.named(tracer.process)}, has not waited for it{state}; "
        f"until then its parent, process {parent}, can't collect it"
    )


def _unseen(zombie: ProcessInfo, reaper: int) -> ZombieDiagnosis:
    if reaper == 0:
        why = "its parent is outside of this pid namespace"
        advice = "look from the namespace of its parent: on the host of this container"
    else:
        why = f"process {reaper} has to collect it, and this user can't see that process"
        advice = "look as root: sudo kin tree --zombies"
    return ZombieDiagnosis(zombie, None, ZombieCause.UNSEEN, why, (), advice)


def _cause(zombie: ProcessInfo, reaper: Reaper) -> tuple[ZombieCause, str]:
    who = cures.named(reaper.process)
    if reaper.frozen_by is not None:
        return ZombieCause.FROZEN, f"{who} is frozen with its control group"
    if reaper.traced:
        return ZombieCause.TRACED, f"{who} is held by its tracer, {_tracer_of(reaper)}"
    if reaper.halted:
        return ZombieCause.STOPPED, f"{who} was stopped by a signal"
    if reaper.uninterruptible:
        return ZombieCause.UNINTERRUPTIBLE, (
            f"{who} {reaper.doing()}, and takes no signal before that is over"
        )
    if zombie.exit_signal != SIGCHLD:
        return ZombieCause.CLONE_CHILD, (
            f"it was made by clone(2) with exit signal {zombie.exit_signal} instead of SIGCHLD: "
            f"{who} sees it only if it waits with __WALL or __WCLONE"
        )
    if reaper.in_wait:
        return ZombieCause.WAITS_ELSEWHERE, f"{who} waits for another child, and only for that one"
    return _signal_cause(reaper, who)


def _signal_cause(reaper: Reaper, who: str) -> tuple[ZombieCause, str]:
    if reaper.signals is None:
        return ZombieCause.UNKNOWN, f"{who} {reaper.doing()}; the kernel does not show its signals"
    if reaper.ignores(SIGCHLD):
        return ZombieCause.IGNORED, (
            f"{who} ignores SIGCHLD, which reaps what ends from then on; this one ended before, "
            "and stays until somebody waits for it"
        )
    if reaper.blocks(SIGCHLD) and reaper.awaits(SIGCHLD):
        return ZombieCause.BLOCKED, (
            f"SIGCHLD is pending, and {who} blocks it in every thread: no handler runs, and it "
            f"{reaper.doing()}"
        )
    if reaper.catches(SIGCHLD) and not reaper.blocks(SIGCHLD):
        return ZombieCause.HANDLER, (
            f"{who} has a handler for SIGCHLD that has not collected it: it {reaper.doing()}. One "
            "signal may stand for several ends"
        )
    return ZombieCause.NEVER_WAITS, f"{who} does not wait for it: it {reaper.doing()}"


def _advice(zombie: ProcessInfo, reaper: Reaper) -> str:
    if reaper.process.pid == 1:
        return (
            "process 1 adopts what others leave, and this one does not reap: start it below an "
            "init that does (docker run --init)"
        )
    if zombie.namespace_pids[1:] and zombie.namespace_pids[-1] == 1:
        return "it was the init of a pid namespace: everything in there has ended, too"
    return ""


def _tracer_of(reaper: Reaper) -> str:
    return f"process {reaper.process.tracer}" if reaper.process.tracer else "which we can't see"
