"""The memory of rings whose peers were all killed: whoever opens a ring, by whatever name, removes some of it.

The next receiver at the same name would clear it; but nobody may ever come. A ring is abandoned when its presence has no member and
no copy of any end (rule 4 of `presence`). A view may keep its memory after that; it needs no name.

Rules:
1. Under the lock of the runtime directory, so that nobody joins what is being removed. Who does not get that at once leaves it to
   the next who opens.
2. A few rings are looked at, drawn at random, however many there are: so an opening takes as long with a thousand of them.
3. Only what is ours is looked at, or removed. The presence goes last: what was begun is there to be swept.
"""

from __future__ import annotations

import contextlib
import os
import random
import stat
from functools import partial

from kinfolk import runtime_directory
from kinfolk.channels import presence
from kinfolk.rendezvous import NotYet

#: Rings that are looked at in one opening; each takes some ten microseconds.
FEW = 8
_PRESENCE = os.path.basename(presence.presence_path("ring", ""))
_MEMORY = os.path.basename(presence.presence_path("memory-of-ring", ""))


def sweep(name: str) -> None:
    """Remove abandoned rings, but for the one of this name. Never raises: the caller has come for something else."""
    own = os.path.basename(presence.presence_path("ring", name))
    with contextlib.suppress(OSError, NotYet), runtime_directory.try_lock():
        directory = runtime_directory.path_name()
        files = [each for each in os.listdir(directory) if each.startswith(_PRESENCE)]
        for ring in random.sample(files, min(FEW, len(files))):
            if ring != own:  # what is no presence stays as it is
                memory = f"{directory}/{_MEMORY}{ring.removeprefix(_PRESENCE)}"
                presence.sweep(f"{directory}/{ring}", partial(_remove, memory))


def _remove(memory: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(memory)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            os.unlink(memory)
