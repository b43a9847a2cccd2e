"""The entry point of the command `kin`: until its own signal handling stands, Ctrl-C ends it without a word.

Importing kinfolk takes a tenth of a second, in which Python's own handler would show a traceback. This module
stands beside the package, because importing anything inside of it imports the package first.
"""

import signal

if (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):  # else it is ignored, and stays so
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from kinfolk.cli.main import main

__all__ = ["main"]
