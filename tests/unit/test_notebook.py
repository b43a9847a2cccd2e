"""In a notebook: cells, each compiled by itself, run in a dict that is ``__main__``'s, inside of a running asyncio loop.

What ipykernel does, as far as a start can see it, without it: no file stands behind ``__main__``, its source is in linecache alone, and
standard output has no descriptor.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.peers import HANG

KERNEL = '''
import ast, asyncio, inspect, io, linecache, sys, types

class Shown(io.TextIOBase):
    """What is printed goes to the browser."""
    def __init__(self):
        self.text = ""
    def write(self, text):
        self.text += text
        return len(text)

async def run(cells):
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    browser, sys.stdout = sys.stdout, Shown()
    for number, cell in enumerate(cells):
        name = f"<ipython-input-{number}>"
        linecache.cache[name] = len(cell), None, cell.splitlines(True), name
        code = compile(cell, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, vars(main))
        if inspect.iscoroutine(result):
            await result
    shown, sys.stdout = sys.stdout, browser
    print(shown.text, end="")

asyncio.run(run(open(sys.argv[1]).read().split("# %%\\n")))
'''

BEGIN = """\
import dataclasses
import kinfolk as kin

receiver, sender = kin.channel("pipe:")

def started(function, *arguments):
    with kin.spawn(function, *arguments, containment=CONTAINMENT) as process:
        process.wait(40)
    return receiver.recv(timeout=0)
# %%
"""

# Cells, and what they print.
NOTEBOOKS = {
    "a function that uses others, and what other cells have set": (
        """\
factor = 3
def times(n):
    return n * factor
# %%
def work(out, n):
    out.send(times(n))
# %%
print(started(work, sender.clone(), 14))
""",
        "42\n",
    ),
    "a cell that is run again": (
        """\
def work(out):
    out.send("before")
# %%
print(started(work, sender.clone()))
# %%
def work(out):
    out.send("after")
# %%
print(started(work, sender.clone()))
""",
        "before\nafter\n",
    ),
    "a class of the notebook's own, there and back": (
        """\
@dataclasses.dataclass
class Point:
    x: int
    def mirrored(self):
        return Point(-self.x)
# %%
back = started(lambda out, point: out.send(vars(point.mirrored())), sender.clone(), Point(7))
print(back)
""",
        "{'x': -7}\n",
    ),
    "a cell that awaits": (
        """\
async def waits(out):
    process = await kin.aspawn(lambda out: out.send(6), out, containment=CONTAINMENT)
    return await process
# %%
print(await waits(sender.clone()), await receiver.arecv(timeout=40))
""",
        "exited 0 6\n",
    ),
    "a traceback with the lines of the cell": (
        """\
def fails():
    raise KeyError("of the cell")
# %%
with kin.spawn(fails, stderr=kin.Redirect.PIPE, text=True, containment=CONTAINMENT) as process:
    said = process.stderr.read()
    print(process.wait(40), "in fails" in said, "<ipython-input-" in said, said.splitlines()[-1])
""",
        "exited 1 True True KeyError: 'of the cell'\n",
    ),
}


@pytest.mark.parametrize(
    ("notebook", "containment"),
    [*((each, "keeper") for each in NOTEBOOKS), (next(iter(NOTEBOOKS)), "direct")],
)
def test_cells(notebook: str, containment: str, tmp_path: Path) -> None:
    cells, shown = NOTEBOOKS[notebook]
    source = tmp_path / "cells.py"
    source.write_text(f"CONTAINMENT = {containment!r}\n{BEGIN}{cells}")
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, str(source)],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")
