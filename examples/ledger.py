"""A ledger in shared memory: clerks move money between accounts, one of them is killed in the middle, and none is lost.

    python examples/ledger.py

A mutex that survives its holder is half of it. The other half is that the next holder can tell what was half done: so what is
about to change is written down before, and crossed out after.
"""

from __future__ import annotations

import os
import random
import signal

import kinfolk as kin

ACCOUNTS, START, TURNS = 8, 1000, 2000

#: What stands in the memory, behind the mutex: as it was before the change that is being made, if one is.
NOTE = {"busy": "q", "one": "q", "other": "q", "was_one": "q", "was_other": "q", "repairs": "q"}
NOTE_AT, MONEY_AT = kin.Mutex.SIZE, 2 * kin.Mutex.SIZE


class Ledger:
    """The accounts, as one process has them open."""

    def __init__(self, memory: kin.SharedMemory) -> None:
        self.mutex = kin.Mutex.inside(memory)
        self.note = memory.struct(NOTE, NOTE_AT)
        self.money = memory.array(ACCOUNTS, "q", MONEY_AT)

    def transfer(self, one: int, other: int, amount: int, *, die: bool = False) -> None:
        """Move an amount from one account to another one; ``die`` in the middle of it."""
        with self.mutex as held:
            if held.owner_died:
                self.repair()
            self.note.one, self.note.was_one = one, self.money[one]
            self.note.other, self.note.was_other = other, self.money[other]
            self.note.busy = 1
            self.money[one] -= amount
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
            self.money[other] += amount
            self.note.busy = 0

    def repair(self) -> None:
        """Put back what somebody was changing when he died. If this one dies as well, the next one does it again."""
        if self.note.busy:
            self.money[self.note.one] = self.note.was_one
            self.money[self.note.other] = self.note.was_other
            self.note.repairs += 1
            self.note.busy = 0


def clerk(memory: kin.SharedMemory, unlucky: bool) -> None:
    """What runs in a clerk's process."""
    ledger = Ledger(memory)
    for turn in range(TURNS):
        one, other = random.sample(range(ACCOUNTS), 2)
        ledger.transfer(one, other, random.randint(1, 100), die=unlucky and turn == TURNS // 2)


def main() -> None:
    with kin.SharedMemory.create(size=4096) as memory:
        ledger = Ledger(memory)
        ledger.money[:] = START
        clerks = [kin.spawn(clerk, memory, number == 2) for number in range(1, 5)]
        for number, process in enumerate(clerks, 1):
            print(f"clerk {number}: {process.wait()}")
        with ledger.mutex as held:
            if held.owner_died:
                ledger.repair()
            total, repairs = sum(ledger.money.tolist()), ledger.note.repairs
        print(f"there are {total} of {ACCOUNTS * START}, after {repairs} repair")


if __name__ == "__main__":
    main()
