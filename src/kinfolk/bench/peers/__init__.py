"""Other people's ways to move messages between processes, a file each; `kinfolk[peers]` installs
them.

A new peer is a file with `SUBJECTS` and one line in `kinfolk.bench.subjects`. Its `why` names the
use that its own documentation calls the fastest; its library is imported where it is used, and a
peer that is not installed is said to be missing.
"""
