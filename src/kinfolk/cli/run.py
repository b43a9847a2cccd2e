"""`kin run`: one command, with everything that it starts; a PID 1 for containers."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import Any

import click

import kinfolk as kin
from kinfolk.cli import failures, parameters
from kinfolk.cli.exit_codes import ExitCode
from kinfolk.cli.reports import emit
from kinfolk.cli.signals import StandardOutputClosed

#: How a command ends that was asked to, or whose reader has gone: nothing to tell anybody.
_ORDINARY = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)


@click.command(
    short_help="Run a command, and end everything that it started with it.",
    # The first word that is no option is the command: what follows is its own.
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "-g",
    "--group",
    is_flag=True,
    help="Pass signals on to the command's whole process group, not to the command alone.",
)
@click.option(
    "--grace",
    type=float,
    callback=parameters.seconds("0 to kill at once"),
    default=1.0,
    metavar="SECONDS",
    help="Time between SIGTERM and SIGKILL for what is to end (default 1; 0 kills at once).",
)
@parameters.timeout("and end the command after so long")
@click.option(
    "--pdeath",
    metavar="SIGNAL",
    help="Pass on SIGNAL when the parent of kin run dies; KILL ends everything at once.",
)
@parameters.quiet("remark on how the command ended")
@parameters.as_json("standard error, at the end")
@click.argument(
    "command_line", nargs=-1, required=True, metavar="[--] CMD [ARG]...", type=click.UNPROCESSED
)
def command(
    group: bool,
    grace: float,
    timeout: float | None,
    pdeath: str | None,
    quiet: bool,
    as_json: bool,
    command_line: tuple[str, ...],
) -> int:
    """Run CMD, pass signals on to it, reap what it leaves, and end with its exit code, or 128 + the signal that ended it.

    When CMD has ended, everything is ended that it has started, however it detached itself. As PID 1 of a container, or anywhere.
    """
    # For good: a signal that comes when CMD has ended already must not change the exit code.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    start = time.monotonic()
    outcome = kin.run_as_init(
        command_line,
        grace=grace,
        timeout=timeout,
        group=group,
        parent_death_signal=pdeath,
    )
    code = ExitCode.TIMEOUT if outcome.timed_out else outcome.status.shell_code
    if not quiet:
        for remark in _remarks(outcome, timeout, grace):
            failures.complain("kin run", f"{command_line[0]}: {remark}")
    if as_json:
        # The exit code is CMD's also when nobody reads the report.
        with contextlib.suppress(StandardOutputClosed, kin.KinfolkError):
            emit(_report(command_line, outcome, code, time.monotonic() - start), to_stderr=True)
    return code


def _remarks(outcome: kin.InitOutcome, timeout: float | None, grace: float) -> list[str]:
    status, remarks = outcome.status, []
    if outcome.timed_out:
        remarks.append(f"it took longer than {timeout:g} s, and was ended")
    elif not status.known or (status.signal is not None and status.signal not in _ORDINARY):
        remarks.append(str(status))
    if outcome.killed and grace:
        what = "1 process" if outcome.killed == 1 else f"{outcome.killed} processes"
        remarks.append(
            f"{what} that it had started did not end within {grace:g} s, and had to be killed"
        )
    if outcome.left:
        pids = ", ".join(map(str, outcome.left))
        remarks.append(f"still running, for another user: {pids} (end them as that user)")
    return remarks


def _report(
    command_line: tuple[str, ...], outcome: kin.InitOutcome, code: int, seconds: float
) -> dict[str, Any]:
    status, usage = outcome.status, outcome.status.usage
    return {
        "command": "run",
        "argv": command_line,
        "exit_code": code,
        "status": status.kind,
        "code": status.code,
        "signal": None if status.signal is None else kin.signals.name_of(status.signal),
        "core_dumped": status.core_dumped,
        "why": status.why,
        "timed_out": outcome.timed_out,
        "seconds": round(seconds, 6),
        "reaped": outcome.reaped,
        "killed": outcome.killed,
        "left": outcome.left,
        "usage": usage
        and {
            "user_seconds": usage.ru_utime,
            "system_seconds": usage.ru_stime,
            "max_resident_bytes": usage.ru_maxrss * 1024,
            "minor_faults": usage.ru_minflt,
            "major_faults": usage.ru_majflt,
            "blocks_in": usage.ru_inblock,
            "blocks_out": usage.ru_oublock,
            "voluntary_switches": usage.ru_nvcsw,
            "involuntary_switches": usage.ru_nivcsw,
        },
    }
