"""`kin`: finds the command, runs it, and turns whatever happens into one line and an exit code.

    main ── argv ──> click ──> the command's function ──> None or an ExitCode
      ^                                  │
      └─ exit code, or death by signal <─┘ an error of kinfolk's, of click's, or a signal

Rules:
1. An error is one line on standard error: ``kin send: subject: what: why (remedy)``.
2. A traceback is shown only to who asks for it (``kin --traceback``, KIN_DEBUG=1); an error that is not kinfolk's is a bug and
   says so.
3. A command's file is imported when that command is asked for.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

import kinfolk as kin
from kinfolk.cli import failures, signals
from kinfolk.cli.exit_codes import ExitCode, code_of, code_of_wrapper

#: The commands in the order of the help; the help says of each what its file says.
COMMANDS = (
    "send",
    "recv",
    "echo",
    "ask",
    "relay",
    "run",
    "daemon",
    "tree",
    "signals",
    "signal",
    "tour",
    "bench",
)

#: Those that end with another program's exit code; their own failures have codes apart from any program's.
WRAPPERS = ("kin run",)


def _load(name: str) -> click.Command:
    match name:
        case "send":
            from kinfolk.cli.send import command
        case "recv":
            from kinfolk.cli.recv import command
        case "echo":
            from kinfolk.cli.echo import command
        case "ask":
            from kinfolk.cli.ask import command
        case "relay":
            from kinfolk.cli.relay import command
        case "run":
            from kinfolk.cli.run import command
        case "daemon":
            from kinfolk.cli.daemon import command
        case "tree":
            from kinfolk.cli.tree import command
        case "signals":
            from kinfolk.cli.signal_list import command
        case "signal":
            from kinfolk.cli.signal_send import command
        case "bench":
            from kinfolk.cli.bench import command
        case _:
            from kinfolk.cli.tour import command
    command.name = name
    return command


class _Commands(click.Group):
    """The commands, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _load(cmd_name) if cmd_name in COMMANDS else None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="An ADDRESS is mechanism:name?option=value, such as fifo:/tmp/f, unix:/run/app.sock?mode=0640, mq:/jobs.",
)
@click.option(
    "--traceback", is_flag=True, help="Show where an error came from (KIN_DEBUG=1 does the same)."
)
@click.version_option(kin.__version__, prog_name="kin", message="%(prog)s %(version)s")
def group(traceback: bool) -> None:
    """Run, watch, signal and end processes, and move data between them over every mechanism that the kernel has."""


def main() -> NoReturn:
    """The entry point: runs the command line of this process, and ends it."""
    _fill_standard_descriptors()
    signals.raise_when_ended()
    arguments = sys.argv[1:]
    try:
        code = run(arguments)
        _flush()
        signals.stop_raising()
    except signals.EndedBySignal as ended:
        signals.die_of(ended.number)
    except KeyboardInterrupt:  # from code that has put Python's own handler back
        signals.die_of(signal.SIGINT)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; errors are said on standard error. Raises EndedBySignal."""
    program = " ".join(["kin", *[word for word in arguments if not word.startswith("-")][:1]])
    if program.removeprefix("kin ") not in COMMANDS:
        program = "kin"
    try:
        # Not `group.main`: that one takes every EPIPE, also of a channel, for its own output's.
        with group.make_context("kin", list(arguments)) as context:
            result = group.invoke(context)
    except click.exceptions.Exit:  # --help and --version have printed
        return ExitCode.OK
    except kin.KinfolkError as error:
        _trace(arguments)
        failures.complain(program, error.explain())
        return code_of_wrapper(error) if program in WRAPPERS else code_of(error)
    except click.exceptions.NoArgsIsHelpError as error:
        failures.say_all(error.format_message())
        return ExitCode.USAGE
    except click.ClickException as error:
        failures.complain(program, f"{_sentence(error)} (see {program} --help)")
        return ExitCode.NOT_RUN if program in WRAPPERS else ExitCode.USAGE
    except BrokenPipeError:  # click wrote the help, and nobody reads it
        raise signals.StandardOutputClosed from None
    except OSError as error:  # or its disk is full; the commands' own errors have all been caught
        _trace(arguments)
        what = failures.file_error(error, "can't be written", error.filename or failures.STDOUT)
        failures.complain(program, what.explain())
        return code_of(what)
    except Exception as error:
        if not _trace(arguments):
            shown = f"{type(error).__name__}: {error}"
            failures.complain(
                program,
                f"a bug of kinfolk: {shown} (please report it; kin --traceback shows where)",
            )
        return ExitCode.NOT_RUN if program in WRAPPERS else ExitCode.BUG
    return result if isinstance(result, int) else ExitCode.OK


def _sentence(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _trace(arguments: Sequence[str]) -> bool:
    wanted = "--traceback" in arguments[:1] or os.environ.get("KIN_DEBUG", "0") not in ("", "0")
    if wanted:
        traceback.print_exc()
    return wanted


def _flush() -> None:
    """Write out what click printed; a full disk and a closed pipe are seen here, not after the end."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except BrokenPipeError:
            raise signals.StandardOutputClosed from None
        except OSError as error:
            failures.complain(
                "kin", failures.file_error(error, "can't be written", failures.STDOUT).explain()
            )
            os._exit(ExitCode.FAILED)


def _fill_standard_descriptors() -> None:
    """Open what is closed of descriptors 0 to 2, the wrong way round, so that using it fails.

    Otherwise the next FIFO or socket would get the number, and take what is meant for a person.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if number == 0 else os.O_RDONLY)
