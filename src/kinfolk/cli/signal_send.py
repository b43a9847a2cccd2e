"""`kin signal`: a signal to exactly the process that is meant."""

from __future__ import annotations

import click

import kinfolk as kin
from kinfolk.cli import parameters
from kinfolk.cli.reports import emit


@click.command(short_help="Send a signal to a process, or to a group.")
@click.argument("target", metavar="PID[@START]")
@click.argument("signal", metavar="SIGNAL")
@click.option(
    "--value",
    type=parameters.WholeNumber(-(2**31), 2**31 - 1),
    metavar="N",
    help="A number that travels with it, as by sigqueue(3).",
)
@click.option("--group", is_flag=True, help="To the process group that PID leads.")
@parameters.as_json("standard output")
def command(target: str, signal: str, value: int | None, group: bool, as_json: bool) -> None:
    """Send SIGNAL, a number or a name, to process PID.

    With its start time (kin tree -o pid,start), a process that has the pid now but is another one gets nothing.
    """
    entry = kin.signals.entry_of(signal)
    whom = _process(target)
    kin.signals.send(kin.signals.Group(whom) if group else whom, entry.number, value)
    if as_json:
        facts = {
            "command": "signal",
            "pid": whom.pid if isinstance(whom, kin.Identity) else whom,
            "start": whom.start_time if isinstance(whom, kin.Identity) else None,
            "group": group,
            "signal": entry.name,
            "number": int(entry.number),
            "value": value,
        }
        emit(facts, to_stderr=False)


def _process(text: str) -> int | kin.Identity:
    if "@" in text:
        return kin.Identity.parse(text)
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise kin.UsageError(
            f"{text!r} is no process",
            remedy="give a pid, or PID@START with its start time: the signal stands second",
        )
    return int(text)


_DIGITS = 10
