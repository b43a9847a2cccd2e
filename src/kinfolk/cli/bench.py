"""`kin bench`: measures every mechanism beside the kernel's own and, with --peers, beside other
people's (`kinfolk.bench`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

import kinfolk as kin
from kinfolk.cli import failures, parameters
from kinfolk.cli.exit_codes import ExitCode
from kinfolk.cli.output import Output, output_to
from kinfolk.cli.process_drawing import charset
from kinfolk.cli.reports import emit, print_bytes
from kinfolk.cli.signals import EndedBySignal
from kinfolk.cli.turns import Turns

if TYPE_CHECKING:
    from kinfolk.bench.results import Document
    from kinfolk.bench.session import Session

#: The suites, as kinfolk.bench.workloads has them; a test holds them against it. Written here so
#: that --help need not load it.
SUITES = (
    "data", "start-up", "scale", "one-core", "batches", "in-place", "idle", "locks", "processes",
)  # fmt: skip

_DEFAULT_RUNS = 5

#: What is written, by the option's name.
Files = dict[str, Output]


def _export(name: str, what: str) -> Callable[[Any], Any]:
    return click.option(f"--{name}", metavar="FILE", help=f"Write {what} to FILE.")


@click.command(short_help="Measure the mechanisms, and compare them with others.")
@click.argument("mechanisms", nargs=-1, metavar="[MECHANISM]...")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice(SUITES),
    help="What to measure; may be given several times (default: data).",
)
@click.option("--peers", is_flag=True, help="Other people's libraries, too, in the same run.")
@click.option(
    "--sizes", metavar="LIST", help="Message sizes (default: 48,4KiB,1MiB); all for 1 B to 64 MiB."
)
@click.option(
    "--shapes", metavar="LIST", help="Senders x receivers (default: 1x1); all for 1x1,4x1,1x4,4x4."
)
@click.option(
    "--runs",
    type=parameters.WholeNumber(min=1),
    default=_DEFAULT_RUNS,
    metavar="N",
    help=f"Rounds; each case is measured once in each (default: {_DEFAULT_RUNS}).",
)
@click.option(
    "--warmup",
    type=parameters.WholeNumber(min=0),
    default=1,
    metavar="N",
    help="Rounds before them whose figures are not kept (default: 1).",
)
@click.option(
    "--time",
    "seconds",
    type=float,
    default=0.3,
    metavar="SECONDS",
    callback=parameters.seconds("more is quieter"),
    help="How long a case sends in a round (default: 0.3).",
)
@click.option(
    "--within",
    type=float,
    metavar="SECONDS",
    callback=parameters.seconds("the last rounds are left out for it"),
    help="End with fewer rounds rather than later than this (without the claims).",
)
@click.option(
    "--timeout",
    type=float,
    default=20.0,
    metavar="SECONDS",
    callback=parameters.seconds("after which a case that says nothing is cut off"),
    help="When a case is cut off that says nothing (default: 20).",
)
@click.option(
    "--placement",
    type=click.Choice(["apart", "together", "free"]),
    default="apart",
    help="On which CPUs: each process on its own (default), all on one, or where the kernel likes.",
)
@_export("export-json", "everything")
@_export("export-csv", "each figure of each round")
@_export("export-markdown", "the tables")
@_export("report", "a page with plots and tables, which needs no network,")
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Measure nothing: read the results of an earlier run (--export-json).",
)
@click.option(
    "--compare",
    metavar="FILE",
    help="Say what has changed since an earlier run; exit code 1 if something is worse.",
)
@click.option(
    "--threshold",
    type=float,
    default=1.1,
    metavar="RATIO",
    help="With --compare: how many times worse is too much (default: 1.1).",
)
@click.option(
    "--absolute",
    is_flag=True,
    help="With --compare: figures as they are, not as multiples of os.pipe's.",
)
@click.option(
    "--verify-claims",
    is_flag=True,
    help="Put the source's claims about the mechanisms to the test; without --suite, nothing else.",
)
@click.option("--list", "as_list", is_flag=True, help="List what can be measured, and end.")
@parameters.quiet("progress bar")
@parameters.as_json("standard output, instead of the tables")
def command(
    mechanisms: tuple[str, ...],
    suites: tuple[str, ...],
    sizes: str | None,
    shapes: str | None,
    peers: bool,
    source: str | None,
    compare: str | None,
    threshold: float,
    absolute: bool,
    as_list: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> int:
    """Measure each MECHANISM, or all of them, and the kernel's own beside: round trips and streams,
    with what they cost.

    Every mechanism has its turn in every round, and each turn is a fresh process. Only the ratios
    of one run mean anything.
    """
    from kinfolk.bench import comparing

    if not threshold >= 1:
        raise kin.InvalidValue(
            f"--threshold {threshold:g} makes no sense", remedy="give a ratio such as 1.1"
        )
    if as_list:
        _list(as_json)
        return ExitCode.OK
    if source is not None and (mechanisms or suites or peers or options["verify_claims"]):
        raise kin.UsageError("--from measures nothing", remedy="leave out what to measure")
    paths = {name: options.pop(name) for name in _WRITERS}
    _refuse_files(paths, as_json)
    earlier = None if compare is None else _read(compare)
    with contextlib.ExitStack() as stack:
        # Opened before anything is measured: who waits for hours is not to learn then that there is
        # no such directory.
        files = {
            name: stack.enter_context(output_to(path))
            for name, path in paths.items()
            if path is not None
        }
        if source is not None:
            document = _read(source)
            _publish(document, files, as_json)
        else:
            chosen = suites or (() if options["verify_claims"] else ("data",))
            document = _measure(
                mechanisms, chosen, (sizes, shapes), peers, quiet, files, as_json, options
            )
    if compare is None or earlier is None:
        return ExitCode.OK
    found = comparing.compare(earlier, document, threshold=threshold, absolute=absolute)
    if not comparing.in_common(found):
        raise kin.InvalidValue(
            "there is nothing to compare",
            subject=str(compare),
            why="no case was measured both then and now",
            remedy="measure the same mechanisms and sizes, with the same suites",
        )
    for each in found:
        failures.say(comparing.sentence(each))
    return ExitCode.FAILED if comparing.regressions(found) else ExitCode.OK


def _refuse_files(paths: dict[str, str | None], as_json: bool) -> None:
    """Before anything is measured: what can't be written when it has been."""
    if [*paths.values()].count("-") + as_json > 1:
        raise kin.UsageError(
            "several results can't all go to standard output",
            remedy="give a file's name for all but one",
        )
    if paths["report"] is not None:
        from kinfolk.bench.report.plotly_js import script

        script()


def _measure(
    mechanisms: tuple[str, ...],
    suites: tuple[str, ...],
    wished: tuple[str | None, str | None],
    peers: bool,
    quiet: bool,
    files: Files,
    as_json: bool,
    options: dict[str, Any],
) -> Document:
    from kinfolk.bench.session import Session
    from kinfolk.bench.workloads import Wish, parse_shapes, parse_sizes

    sizes, shapes = wished
    wish = Wish(parse_sizes(sizes), parse_shapes(shapes))
    session = Session(mechanisms, suites, wish, peers=peers, **options)
    try:
        with Turns(quiet=quiet) as turns:
            session.run(watch=lambda turn: turns.show(*turn))
    except EndedBySignal:
        # Ctrl-C: what was measured is kept, said, and written; then the signal has its way.
        _keep(session, files, as_json)
        raise
    document = session.document()
    _publish(document, files, as_json)
    return document


def _keep(session: Session, files: Files, as_json: bool) -> None:
    document = session.document()
    if document.results or document.verdicts:
        _publish(document, files, as_json)
        failures.complain("kin bench", "interrupted; what was measured is kept")
    else:
        failures.complain("kin bench", "interrupted before anything was measured")


def _as_json(document: Document) -> bytes:
    from kinfolk.bench.results import encode

    return encode(document)


def _as_csv(document: Document) -> bytes:
    from kinfolk.bench.exporting import to_csv

    return to_csv(document).encode()


def _as_markdown(document: Document) -> bytes:
    from kinfolk.bench.exporting import to_markdown

    return to_markdown(document).encode()


def _as_page(document: Document) -> bytes:
    from kinfolk.bench.report.page import page

    return page(document).encode()


#: What makes the content of each file, by the option's name.
_WRITERS: dict[str, Callable[[Document], bytes]] = {
    "export_json": _as_json,
    "export_csv": _as_csv,
    "export_markdown": _as_markdown,
    "report": _as_page,
}


def _publish(document: Document, files: Files, as_json: bool) -> None:
    """Write the files, then the tables, unless one of the files is standard output."""
    for name, file in files.items():
        file.write(_WRITERS[name](document))
        file.commit()
    if as_json:
        print_bytes(_as_json(document))
    elif not any(file.is_data_stream for file in files.values()):
        _print(document)


def _read(path: str) -> Document:
    from kinfolk.bench import results

    failures.refuse_empty(path)
    return results.read(path)


def _print(document: Document) -> None:
    from kinfolk.bench.text import lines

    text = "".join(f"{failures.printable(line)}\n" for line in lines(document))
    print_bytes(text.encode(charset(), "replace"))


def _list(as_json: bool) -> None:
    from kinfolk.bench.subjects import ALL, version_of

    rows = [(subject, version_of(subject)) for subject in ALL]
    if as_json:
        emit(
            {
                "subjects": [
                    {
                        "name": subject.name,
                        "family": subject.family,
                        "waiting": subject.waiting,
                        "installed": version is not None,
                        "version": version or None,
                        "why": subject.why,
                    }
                    for subject, version in rows
                ]
            },
            to_stderr=False,
        )
        return
    width = max(len(subject.name) for subject, _ in rows)
    for subject, version in rows:
        missing = f" (not installed: pip install {subject.package})" if version is None else ""
        line = f"{subject.name:{width}}  {subject.family:8}{subject.why}{missing}\n"
        print_bytes(line.encode(charset(), "replace"))
