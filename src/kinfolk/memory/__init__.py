"""Shared memory: POSIX, System V, memfds, mapped files, behind one interface."""
