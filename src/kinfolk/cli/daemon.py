"""`kin daemon`: starts a program as a daemon, says whether it runs, stops it."""

from __future__ import annotations

import os
import select
from typing import Any

import click

import kinfolk as kin
from kinfolk.cli import failures, parameters
from kinfolk.cli.exit_codes import ExitCode
from kinfolk.cli.reports import emit, print_bytes

#: Seconds between SIGTERM and SIGKILL.
_GRACE = 10.0


@click.command(
    short_help="Start a program as a daemon; ask whether it runs; stop it.",
    # The first word that is no option is the program: what follows is its own.
    context_settings={"allow_interspersed_args": False},
)
@click.option("--pidfile", metavar="FILE", help="Lock FILE, with the daemon's pid, while it runs.")
@click.option("--status", is_flag=True, help="Say whether the daemon of --pidfile runs.")
@click.option("--stop", is_flag=True, help="End the daemon of --pidfile: SIGTERM, then SIGKILL.")
@click.option(
    "--grace",
    type=float,
    callback=parameters.seconds("0 to kill at once"),
    metavar="SECONDS",
    help="How long --stop waits before SIGKILL (default 10).",
)
@click.option("--chdir", metavar="DIRECTORY", help="Where it runs (default /).")
@click.option(
    "--log",
    metavar="FILE",
    help="Append its standard output and error to FILE; 'journal' is the journal. Default: /dev/null.",
)
@click.option("--umask", metavar="OCTAL", help="Its umask (default 027).")
@click.option("--name", metavar="NAME", help="Its name in the journal (default: CMD's).")
@click.option(
    "--ready-fd",
    type=int,
    metavar="N",
    help="It is ready when it has written a newline to descriptor N.",
)
@click.option(
    "--notify", is_flag=True, help="It is ready when it has sent READY=1 to $NOTIFY_SOCKET."
)
@click.option(
    "--settle",
    type=float,
    callback=parameters.seconds("0 for no time at all"),
    metavar="SECONDS",
    help="Else it is ready when it has lived for so long (default 0.1).",
)
@parameters.timeout("on a daemon that is not ready, or not gone, for so long")
@parameters.as_json("standard output")
@click.argument("command_line", nargs=-1, metavar="[--] [CMD [ARG]...]", type=click.UNPROCESSED)
def command(
    pidfile: str | None,
    status: bool,
    stop: bool,
    grace: float | None,
    timeout: float | None,
    as_json: bool,
    command_line: tuple[str, ...],
    **starting: Any,
) -> ExitCode:
    """Start CMD as a daemon, and end when it is ready; or, with --status or --stop, see about one.

    When CMD can't be started, ends at once, or is not ready in time, this says why and fails.
    """
    given = {name: value for name, value in starting.items() if value not in (None, False)}
    if status or stop:
        asked = "--status" if status else "--stop"
        if pidfile is None:
            raise kin.UsageError(f"{asked} needs --pidfile", remedy="name the daemon's pid file")
        if command_line or given or (status and (stop or grace is not None)):
            raise kin.UsageError(
                f"{asked} starts nothing",
                why="CMD and the options for it, and of --status and --stop the other, don't go with it",
                remedy="leave them out",
            )
        if status:
            return _say_status(pidfile, as_json)
        return _stop(pidfile, _GRACE if grace is None else grace, timeout, as_json)
    if not command_line:
        raise kin.UsageError("there is no CMD to start", remedy="give one: kin daemon -- CMD")
    if grace is not None:
        raise kin.UsageError("--grace is for --stop", remedy="leave it out")
    who = kin.start_daemon(command_line, pidfile=pidfile, timeout=timeout, **_options(given))
    if as_json:
        _report("start", pidfile, pid=who.pid, start_time=who.start_time)
    return ExitCode.OK


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `kin.start_daemon` that were given on the command line."""
    signs = [name for name in ("ready_fd", "notify", "settle") if name in given]
    if len(signs) > 1:
        raise kin.UsageError(
            "--ready-fd, --notify and --settle exclude each other", remedy="give one of them"
        )
    options: dict[str, Any] = {
        name: given[name] for name in ("chdir", "log", "name", "settle") if name in given
    }
    if "umask" in given:
        options["umask"] = _octal(given["umask"])
    if signs and "settle" not in signs:
        options["ready"] = given.get("ready_fd", "notify")
    return options


def _octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise kin.InvalidValue(
            f"--umask {text} makes no sense", remedy="give an octal number such as 027"
        ) from None


def _say_status(pidfile: str, as_json: bool) -> ExitCode:
    pid_file = kin.PidFile(pidfile)
    who = pid_file.holder()
    written = pid_file.read()
    if as_json:
        facts = {"pid": who and who.pid, "start_time": who and who.start_time, "written": written}
        _report("status", pidfile, running=who is not None, **facts)
    if who is not None:
        if not as_json:
            print_bytes(f"running: process {who.pid}\n".encode())
        return ExitCode.OK
    why = "its pid file names nobody" if os.path.lexists(pid_file.path) else "there is no pid file"
    if written and not _lives(written):
        why = f"process {written} left its pid file"
    elif written:
        why = f"process {written}, which it names, has not locked it: it is a copy, or that number is another process's now"
    failures.complain("kin daemon", f"{pid_file.path}: its daemon does not run: {why}")
    return ExitCode.GONE


def _lives(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return False
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)


def _stop(pidfile: str, grace: float, timeout: float | None, as_json: bool) -> ExitCode:
    who = kin.PidFile(pidfile).holder()
    ended_by = kin.stop_daemon(pidfile, grace=grace, timeout=timeout)
    if as_json:
        by = None if ended_by is None else ended_by.name
        _report("stop", pidfile, pid=who and who.pid, signal=by)
    return ExitCode.OK


def _report(action: str, pidfile: str | None, **facts: Any) -> None:
    emit({"command": "daemon", "action": action, "pidfile": pidfile, **facts}, to_stderr=False)
