"""`kin echo`: a server that sends back whatever comes."""

from __future__ import annotations

import click

import kinfolk as kin
from kinfolk.cli import ends, failures, parameters
from kinfolk.cli.exit_codes import ExitCode
from kinfolk.cli.forwarding import receive, send
from kinfolk.cli.reports import Report
from kinfolk.cli.serving import Server
from kinfolk.cli.shown import excerpt


@click.command(short_help="Listen, and send back whatever comes.")
@parameters.address()
@parameters.framed()
@parameters.codec("Objects that clients may send; pickle only for programs of your own.")
@parameters.mode("the socket")
@parameters.count("clients")
@click.option("-v", "--verbose", is_flag=True, help="Show each message on standard error.")
@parameters.quiet("line that says where it listens")
@parameters.as_json("standard output, at the end")
def command(
    address: str,
    framed: bool,
    codec: str | None,
    mode: str | None,
    count: int | None,
    verbose: bool,
    quiet: bool,
    as_json: bool,
) -> ExitCode:
    """Listen at ADDRESS and send every message back at once, to many clients at the same time.

    SIGINT, SIGHUP and SIGTERM end it: it removes its socket and ends with 0.
    """
    style = ends.style_of(address, framed, codec)
    report = Report("echo")

    async def answer(client: kin.Connection) -> None:
        try:
            while True:
                message = await receive(client, style)
                report.add(len(message) if isinstance(message, bytes) else 0)
                if verbose:
                    failures.say(f"new msg: {excerpt(message)}")
                await send(client, style, message)
        except (kin.EndOfChannel, kin.BrokenChannel):
            return  # the client has had what it wanted

    server = Server("kin echo", answer, count=count, quiet=quiet)
    server.run(address, **ends.opening(style, framed, codec, mode=mode))
    if as_json:
        report.finish(
            to_stderr=False, address=server.address, clients=server.clients, failed=server.failed
        )
    return ExitCode.OK
