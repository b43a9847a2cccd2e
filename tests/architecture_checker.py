"""Holds a source tree to tests/architecture_table.py. The tests are in test_architecture.py.

Theory of operation: every Python file becomes a module name relative to the package (`errors`,
`channels.pipe`, the package itself is ``""``). Its imports are read from the syntax tree, never by
importing, and each becomes an `Import`. A module's place is (floor, house, step); two places
decide whether an import is allowed. Everything that breaks a rule becomes one sentence that names
the line, the rule and the remedy.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests import architecture_table as table

TOP = len(table.FLOORS)  # the floor of kinfolk itself and of __main__
PROGRAMS = TOP - 1
CODE_SUFFIXES = (".py", ".pyi", ".c", ".h")


class Place(NamedTuple):
    floor: int
    house: str
    step: int  # -1: this house has no steps


@dataclass(frozen=True)
class Import:
    line: int
    target: str  # a module of the package ("" is the package), or a top-level outside name
    name: str  # what is taken from it, or ""
    inside: bool  # of kinfolk, not from outside
    in_function: bool
    type_only: bool
    condition: str  # "", or how it depends on the machine


def place_of(module: str) -> Place | None:
    """Where `module` stands, or None if the table does not know it."""
    if module in ("", "__main__"):
        return Place(TOP, "the top", 0 if module == "" else 1)
    head, _, rest = module.partition(".")
    for floor, houses in enumerate(table.FLOORS):
        for house in houses:
            own = head == house.name
            if house.is_package and own:
                return _place_in_package(floor, house, rest)
            if not house.is_package and not house.steps and own and not rest:
                return Place(floor, house.name, -1)
            if not house.is_package and house.steps:
                for step, names in enumerate(house.steps):
                    if not rest and head in names.split():
                        return Place(floor, house.name, step)
    return None


def _place_in_package(floor: int, house: table.House, rest: str) -> Place | None:
    if not house.steps:
        return Place(floor, house.name, -1)
    if not rest:  # the package's __init__
        return Place(floor, house.name, len(house.steps))
    for step, names in enumerate(house.steps):
        if rest in names.split() or rest.partition(".")[0] + "/" in names.split():
            return Place(floor, house.name, step)
    return None


def check_tree(package: Path, native: Path | None = None) -> list[str]:
    """Every broken rule, a sentence each; `package` is the directory of kinfolk itself."""
    files = {
        _module_name(path.relative_to(package)): path
        for pattern in ("*.py", "*.pyi")
        for path in sorted(package.rglob(pattern))
    }
    problems: list[str] = []
    graph: dict[str, dict[str, int]] = {}
    for module, path in files.items():
        shown = f"{package.name}/{path.relative_to(package)}"
        problems += _check_name_and_place(module, path, shown)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            problems.append(f"{shown}:{error.lineno}: does not parse: {error.msg}.")
            continue
        problems += _check_calls(tree, module, shown)
        imports = list(_imports(tree, module, path.name == "__init__.py", files))
        graph[module] = {}
        for one in imports:
            problems += _check_import(one, module, shown, files)
            if one.inside and one.target != module and not _is_public_use(one, module):
                graph[module].setdefault(one.target, one.line)
    problems += _check_cycles(graph)
    for root in [package, *([native] if native is not None else [])]:
        problems += _check_lengths(root)
    if native is not None:
        problems += _check_native(native)
    return list(dict.fromkeys(problems))  # a line that imports three names is one problem


def _module_name(relative: Path) -> str:
    parts = list(relative.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _house_of(module: str) -> str:
    place = place_of(module)
    return place.house if place else module.partition(".")[0]


def _is_public_use(one: Import, module: str) -> bool:
    """Programs use the public names; that is no cycle, for kinfolk never imports programs."""
    place = place_of(module)
    return one.target == "" and place is not None and place.floor == PROGRAMS


# ------------------------------------------------------------------------------- reading imports


def _imports(
    tree: ast.Module, module: str, is_package: bool, files: Mapping[str, Path]
) -> Iterator[Import]:
    def walk(node: ast.AST, in_function: bool, type_only: bool, condition: str) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for inside, target, name in _targets(node, module, is_package, files):
                yield Import(node.lineno, target, name, inside, in_function, type_only, condition)
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for child in ast.iter_child_nodes(node):
                yield from walk(child, True, type_only, condition)
            return
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            typing = test in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            harmless = typing or in_function or "sys.version_info" in test
            for child in node.body:
                yield from walk(
                    child,
                    in_function,
                    type_only or typing,
                    condition if harmless else f"if {test}",
                )
            for child in node.orelse:
                yield from walk(
                    child, in_function, type_only, condition if harmless else f"if {test}"
                )
            return
        if isinstance(node, ast.Try) and any(map(_swallows_import_error, node.handlers)):
            for child in node.body:
                yield from walk(child, in_function, type_only, "try/except")
            for later in (*node.handlers, *node.orelse, *node.finalbody):
                yield from walk(later, in_function, type_only, condition or "try/except")
            return
        if isinstance(node, ast.With) and any(
            re.search(r"suppress\(.*(ImportError|ModuleNotFound|Exception)", ast.unparse(item))
            for item in node.items
        ):
            condition = "suppress"
        for child in ast.iter_child_nodes(node):
            yield from walk(child, in_function, type_only, condition)

    yield from walk(tree, False, False, "")


def _swallows_import_error(handler: ast.ExceptHandler) -> bool:
    """Whether a failed import ends here in silence: a handler that raises again is not meant."""
    if isinstance(handler.body[-1], ast.Raise):
        return False
    caught = "" if handler.type is None else ast.unparse(handler.type)
    return not caught or bool(
        re.search(r"\b(ImportError|ModuleNotFoundError|Exception|BaseException)\b", caught)
    )


def _targets(
    node: ast.Import | ast.ImportFrom, module: str, is_package: bool, files: Mapping[str, Path]
) -> Iterator[tuple[bool, str, str]]:
    """(inside?, target, name) for each name that `node` imports."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            head, _, rest = alias.name.partition(".")
            yield (True, rest, "") if head == "kinfolk" else (False, head, "")
        return
    if node.level:  # relative: ruff forbids it; resolved all the same
        package = module.split(".") if module else []
        up = node.level - 1 if is_package else node.level
        base = [*package[: len(package) - up], *(node.module or "").split(".")]
        full = ".".join(part for part in ["kinfolk", *base] if part)
    else:
        full = node.module or ""
    head, _, rest = full.partition(".")
    for alias in node.names:
        if head != "kinfolk":
            yield False, head, alias.name
            continue
        submodule = f"{rest}.{alias.name}" if rest else alias.name
        yield (True, submodule, "") if submodule in files else (True, rest, alias.name)


# --------------------------------------------------------------------------------------- the rules


def _check_name_and_place(module: str, path: Path, shown: str) -> list[str]:
    problems = []
    vague = [part for part in module.split(".") if part.strip("_") in table.FORBIDDEN_NAMES]
    if vague:
        problems.append(
            f"{shown}: a module named {vague[0]!r} says nothing of what is in it. "
            "Name it after the one concept it holds."
        )
    if place_of(module) is None:
        problems.append(
            f"{shown}: the table of floors does not know this module. Decide what it stands on, "
            "and name it in tests/architecture_table.py."
        )
    return problems


def _check_import(one: Import, module: str, shown: str, files: Mapping[str, Path]) -> Iterator[str]:
    where = f"{shown}:{one.line}"
    if one.name == "*":
        yield f"{where}: star import of {one.target or 'kinfolk'}. Name what you import."
    if one.condition and (module, one.target) not in table.CONDITIONAL_IMPORTS:
        yield (
            f"{where}: {one.target} is imported under a condition ({one.condition}), which drops "
            "a feature in silence. Import it plainly; if it really depends on the machine, say "
            "why in CONDITIONAL_IMPORTS of tests/architecture_table.py."
        )
    if one.inside:
        yield from _check_inside(one, module, where, files)
    else:
        yield from _check_outside(one, module, where)


def _check_inside(one: Import, module: str, where: str, files: Mapping[str, Path]) -> Iterator[str]:
    target = one.target or "kinfolk"
    compiled = one.target == "_native"
    if one.target not in files and not compiled:
        yield f"{where}: there is no module {target}. Correct the name."
        return
    here, there = place_of(module), place_of(one.target)
    if here is None or there is None or one.target == module:
        return  # the missing place is reported once, at its own file
    if here.house in table.FRONT_ENDS:
        allowed = (here.house, *table.FRONT_ENDS[here.house])
        if one.target and there.house not in allowed:
            yield (
                f"{where}: {here.house} is a front end and imports {target}. Use the public "
                "names alone (`import kinfolk as kin`); if one is missing, it is missing for "
                "every user: add it to kinfolk/__init__.py."
            )
        return
    if one.target == "":
        if here.floor < PROGRAMS:
            yield (
                f"{where}: {module} (floor {here.floor}) imports kinfolk itself, which stands "
                "above it. Import the module that defines the name."
            )
        return
    if here.floor == TOP:
        if module == "" and there.floor >= PROGRAMS:
            yield (
                f"{where}: kinfolk/__init__.py imports {target}, a program that stands on the "
                "public names. Leave it out."
            )
        return
    if there.floor > here.floor:
        yield (
            f"{where}: {module} (floor {here.floor}) imports {target} (floor {there.floor}): "
            "upward. Move what is needed down, or hand it in as an argument."
        )
    elif there.floor == here.floor and there.house != here.house:
        yield (
            f"{where}: {module} imports {target}; both stand on floor {here.floor}, in houses of "
            "their own. Move what both need to a lower floor."
        )
    elif there.floor == here.floor and here.step >= 0 and there.step >= here.step:
        how = "on the same step" if there.step == here.step else "on a higher step"
        yield (
            f"{where}: {module} imports {target}, which stands {how} of {here.house}. Move what "
            "both need to a lower step, or correct the order in tests/architecture_table.py."
        )
    elif here.step < 0 and there.house == here.house == one.target and module != one.target:
        yield (
            f"{where}: {module} imports its own package {target}, which stands on top of it. "
            "Import the module that defines the name."
        )


def _check_outside(one: Import, module: str, where: str) -> Iterator[str]:
    if one.target in sys.stdlib_module_names:
        return
    if one.target not in table.THIRD_PARTY:
        yield (
            f"{where}: {one.target} is no dependency of kinfolk. Do without it, or add it to "
            "pyproject.toml, docs/design/dependencies.md and THIRD_PARTY of "
            "tests/architecture_table.py."
        )
        return
    houses = table.THIRD_PARTY[one.target]
    if houses and _house_of(module) not in houses:
        yield (
            f"{where}: {one.target} is for {', '.join(houses)} only. Keep it out of {module}, or "
            "widen THIRD_PARTY in tests/architecture_table.py and say why."
        )
    if one.target in table.OPTIONAL and not (one.in_function or one.type_only):
        yield (
            f"{where}: {one.target} is optional, and this import makes it needed. Import it "
            "inside the function that needs it."
        )


def _check_calls(tree: ast.Module, module: str, shown: str) -> Iterator[str]:
    """Imports by name, and front ends that reach for a private part as an attribute."""
    house = _house_of(module)
    tops = {house for floor in table.FLOORS for house in _module_heads(floor)}
    tops -= set(table.PUBLIC_PACKAGES)
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "kinfolk"
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and re.fullmatch(r"(importlib\.)?import_module|__import__", ast.unparse(node.func))
            and module not in table.DYNAMIC_IMPORTS
        ):
            yield (
                f"{shown}:{node.lineno}: imports by a name that is known only when it runs, which "
                "no test of the floors can see. Import plainly; if that can't be, say why in "
                "DYNAMIC_IMPORTS of tests/architecture_table.py."
            )
        if (
            house in table.FRONT_ENDS
            and isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in aliases
            and (node.attr in tops or node.attr.startswith("_"))
            and not node.attr.startswith("__")
        ):
            yield (
                f"{shown}:{node.lineno}: {house} is a front end and reaches for "
                f"kinfolk.{node.attr}, which is a private part. Use the public names alone."
            )


def _module_heads(floor: tuple[table.House, ...]) -> Iterator[str]:
    for house in floor:
        if house.is_package or not house.steps:
            # A package and a public function may share a name (signals, bench): not seen here.
            yield house.name
        else:
            yield from " ".join(house.steps).split()


def _check_cycles(graph: Mapping[str, Mapping[str, int]]) -> list[str]:
    """One sentence for each import that closes a circle (depth first, white-grey-black)."""
    problems: list[str] = []
    state: dict[str, str] = {}

    def visit(module: str, path: list[str]) -> None:
        state[module] = "open"
        for target, line in graph.get(module, {}).items():
            if state.get(target) == "open":
                circle = [*path[path.index(target) :], target]
                problems.append(
                    f"{module or 'kinfolk'}, line {line}: closes a circle of imports: "
                    f"{' → '.join(name or 'kinfolk' for name in circle)}. Move what two of them "
                    "share into a module below both."
                )
            elif target not in state:
                visit(target, [*path, target])
        state[module] = "done"

    for module in graph:
        if module not in state:
            visit(module, [module])
    return problems


def _check_lengths(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*")):
        if path.suffix in CODE_SUFFIXES:
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > table.MAXIMAL_LINES:
                yield (
                    f"{root.name}/{path.relative_to(root)}: {count} lines, and "
                    f"{table.MAXIMAL_LINES} is the limit. It holds two concepts: split it."
                )


def _check_native(native: Path) -> Iterator[str]:
    """Only module.c and the *_binding files may know Python, directly or through a header."""
    for path in sorted([*native.rglob("*.c"), *native.rglob("*.h")]):
        if path.stem == "module" or path.stem.endswith("_binding"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            match = re.match(r'\s*#\s*include\s*[<"]([^">]+)[">]', line)
            if match and (
                match[1].rsplit("/", maxsplit=1)[-1] == "Python.h"
                or match[1].endswith("_binding.h")
            ):
                yield (
                    f"native/{path.relative_to(native)}:{number}: includes {match[1]}. Algorithms "
                    "do without Python, so that C programs, sanitizers and the model checker can "
                    "use them. Move what touches Python objects to a *_binding.c."
                )
