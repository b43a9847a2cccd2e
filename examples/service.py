"""A service that is driven by signals, none of which is lost or interrupts anything.

    python examples/service.py FILE &      FILE is its configuration: a greeting
    kin signal $! HUP                      read FILE again
    kin signal $! RTMIN --value 42         a job; those that come meanwhile stand in line
    kin signal $! TERM                     end

The signals are blocked, and read one after the other like messages. There is no handler, so nothing runs between two steps
of something else.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import kinfolk as kin

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGRTMIN)


def main() -> None:
    file = Path(sys.argv[1])
    # First of all: threads that are started later inherit that these are blocked.
    with kin.signals.blocked(SIGNALS), kin.signals.stream(SIGNALS) as arriving:
        greeting, jobs = file.read_text().strip(), 0
        print("ready", flush=True)
        for arrived in arriving:
            if arrived.signal == signal.SIGHUP:
                greeting = file.read_text().strip()
                print(f"read again: {greeting}", flush=True)
            elif arrived.signal == signal.SIGRTMIN:
                jobs += 1
                print(f"{greeting}, job {arrived.value} of process {arrived.pid}", flush=True)
            else:
                break
    print(f"{arrived.name} after {jobs} jobs")


if __name__ == "__main__":
    main()
