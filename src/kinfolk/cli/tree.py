"""`kin tree`: who is whose child; zombies, orphans and stopped ones marked; for each zombie its cure."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator
from typing import Any

import click

import kinfolk as kin
from kinfolk.cli import failures, parameters, process_columns
from kinfolk.cli.process_columns import age_of, encodable
from kinfolk.cli.process_drawing import Line, charset, draw, glyphs_for
from kinfolk.cli.reports import emit, print_bytes

#: Raised when a key of --json changes its meaning or goes; new ones may come without.
SCHEMA_VERSION = 1


@click.command(short_help="Show the tree of processes, and what to do about zombies.")
@click.argument("pids", nargs=-1, type=parameters.Pid(), metavar="[PID]...")
@click.option(
    "-z",
    "--zombies",
    is_flag=True,
    help="Only the zombies: who has to reap each, why it has not, what to type.",
)
@click.option("-a", "--all", "everything", is_flag=True, help="Kernel threads, too.")
@click.option(
    "-u",
    "--user",
    metavar="USER",
    help="Only processes of USER, a name or a number, and their ancestors.",
)
@click.option("-s", "--parents", is_flag=True, help="The ancestors of each PID, too.")
@click.option("-t", "--threads", is_flag=True, help="The threads of each process, too.")
@click.option(
    "-o",
    "--output",
    "columns",
    metavar="COLUMNS",
    help=f"Show these columns, with commas between: {', '.join(process_columns.COLUMNS)}.",
)
@click.option("-n", "--noheadings", is_flag=True, help="No line of headings.")
@parameters.as_json("standard output, instead of the tree")
def command(
    pids: tuple[int, ...],
    zombies: bool,
    everything: bool,
    user: str | None,
    parents: bool,
    threads: bool,
    columns: str | None,
    noheadings: bool,
    as_json: bool,
) -> None:
    """Show the processes below each PID, or all of them, and who is whose child.

    Zombies, stopped and traced processes, and orphans are marked, with who has to reap, traces, or adopted them.
    """
    chosen = None if columns is None else process_columns.parse(columns)
    if zombies and (chosen is not None or threads):
        raise kin.UsageError(
            "--zombies takes neither -o nor --threads",
            why="it has one form",
            remedy="leave them out, or add --json",
        )
    tree = kin.process_tree(threads=threads)
    selection = _Selection(tree, pids, everything=everything, user=user, parents=parents)
    if zombies:
        _show_zombies(tree, selection, as_json)
    elif as_json:
        emit(_as_facts(tree, selection, chosen, threads), to_stderr=False)
    else:
        encoding = charset()
        lines = draw(
            tree,
            selection.tops,
            selection.shown,
            chosen or process_columns.DEFAULT,
            glyphs=glyphs_for(encoding),
            headings=not noheadings,
        )
        _print(lines, encoding)
    if tree.unreadable:
        failures.complain(
            "kin tree", f"{tree.unreadable} processes are hidden from this user (hidepid)"
        )


class _Selection:
    """Which processes are shown: those below ``tops`` that are in ``shown``, or all of them."""

    def __init__(
        self,
        tree: kin.ProcessTree,
        pids: Iterable[int],
        *,
        everything: bool,
        user: str | None,
        parents: bool,
    ) -> None:
        """Raises NotFound for a process or a user that is none."""
        self._tree = tree
        self.shown: set[int] | None = None
        self.tops = [top for top in tree.roots if everything or not top.kernel_thread]
        named = {pid: tree.process(pid) for pid in pids}
        if named:
            self.tops = [top for top in named.values() if not self._is_below(top, named)]
        if user is not None:
            uid = _uid_of(user)
            matching = [each for each in self.processes() if each.uid == uid]
            self.shown = self._with_ancestors(matching)
            self.tops = [top for top in self.tops if top.pid in self.shown]
        if parents and named:
            below = {each.pid for each in self.processes()}
            self.shown = self._with_ancestors(self.tops) | below
            self.tops = [root for root in tree.roots if root.pid in self.shown]

    def processes(self) -> Iterator[kin.ProcessInfo]:
        """All that are selected, parents first."""
        for process, _ in self._tree.walk(self.tops):
            if self.shown is None or process.pid in self.shown:
                yield process

    def _is_below(self, process: kin.ProcessInfo, named: dict[int, kin.ProcessInfo]) -> bool:
        return any(ancestor.pid in named for ancestor in self._tree.ancestors(process))

    def _with_ancestors(self, processes: Iterable[kin.ProcessInfo]) -> set[int]:
        found: set[int] = set()
        for process in processes:
            current: kin.ProcessInfo | None = process
            while current is not None and current.pid not in found:
                found.add(current.pid)
                current = self._tree.parent(current)
        return found


def _uid_of(user: str) -> int:
    try:
        return int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # ValueError: a null byte
        raise kin.NotFound("there is no such user", subject=user) from None


def _print(lines: Iterable[Line], encoding: str) -> None:
    if _can_colour():
        _print_coloured(lines)
        return
    for line in lines:
        print_bytes(f"{line.text.rstrip()}\n".encode(encoding, "backslashreplace"))


def _can_colour() -> bool:
    try:
        return os.isatty(1)
    except OSError:
        return False


def _print_coloured(lines: Iterable[Line]) -> None:
    """On a terminal: cut to its width; coloured, unless NO_COLOR or a plain terminal forbids it (rich sees to that)."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        text = Text(line.text.rstrip(), style=_style(line.process))
        with console.capture() as captured:
            console.print(text, no_wrap=True, overflow="ellipsis")
        print_bytes(captured.get().encode(console.encoding, "backslashreplace"))


def _style(process: kin.ProcessInfo | None) -> str:
    if process is None:
        return "bold"
    if process.zombie:
        return "bold red"
    if process.stopped:
        return "yellow"
    return "cyan" if process.adopted is not None else ""


def _as_facts(
    tree: kin.ProcessTree, selection: _Selection, columns: tuple[str, ...] | None, threads: bool
) -> dict[str, Any]:
    rows = []
    for process in selection.processes():
        row = process_columns.values(process, columns or process_columns.DEFAULT_JSON)
        if threads:
            row["thread_list"] = [
                {"tid": thread.tid, "name": encodable(thread.name), "state": thread.condition}
                for thread in process.threads or ()
            ]
        rows.append(row)
    return {
        "command": "tree",
        "version": SCHEMA_VERSION,
        "processes": rows,
        "zombies": [_zombie_facts(found) for found in _diagnoses(tree, selection)],
        "unreadable": tree.unreadable,
    }


def _diagnoses(tree: kin.ProcessTree, selection: _Selection) -> list[kin.ZombieDiagnosis]:
    selected = {process.pid for process in selection.processes()}
    return [found for found in kin.diagnose_zombies(tree) if found.zombie.pid in selected]


def _zombie_facts(found: kin.ZombieDiagnosis) -> dict[str, Any]:
    return {
        "pid": found.zombie.pid,
        "name": encodable(found.zombie.name),
        "reaper": None if found.reaper is None else found.reaper.pid,
        "cause": found.cause.value,
        "why": encodable(found.why),
        "cures": [
            {key: encodable(text) for key, text in cure._asdict().items()} for cure in found.cures
        ],
        "advice": encodable(found.advice),
    }


def _show_zombies(tree: kin.ProcessTree, selection: _Selection, as_json: bool) -> None:
    found = _diagnoses(tree, selection)
    if as_json:
        facts = {"command": "tree", "version": SCHEMA_VERSION, "unreadable": tree.unreadable}
        emit({**facts, "zombies": [_zombie_facts(each) for each in found]}, to_stderr=False)
        return
    alike: dict[tuple[int | None, str], list[kin.ZombieDiagnosis]] = {}
    for each in found:
        reaper = None if each.reaper is None else each.reaper.pid
        alike.setdefault((reaper, each.why), []).append(each)
    lines = [line for group in alike.values() for line in (*_explained(group), "")]
    lines.append(
        "A signal to a zombie does nothing: it is dead, and waits only to be collected."
        if found
        else "no zombies"
    )
    shown = "".join(f"{failures.printable(line)}\n" for line in lines)
    print_bytes(shown.encode(charset(), "backslashreplace"))


def _explained(group: list[kin.ZombieDiagnosis]) -> Iterator[str]:
    """Zombies that the same process has to collect, and does not for the same reason."""
    first = group[0]
    for zombie in (each.zombie for each in group[:_NAMED]):
        owner = process_columns.COLUMNS["user"].text(zombie)
        age = age_of(zombie.age)
        yield f"zombie {zombie.pid} ({zombie.name}) of {owner}, started {age} ago"
    if len(group) > _NAMED:
        yield f"and {len(group) - _NAMED} more of the same parent"
    if first.reaper is not None:
        yield f"  who must reap: process {first.reaper.pid}: {first.reaper.command[:_EXCERPT]}"
    yield f"  why it has not: {first.why}"
    for cure in first.cures:
        needs = f" (as {cure.needs})" if cure.needs else ""
        yield f"  type: {cure.command}{needs}"
        yield f"        {cure.effect}" + (f"; {cure.caution}" if cure.caution else "")
    if first.advice:
        yield f"  advice: {first.advice}"


#: How many zombies of one parent are named, and how much of a command line.
_NAMED = 10
_EXCERPT = 120
