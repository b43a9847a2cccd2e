"""Stop `daemon`: a process in the background that belongs to nobody. The source's chapter Daemon守护进程.

It shows
- a real daemon, seen in /proc: no child of ours, in a session that nobody leads, without a terminal, its directory,
  its standard streams, its umask;
- its pid file: a second one is refused;
- a start that fails, which the caller is told;
- how it is stopped.
"""

from __future__ import annotations

import os
import signal

import kinfolk as kin
from kinfolk.tour.evidence import status_line, watched
from kinfolk.tour.narrator import Narrator
from kinfolk.tour.processes import HANG_LIMIT, PATIENCE, Line, crew
from kinfolk.tour.stop import Stop, Walk, scratch_directory

#: It says a word into its log, says that it is ready, and works.
_WORKS = ["/bin/sh", "-c", f"echo at work; echo >&3; exec sleep {HANG_LIMIT} 3>&-"]
_READY_BY = 3


def visit(narrator: Narrator, walk: Walk) -> None:
    """Start a daemon, look at it, stop it."""
    with scratch_directory() as directory:
        pidfile, log = f"{directory}/pid", os.path.realpath(f"{directory}/log")
        with crew() as hands:
            starter = hands.start("starter", _start, pidfile, log)
            identity: kin.Identity = starter.result()
        with watched(identity.pid) as daemon:
            _look(narrator, identity.pid, starter.pid, log)
            _second(narrator, pidfile, log)
            took = kin.stop_daemon(pidfile, timeout=PATIENCE)
            ended = daemon.ended(0)
        narrator.says(
            f"kin.stop_daemon sent {took.name if took else 'nothing'} to whoever holds the lock "
            "of the pid file."
        )
        narrator.check(
            "it was stopped, and its pid file removed",
            took == signal.SIGTERM and ended and not os.path.exists(pidfile),
        )


def _look(narrator: Narrator, pid: int, starter: int, log: str) -> None:
    tree = kin.process_tree()
    daemon, us = tree.process(pid), tree.process(os.getpid())
    above = {each.pid for each in tree.ancestors(us)}
    cwd = os.readlink(f"/proc/{pid}/cwd")
    streams = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    umask = status_line(pid, "Umask")
    with open(log) as file:
        logged = file.read()
    narrator.says(
        f"Process {starter} started {daemon.name} as a daemon and ended: it is process {pid}, "
        f"its parent {daemon.parent}, its session "
        f"{daemon.session} (ours is {us.session}), its directory {cwd}, its umask {umask}, its "
        f"streams {', '.join(streams)}."
    )
    narrator.check(
        "its parent is init, or a subreaper above us",
        daemon.parent in {0, 1, us.pid, *above},
        f"{daemon.parent}",
    )
    narrator.check(
        "it is in a session of its own, which it does not lead, so it can't get a terminal",
        daemon.session not in (us.session, pid) and not daemon.on_terminal,
        f"session {daemon.session}",
    )
    narrator.check("it keeps no directory busy", cwd == "/", cwd)
    narrator.check(
        "it reads from /dev/null and writes to its log",
        streams == ["/dev/null", log, log] and logged == "at work\n",
        f"{', '.join(streams)}: {logged!r}",
    )
    narrator.check("its umask lets nobody else write", umask == "0027", umask)


def _second(narrator: Narrator, pidfile: str, log: str) -> None:
    with crew() as hands:
        second = hands.start("second", _try, pidfile, log, _WORKS).result()
        failed = hands.start("failing", _try, None, log, ["/bin/sh", "-c", "exit 7"]).result()
    narrator.says(f"A second one was refused: {second} One that ends at once: {failed}")
    narrator.check("a daemon that runs has its pid file locked", second.startswith("Busy"), second)
    narrator.check(
        "who starts one that fails is told so, with its status",
        failed.startswith("SystemProblem") and "7" in failed,
        failed,
    )


def _start(line: Line, pidfile: str, log: str) -> kin.Identity:
    return kin.start_daemon(_WORKS, pidfile=pidfile, log=log, ready=_READY_BY, timeout=PATIENCE)


def _try(line: Line, pidfile: str | None, log: str, command: list[str]) -> str:
    try:
        kin.start_daemon(command, pidfile=pidfile, log=log, ready=_READY_BY, timeout=PATIENCE)
    except kin.KinfolkError as error:
        return f"{type(error).__name__}: {error.why}."
    return "started."


STOP = Stop("daemon", "in the background, and nobody's child", "Daemon守护进程", visit)
