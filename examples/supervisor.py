"""Three workers and who watches over them: one that crashes is started anew, and none outlives the supervisor.

    python examples/supervisor.py

Each worker adds up its share of the numbers below 3,000,000. The second one is killed in its first life, as if memory had run out.
However the supervisor ends, by Ctrl-C or by SIGKILL, the workers end with it: nothing here has to see to that.
"""

from __future__ import annotations

import os
import signal

import kinfolk as kin

WORKERS = 3
MOST_LIVES = 3
SHARE = 1_000_000


def work(number: int, life: int, results: kin.Sender) -> None:
    """What runs in a worker's process."""
    if number == 2 and life == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    first = (number - 1) * SHARE
    results.send(sum(range(first, first + SHARE)))


def main() -> None:
    receiver, sender = kin.channel("pipe:")
    running: dict[kin.Process, tuple[int, int]] = {}

    def start(number: int, life: int) -> None:
        # An end that is passed moves to the child; the clone leaves one here, for the next.
        process = kin.spawn(work, number, life, sender.clone())
        running[process] = number, life

    for number in range(1, WORKERS + 1):
        start(number, life=1)
    while running:
        process = kin.wait_any(running)
        number, life = running.pop(process)
        print(f"worker {number}, life {life}: {process.status}", flush=True)
        if process.wait().success:
            continue
        if life == MOST_LIVES:
            print(f"worker {number} is given up", flush=True)
            kin.exit(process.wait())
        start(number, life + 1)
    sender.close()  # the last one, so the channel ends
    print("the sum is", sum(receiver))


if __name__ == "__main__":
    main()
