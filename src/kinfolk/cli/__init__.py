"""The command `kin`: one file a command, on the public names of kinfolk alone.

    main         the group: finds the command, runs it, turns every error into one line and an exit code
    exit_codes   the one table of exit codes
    failures     errors as lines for people; errors of files as errors of kinfolk
    signals      ended by a signal: clean up, then die of it

    ends         addresses to ends: bare bytes or messages, and who comes to whom
    source       what is sent: a file or standard input, in blocks or lines
    output       what is received: standard output, or a file that appears whole or not at all
    transfer     the header and the checksum that --framed adds
    progress     the bar on a terminal
    reports      what was done, as a sentence or as JSON
    serving      many clients at once, until a signal ends it
    parameters   the options that several commands share
    process_columns, process_drawing    what `kin tree` shows of a process, and the tree as lines

    send recv echo ask relay run tour    the commands; each has its page in docs/reference/
    signal_list signal_send           `kin signals`, `kin signal`

Rules:
1. Standard output is for data. Where a command has none, its report goes there; else to standard error.
2. An error is one line on standard error, and a number of `exit_codes`; never a traceback.
3. No colour and no bar where standard error is no terminal.
4. What a command needs is imported when that command runs: `kin --help` is not to load asyncio and rich.
"""
