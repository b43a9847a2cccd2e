"""Signals: what there are, sending, handling, blocking, waiting for them. Public as ``kinfolk.signals``.

    arrived    one that came: from whom, with what value
    mask       blocked: in this thread, for as long as a block runs
    handling   handle, ignore, default: for as long as a block runs
    receiving  wait, stream: each one counts, with its sender and its value
    sending    send: to exactly the process that is meant, or to a group

The table of signals, and what people type for one, stands floors below: `kinfolk.signal_table`.

A signal is given as people write it: 15, "TERM", "SIGTERM", signal.SIGTERM, "RTMIN+3".
"""

from kinfolk.signal_table import Entry, entry_of, name_of, number_of, table
from kinfolk.signals.arrived import Arrived
from kinfolk.signals.handling import children_are_reaped_unseen, default, handle, ignore
from kinfolk.signals.mask import blocked
from kinfolk.signals.receiving import Stream, await_, stream, wait
from kinfolk.signals.sending import Group, asend, send

__all__ = [
    "Arrived",
    "Entry",
    "Group",
    "Stream",
    "asend",
    "await_",
    "blocked",
    "children_are_reaped_unseen",
    "default",
    "entry_of",
    "handle",
    "ignore",
    "name_of",
    "number_of",
    "send",
    "stream",
    "table",
    "wait",
]
