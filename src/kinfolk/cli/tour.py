"""`kin tour`: the guided walk, which is a package of its own (`kinfolk.tour`)."""

from __future__ import annotations

import click

import kinfolk as kin
from kinfolk.cli import parameters
from kinfolk.cli.exit_codes import ExitCode
from kinfolk.cli.reports import emit, print_bytes


@click.command(short_help="Walk through the kernel's mechanisms, with real processes.")
@click.argument("stops", nargs=-1, metavar="[STOP]...")
@click.option(
    "--file",
    metavar="FILE",
    help="The file that the first stop moves; by default one that is here, of some MB.",
)
@click.option("--list", "as_list", is_flag=True, help="List the stops and end.")
@parameters.as_json("standard output")
def command(stops: tuple[str, ...], file: str | None, as_list: bool, as_json: bool) -> int:
    """Walk the stops named, or all of them. Each says what it did, and checks that it happened."""
    import kinfolk.tour

    if as_list:
        if stops or file is not None:
            raise kin.UsageError("--list takes neither a STOP nor --file", remedy="leave them out")
        _list(kinfolk.tour.stops(), as_json)
        return ExitCode.OK
    return ExitCode.OK if kinfolk.tour.run(stops, file, as_json) else ExitCode.FAILED


def _list(stops: list[tuple[str, str, str]], as_json: bool) -> None:
    if as_json:
        emit(
            {
                "stops": [
                    dict(zip(("name", "title", "chapter"), stop, strict=True)) for stop in stops
                ]
            },
            to_stderr=False,
        )
        return
    width = max(len(name) for name, _, _ in stops)
    for name, title, _ in stops:
        print_bytes(f"{name:{width}}  {title}\n".encode())
