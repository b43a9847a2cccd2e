"""What this process has printed and not yet written: it must not be written twice, nor be lost."""

from __future__ import annotations

import sys

from kinfolk.errors import from_os_error


def flush() -> None:
    """Write out what stands in the buffers of ``sys.stdout`` and ``sys.stderr``.

    A stream that is closed, or was never there (a daemon's), has nothing to write. Raises NoSpace, BrokenChannel and
    whatever else a write reports, all of them OSErrors.
    """
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        if stream is not None and not getattr(stream, "closed", False):
            try:
                stream.flush()
            except OSError as error:
                raise from_os_error(error, "what was printed can't be written", name) from error
