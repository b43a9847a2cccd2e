"""The floors hold: imports run strictly downward, and no file is two concepts.

The table is tests/architecture_table.py, the rules are there too; the checker is
tests/architecture_checker.py. The second half of this file are negative controls: trees that
break one rule each, which the checker has to report.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests import architecture_table as table
from tests.architecture_checker import check_tree, place_of

ROOT = Path(__file__).parent.parent


def test_the_source_keeps_the_floors():
    problems = check_tree(ROOT / "src" / "kinfolk", ROOT / "native")
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def test_third_party_table_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {line.split(">")[0] for line in project["dependencies"]}
    assert set(table.THIRD_PARTY) - set(table.OPTIONAL) == declared
    extras = project["optional-dependencies"].values()
    assert set(table.OPTIONAL.values()) == {
        line.split(">")[0] for extra in extras for line in extra
    }


def test_pinned_tools_cover_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    asked = [*project["project"]["dependencies"], *groups["test"], *groups["check"]]
    asked += [*groups["build"], *project["build-system"]["requires"]]
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert {line.split(">")[0].lower() for line in asked} <= pinned


# ------------------------------------------------------------------------------ negative controls


@pytest.fixture
def problems_of(tmp_path):
    """Writes a tree of files and gives what the checker says about it."""

    def build(files: dict[str, str]) -> list[str]:
        package, native = tmp_path / "kinfolk", tmp_path / "native"
        package.mkdir()
        native.mkdir()
        for name, text in {"__init__.py": "", **files}.items():
            path = (tmp_path if name.startswith("native/") else package) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return check_tree(package, native)

    return build


def test_a_clean_tree_passes(problems_of):
    assert (
        problems_of(
            {
                "__init__.py": "from kinfolk.channels import channel\n",
                "__main__.py": "from kinfolk.cli.main import main\n",
                "errors.py": "import os\n",
                "deadlines.py": "from kinfolk.errors import Timeout\n",
                "waiting.py": "from kinfolk import errors, deadlines\n",
                "channels/__init__.py": "from kinfolk.channels.opening import channel\n",
                "channels/opening.py": "from kinfolk.channels.pipe import Pipe\n",
                "channels/pipe.py": "import sys\nimport posix_ipc\nfrom kinfolk import _native\n",
                "_native.pyi": "",
                "memory/arrays.py": (
                    "def f():\n    try:\n        import numpy\n"
                    "    except ImportError:\n        raise TypeError from None\n"
                ),
                "processes/__init__.py": "from kinfolk.processes.spawn import spawn\n",
                "processes/spawn.py": "import kinfolk.processes.status\nimport msgspec\n",
                "processes/status.py": (
                    "import sys\n"
                    "from typing import TYPE_CHECKING\n"
                    "if TYPE_CHECKING:\n    import numpy\n"
                    "if sys.version_info >= (3, 12):\n    from typing import override\n"
                ),
                "tour/__init__.py": "import kinfolk as kin\nfrom kinfolk.errors import Timeout\n",
                "cli/main.py": (
                    "import click\nimport kinfolk as kin\nfrom kinfolk.cli import tour\n"
                    "from kinfolk import channel\nprint(kin.channel, kin.__version__)\n"
                ),
                "cli/tour.py": "import kinfolk.tour\n",
                "native/ring.c": '#include <stdint.h>\n#include "ring.h"\n',
                "native/ring.h": "#pragma once\n",
                "native/ring_binding.c": "#include <Python.h>\n",
                "native/module.c": "#include <Python.h>\n",
            }
        )
        == []
    )


CHANNEL_STEPS = {"channels/pipe.py": "", "channels/fifo.py": "", "channels/contract.py": ""}

VIOLATIONS = {
    "upward": (
        {"errors.py": "import os\nfrom kinfolk.deadlines import Deadline\n", "deadlines.py": ""},
        "kinfolk/errors.py:2: errors (floor 0) imports deadlines (floor 1): upward",
    ),
    "upward inside a function": (
        {"errors.py": "def f():\n    import kinfolk.deadlines\n", "deadlines.py": ""},
        "kinfolk/errors.py:2: errors (floor 0) imports deadlines (floor 1): upward",
    ),
    "upward for types only": (
        {
            "errors.py": (
                "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import kinfolk.signals\n"
            ),
            "signals.py": "",
        },
        "kinfolk/errors.py:3: errors (floor 0) imports signals (floor 2): upward",
    ),
    "upward, relative": (
        {"processes/spawn.py": "from ..channels import pipe\n", "channels/pipe.py": ""},
        "kinfolk/processes/spawn.py:1: processes.spawn (floor 2) imports channels.pipe (floor 3)",
    ),
    "another house of the same floor": (
        {"signals.py": "from kinfolk.sync import mutex\n", "sync/mutex.py": ""},
        "signals imports sync.mutex; both stand on floor 2, in houses of their own",
    ),
    "a higher step of floor 1": (
        {"identity.py": "import kinfolk.waiting\n", "waiting.py": ""},
        "identity imports waiting, which stands on a higher step of ground",
    ),
    "sibling mechanisms": (
        {**CHANNEL_STEPS, "channels/pipe.py": "from kinfolk.channels import fifo\n"},
        "channels.pipe imports channels.fifo, which stands on the same step of channels",
    ),
    "a higher step of channels": (
        {**CHANNEL_STEPS, "channels/contract.py": "from kinfolk.channels.pipe import Pipe\n"},
        "channels.contract imports channels.pipe, which stands on a higher step of channels",
    ),
    "the own package": (
        {"channels/pipe.py": "from kinfolk.channels import X\n", "channels/__init__.py": ""},
        "channels.pipe imports channels, which stands on a higher step of channels",
    ),
    "the own package, without steps": (
        {"sync/mutex.py": "from kinfolk.sync import X\n", "sync/__init__.py": ""},
        "sync.mutex imports its own package sync, which stands on top of it",
    ),
    "kinfolk itself from below": (
        {"signals.py": "import kinfolk as kin\n"},
        "signals (floor 2) imports kinfolk itself",
    ),
    "kinfolk imports a program": (
        {"__init__.py": "from kinfolk.cli import main\n", "cli/main.py": ""},
        "kinfolk/__init__.py imports cli.main, a program",
    ),
    "a front end imports a part": (
        {"cli/send.py": "from kinfolk.errors import Timeout\n", "errors.py": ""},
        "kinfolk/cli/send.py:1: cli is a front end and imports errors",
    ),
    "a front end imports a part from the top": (
        {"web/page.py": "from kinfolk import errors\n", "errors.py": ""},
        "kinfolk/web/page.py:1: web is a front end and imports errors",
    ),
    "a front end reaches for a part": (
        {"cli/send.py": "import kinfolk as kin\nkin.errors.Timeout\n", "errors.py": ""},
        "kinfolk/cli/send.py:2: cli is a front end and reaches for kinfolk.errors",
    ),
    "an unknown module": (
        {"magic.py": ""},
        "kinfolk/magic.py: the table of floors does not know this module. Decide what it",
    ),
    "an unknown module in a house with steps": (
        {"channels/pigeon.py": ""},
        "kinfolk/channels/pigeon.py: the table of floors does not know this module",
    ),
    "a module that does not exist": (
        {"signals.py": "import kinfolk.sgnals\n"},
        "kinfolk/signals.py:1: there is no module sgnals",
    ),
    "a cycle inside a house": (
        {
            "sync/a.py": "import kinfolk.sync.b\n",
            "sync/b.py": "def f():\n    import kinfolk.sync.a\n",
        },
        "sync.b, line 2: closes a circle of imports: sync.a → sync.b → sync.a",
    ),
    "a name that says nothing": (
        {"processes/utils.py": ""},
        "kinfolk/processes/utils.py: a module named 'utils' says nothing",
    ),
    "a star import": (
        {"signals.py": "from kinfolk.errors import *\n", "errors.py": ""},
        "kinfolk/signals.py:1: star import of errors",
    ),
    "a conditional import": (
        {"signals.py": "try:\n    import psutil\nexcept ImportError:\n    psutil = None\n"},
        "kinfolk/signals.py:2: psutil is imported under a condition (try/except)",
    ),
    "a fallback import": (
        {"errors.py": "try:\n    pass\nexcept Exception:\n    import json\n"},
        "kinfolk/errors.py:4: json is imported under a condition (try/except)",
    ),
    "a suppressed import": (
        {
            "errors.py": "from contextlib import suppress\nwith suppress(ImportError):\n"
            "    import json\n"
        },
        "kinfolk/errors.py:3: json is imported under a condition (suppress)",
    ),
    "an import by environment": (
        {"errors.py": "import os\nif os.environ.get('X'):\n    import json\n"},
        "kinfolk/errors.py:3: json is imported under a condition (if os.environ",
    ),
    "an import by name": (
        {"errors.py": "import importlib\nimportlib.import_module('kinfolk' + '.cli')\n"},
        "kinfolk/errors.py:2: imports by a name that is known only when it runs",
    ),
    "no dependency": (
        {"errors.py": "import requests\n"},
        "kinfolk/errors.py:1: requests is no dependency of kinfolk",
    ),
    "a dependency of another house": (
        {"channels/pipe.py": "from click import echo\n"},
        "kinfolk/channels/pipe.py:1: click is for cli only",
    ),
    "an optional dependency made needed": (
        {"memory/arrays.py": "import numpy as np\n"},
        "kinfolk/memory/arrays.py:1: numpy is optional, and this import makes it needed",
    ),
    "a file too long": (
        {"errors.py": "x = 1\n" * 401},
        "kinfolk/errors.py: 401 lines, and 400 is the limit",
    ),
    "a C file too long": (
        {"native/ring.c": "\n" * 401},
        "native/ring.c: 401 lines, and 400 is the limit",
    ),
    "Python.h in an algorithm": (
        {"native/ring.c": "#include <stdint.h>\n#  include <Python.h>\n"},
        "native/ring.c:2: includes Python.h",
    ),
    "Python.h in a header": (
        {"native/ring.h": '#include "python3.11/Python.h"\n'},
        "native/ring.h:1: includes python3.11/Python.h",
    ),
    "a binding's header in an algorithm": (
        {"native/ring.c": '#include "ring_binding.h"\n'},
        "native/ring.c:1: includes ring_binding.h",
    ),
    "a syntax error": (
        {"errors.py": "x = = 1\n"},
        "kinfolk/errors.py:1: does not parse",
    ),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_the_checker_reports(case, problems_of):
    files, expected = VIOLATIONS[case]
    problems = problems_of(files)
    assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize("module", ["errors", "channels.pipe", "channels", "processes.spawn", ""])
def test_the_table_knows(module):
    assert place_of(module) is not None


def test_the_steps_of_a_house_name_no_module_twice():
    names = [
        name
        for houses in table.FLOORS
        for house in houses
        for name in (" ".join(house.steps).split() or [house.name])
        if not house.is_package
    ]
    assert len(names) == len(set(names))
    for houses in table.FLOORS:
        for house in houses:
            inside = " ".join(house.steps).split()
            assert len(inside) == len(set(inside)), house.name
