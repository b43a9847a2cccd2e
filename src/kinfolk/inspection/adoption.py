"""Orphans: which processes are children of one that did not start them, and how that is known.

When a process ends, the kernel gives its children to the nearest ancestor that is a subreaper, else to the init of its pid namespace
(PR_SET_CHILD_SUBREAPER(2const)). It keeps no record of that, and does not say who is a subreaper. What it keeps are session and
process group, and they are inherited: a process is in the session of who started it, until it makes one of its own,
which has its own pid for a number (setsid(2)).

    session S of P is neither P's own number nor that of its parent A:     A did not start P …
        A is init, or leads no session (so is still in that of its birth),
        or the leader of S is younger than A                               … for certain
        A leads a session, which it may have made after it started P,
        and the leader of S has gone                                       … likely
    same session, but a process group of which neither P nor A is,
    and A, an adopter, controls no jobs                                    … likely

Rules:
1. Nothing is claimed without such evidence: a daemon that leads its own session may have been started by init itself.
2. The claim is that A did not start P. That also is so for a child of clone(2) with CLONE_PARENT, as container runtimes make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kinfolk.inspection.process_info import Adoption, ProcessInfo


def find_adoptions(processes: Mapping[int, ProcessInfo]) -> dict[int, ProcessInfo]:
    """The processes anew, by pid, with `adopted` where something shows it."""
    found = {
        pid: adoption
        for pid, process in processes.items()
        if (parent := processes.get(process.parent)) is not None
        and (adoption := _by_session(process, parent, processes.get(process.session))) is not None
    }
    adopters = {adoption.adopter for adoption in found.values()}
    for pid, process in processes.items():
        parent = processes.get(process.parent)
        if pid not in found and parent is not None and (_is_init(parent) or parent.pid in adopters):
            adoption = _by_group(process, parent)
            if adoption is not None:
                found[pid] = adoption
    return {
        pid: replace(process, adopted=found[pid]) if pid in found else process
        for pid, process in processes.items()
    }


def _by_session(
    process: ProcessInfo, parent: ProcessInfo, leader: ProcessInfo | None
) -> Adoption | None:
    if process.kernel_thread or process.session in (0, process.pid, parent.session):
        return None  # 0: the session is one outside of our pid namespace
    if leader is not None and leader.session != leader.pid:
        return None  # the snapshot is torn: the number has been given away again
    evidence = f"it is in session {process.session}, which process {parent.pid} never was in"
    younger = leader is not None and leader.start_time > parent.start_time
    if parent.pid == 1 or parent.session != parent.pid or younger:
        return _adoption(parent, "certain", evidence)
    if leader is None:
        evidence = f"the leader of its session, {process.session}, has gone"
        return _adoption(parent, "likely", evidence)
    return None


def _by_group(process: ProcessInfo, parent: ProcessInfo) -> Adoption | None:
    if process.kernel_thread or process.session != parent.session or parent.on_terminal:
        return None
    if process.group in (0, process.pid, parent.group):
        return None
    evidence = (
        f"it is in process group {process.group}, which it did not make, nor process {parent.pid}"
    )
    return _adoption(parent, "likely", evidence)


def _adoption(parent: ProcessInfo, certainty: str, evidence: str) -> Adoption:
    return Adoption(
        adopter=parent.pid,
        by="init" if _is_init(parent) else "subreaper",
        certainty="certain" if certainty == "certain" else "likely",
        evidence=evidence,
    )


def _is_init(process: ProcessInfo) -> bool:
    return process.pid == 1 or process.namespace_pids[-1:] == (1,)
