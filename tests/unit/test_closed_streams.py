"""A starter in which some of 0, 1 and 2 are closed: its children have what was asked for, and nothing else goes by those numbers."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.peers import HANG

#: Says of each start what its child has there, what was to be there, and which of the numbers are taken here.
STARTER = """
import contextlib, itertools, json, os, sys
import kinfolk as kin

out, way = sys.argv[1], json.loads(sys.argv[2])

def looks():
    found = []
    for number in range(3):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            found.append(None)
    return found

def holds(pid):
    return {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)}

def taken():
    # By what data goes through. What waits (eventfd, pidfd) does no harm there.
    changed = zip(looks(), before, strict=True)
    return [now for now, then in changed if now not in (then, None) and "anon_inode:" not in now]

def wanted(file, given, here):
    if given == kin.Redirect.PIPE:
        return os.readlink(f"/proc/self/fd/{file.fileno()}")
    return "/dev/null" if given is not None or here is None else here

before, wrong, number = looks(), [], 0
PIPE, NULL = kin.Redirect.PIPE, kin.Redirect.DEVNULL
cases = [(a, b, c) for a in (None, PIPE, NULL) for b in (None, PIPE, NULL) for c in (None, PIPE, NULL)]
for case in cases:
    number += 1
    what = ["sleep", "1000"]
    with kin.spawn(what, stdin=case[0], stdout=case[1], stderr=case[2], **way) as process:
        files = (process.stdin, process.stdout, process.stderr)
        should = {n: wanted(*each) for n, each in enumerate(zip(files, case, before))}
        if (has := holds(process.pid)) != should or taken():
            wrong.append([str(case), has, should, taken()])
        process.stop(grace=0)
with kin.popen("cat > /dev/null", "w") as file:
    if taken():
        wrong.append(["popen", taken()])
with open(out, "w") as file:
    json.dump([number, wrong], file)
"""

WAYS: list[dict[str, Any]] = [{"containment": "keeper"}, {"containment": "direct"}]
CLOSED = [closed for n in range(4) for closed in itertools.combinations(range(3), n)]


@pytest.mark.parametrize("way", WAYS, ids=["keeper", "direct"])
@pytest.mark.parametrize("closed", CLOSED, ids=lambda closed: "".join(map(str, closed)) or "none")
def test_every_stream_of_every_kind(
    tmp_path: Path, closed: tuple[int, ...], way: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-W", "ignore", "-c", STARTER, str(out), json.dumps(way)]
    shell = "exec " + '"$@"' + "".join(f" {number}>&-" for number in closed)
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    with open(tmp_path / "err", "w") as err, open(tmp_path / "in", "w+") as stdin:
        subprocess.run(
            ["sh", "-c", shell, "sh", *words],
            env=environment,
            stdin=stdin,
            stdout=err,
            stderr=err,
            timeout=HANG,
            check=False,
        )
    said = (tmp_path / "err").read_text()
    assert out.exists(), said
    number, wrong = json.loads(out.read_text())
    assert number == 27
    assert wrong == []
    assert said == ""
