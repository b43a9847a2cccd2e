"""fork(2), for who sees to everything else himself: `fork` and the birth of a daemon."""

from __future__ import annotations

import os
import warnings

from kinfolk.process_limit import refused


def fork(what: str) -> int:
    """The pid of the child, 0 in the child. Raises LimitReached: ``what`` can't be done."""
    try:
        with warnings.catch_warnings():
            # Python's own of other threads (3.12), which callers look for themselves; made an error, it would come after the
            # fork and lose the child.
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork()
    except OSError as error:
        raise refused(error.errno or 0, what) from error
