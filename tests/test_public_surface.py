"""The public names of kinfolk and their signatures, held against tests/public_surface.txt.

A change of the public surface is a decision: it shows up in the diff of that list, and belongs in
CHANGELOG.md. After a wanted change, write the list anew with

    .venv/bin/python tests/test_public_surface.py --write
"""

from __future__ import annotations

import ast
import difflib
import enum
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinfolk

LIST = Path(__file__).with_name("public_surface.txt")
COMMAND = ".venv/bin/python tests/test_public_surface.py --write"
OPERATORS = {  # the dunder methods that a user of a class sees
    f"__{name}__"
    for name in (
        *("call", "enter", "exit", "aenter", "aexit", "iter", "next", "aiter", "anext", "await"),
        *("len", "getitem", "setitem", "contains", "bool", "int", "buffer"),
    )
}


def test_public_names_are_the_list():
    actual = list(surface())
    listed = LIST.read_text(encoding="utf-8").splitlines() if LIST.exists() else []
    if actual != listed:
        changes = difflib.unified_diff(listed, actual, LIST.name, "kinfolk", n=0, lineterm="")
        pytest.fail(
            f"the public surface is not what the list says; if that is meant, run {COMMAND} and "
            "name the change in CHANGELOG.md:\n" + "\n".join(changes),
            pytrace=False,
        )


def test_all_is_sorted_and_complete():
    assert sorted(set(kinfolk.__all__)) == sorted(kinfolk.__all__), "a name stands twice"
    missing = [name for name in kinfolk.__all__ if not hasattr(kinfolk, name)]
    assert not missing, f"__all__ names what is not there: {missing}"
    extra = [
        name
        for name, value in vars(kinfolk).items()
        if not name.startswith("_")
        and name not in kinfolk.__all__
        and not inspect.ismodule(value)
        and name not in ("annotations", "TYPE_CHECKING")
    ]
    assert not extra, f"public by accident; add to __all__ or begin with an underscore: {extra}"


def test_each_name_is_loaded_from_where_type_checkers_see_it():
    code = ast.parse(Path(kinfolk.__file__).read_text(encoding="utf-8"))
    seen = {
        name.name: f"{node.module}.{name.name}" if node.module == "kinfolk" else node.module
        for node in ast.walk(code)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kinfolk")
        for name in node.names
        if not (name.asname or name.name).startswith("_")
    }
    assert seen == kinfolk._HOME
    assert sorted(seen) == sorted(kinfolk.__all__)


def test_importing_the_package_loads_none_of_its_rooms():
    code = "import sys, kinfolk; print([m for m in sys.modules if m.startswith('kinfolk.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "['kinfolk.exit_hooks']"
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        kinfolk.no_such_name  # noqa: B018


def test_everything_public_is_documented():
    packages = [kinfolk, *(value for _, value in inspect.getmembers(kinfolk, _is_public_package))]
    missing = [
        f"{package.__name__}.{name}"
        for package in packages
        for name in package.__all__
        if callable(getattr(package, name)) and not inspect.getdoc(getattr(package, name))
    ]
    assert not missing, f"without a docstring: {missing}"


def _is_public_package(value: object) -> bool:
    return inspect.ismodule(value) and value.__name__.removeprefix("kinfolk.") in kinfolk.__all__


def test_a_change_is_seen():
    """Negative control: an argument more on one public class or function changes the list."""

    class Example:
        def send(self, message, *, timeout=None):
            """Send."""

    class Changed:
        def send(self, message):
            """Send."""

    before = list(_describe("Example", Example))
    assert before == ["Example: class", "Example.send(message, *, timeout=None)"]
    assert list(_describe("Example", Changed)) != before


# -------------------------------------------------------------------------------- describing it


def surface() -> Iterator[str]:
    """Line by line, sorted by name, the members of a class below it."""
    for name in sorted(kinfolk.__all__):
        yield from _describe(name, getattr(kinfolk, name))


def _describe(name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value):
        inside = [base.__name__ for base in value.__bases__ if base is not object]
        yield f"{name}: class" + (f" of {', '.join(inside)}" if inside else "")
        if issubclass(value, enum.Enum):
            yield from (
                f"{name}.{member} = {value[member].value!r}" for member in value.__members__
            )
            return
        yield from _members(name, value)
    elif inspect.ismodule(value):
        yield f"{name}: package"
        for inner in sorted(value.__all__):
            yield from _describe(f"{name}.{inner}", getattr(value, inner))
    elif callable(value):
        yield f"{name}{_signature(value)}"
    elif name.startswith("__"):
        yield f"{name}: {type(value).__name__}"
    else:
        yield f"{name}: {type(value).__name__} = {value!r}"


def _members(name: str, cls: type) -> Iterator[str]:
    """Public members that kinfolk itself defines, inherited ones too."""
    found = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] not in ("kinfolk", __name__.partition(".")[0]):
            continue
        for member in vars(base):
            if not member.startswith("_") or member in OPERATORS:
                found[member] = inspect.getattr_static(base, member)
    if "__init__" in vars(cls) and not issubclass(cls, BaseException):
        yield f"{name}{_signature(vars(cls)['__init__'], drop_first=True)}"
    for member, value in sorted(found.items()):
        if isinstance(value, classmethod | staticmethod):
            kind = type(value).__name__
            drop = isinstance(value, classmethod)
            yield f"{name}.{member}{_signature(value.__func__, drop_first=drop)}: {kind}"
        elif inspect.isroutine(value):
            yield f"{name}.{member}{_signature(value, drop_first=True)}"
        elif isinstance(value, property):
            yield f"{name}.{member}: property"
        else:
            yield f"{name}.{member}: attribute"


def _signature(function: object, *, drop_first: bool = False) -> str:
    """Names, kinds and defaults of the arguments; annotations are mypy's business."""
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(…)"
    parameters = list(signature.parameters.values())[1 if drop_first else 0 :]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(f"usage: {COMMAND}")
    LIST.write_text("".join(line + "\n" for line in surface()), encoding="utf-8")
