"""The program that puts one claim to the test: ``python -m kinfolk.bench.claims.trial NAME``; its
verdict is a line of JSON.

In a process of its own, as every case: one claim is about a parent with much memory, another one
about lost signals.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import msgspec

from kinfolk.bench.cases import Failure
from kinfolk.bench.claims import (
    buffers,
    copies,
    datagrams,
    forking,
    racing,
    relatives,
    signalling,
    sockets,
)
from kinfolk.bench.claims.claim import Claim, Found
from kinfolk.bench.performing import reported
from kinfolk.bench.results import Verdict

#: The program; a test has others.
TRIAL = (sys.executable, "-P", "-m", "kinfolk.bench.claims.trial")

#: Seconds that a claim may say nothing, at least: it measures several things, and speaks at the
#: end.
CLAIM_PATIENCE = 60.0

#: In the order of the source's summary, then those on its way.
CLAIMS: tuple[Claim, ...] = (
    *buffers.CLAIMS,
    *copies.CLAIMS,
    *racing.CLAIMS[:1],
    *sockets.CLAIMS,
    *racing.CLAIMS[1:],
    *signalling.CLAIMS,
    *relatives.CLAIMS,
    *datagrams.CLAIMS,
    *forking.CLAIMS,
)


def verdict_of(claim: Claim, timeout: float, program: Sequence[str] = TRIAL) -> Verdict:
    """Put one to the test. One that fails, or says nothing for so many seconds, is not measured,
    and says why.
    """
    with tempfile.TemporaryDirectory(prefix="kfb") as directory:
        report = reported([*program, claim.name], directory, timeout)
    if isinstance(report, Failure):
        return claim.verdict(Found("not measured", report.text, {}))
    return msgspec.json.decode(report, type=Verdict)


def _tested(claim: Claim) -> Verdict:
    try:
        return claim.verdict(claim.test())
    except Exception as error:  # a system that lacks something, or forbids it
        traceback.print_exc()
        return claim.verdict(Found("not measured", f"{type(error).__name__}: {error}", {}))


def main() -> int:
    """Test the claim that is named."""
    (claim,) = [claim for claim in CLAIMS if claim.name == sys.argv[1]]
    line = os.dup(1)
    os.dup2(2, 1)
    os.write(line, msgspec.json.encode(_tested(claim)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
