"""kinfolk: Linux processes that live and talk together.

    import kinfolk as kin

    receiver, sender = kin.channel("pipe:")

The rooms, by floor; imports run downward only, and tests/test_architecture.py holds that:

    0  errors
    1  descriptors, deadlines, identity, waiting, the table of signals
    2  processes, signals, memory, sync
    3  channels, inspection
    4  tour, cli

A name is loaded when it is first asked for, so a program pays for what it uses: all of them together take as long as
Python's own start, ten times. Who gives up the right to read Python's files (chroot, setuid) uses a thing before, or imports its room.
"""

from importlib import import_module as _import_module

from kinfolk import exit_hooks as _exit_hooks  # noqa: F401 - its place among the hooks of atexit is here

TYPE_CHECKING = (
    False  # for type checkers, who take it for true; typing takes longer to load than this
)
if TYPE_CHECKING:
    from kinfolk import signals
    from kinfolk.channels.address import Address
    from kinfolk.channels.contract import Limits
    from kinfolk.channels.end import Statistics
    from kinfolk.channels.endpoints import Connection, Listener, Receiver, Sender
    from kinfolk.channels.opening import (
        aconnect,
        aopen_receiver,
        aopen_sender,
        channel,
        connect,
        listen,
        open_receiver,
        open_sender,
        pair,
    )
    from kinfolk.errors import (
        AccessDenied,
        AddressError,
        AlreadyExists,
        BrokenChannel,
        BufferTooSmall,
        Busy,
        Closed,
        CodecError,
        CorruptChannel,
        CorruptObject,
        Deadlock,
        DecodeError,
        EndOfChannel,
        ForkedCopy,
        InvalidValue,
        KeeperDied,
        KernelError,
        KinfolkError,
        LimitReached,
        MessageTooBig,
        NoSpace,
        NotFound,
        NotOwner,
        OwnerDied,
        PeerError,
        StillInUse,
        SystemProblem,
        Timeout,
        Unsupported,
        UntrustedPeer,
        UsageError,
    )
    from kinfolk.identity import Identity, Peer
    from kinfolk.inspection.cures import Cure
    from kinfolk.inspection.diagnosis import ZombieCause, ZombieDiagnosis, diagnose_zombies
    from kinfolk.inspection.process_info import Adoption, ProcessInfo, ThreadInfo
    from kinfolk.inspection.tree import ProcessTree, process_tree
    from kinfolk.memory.records import Record, Records
    from kinfolk.memory.shared_memory import SharedMemory
    from kinfolk.processes.daemon import Daemon, daemonize
    from kinfolk.processes.daemon_program import start_daemon
    from kinfolk.processes.daemon_stop import stop_daemon
    from kinfolk.processes.execute import execute
    from kinfolk.processes.exit_handlers import (
        at_exit,
        exit,  # noqa: A004 - os._exit and sys.exit have their counterparts here
        exit_now,
        forget_exit_handler,
        on_exit,
    )
    from kinfolk.processes.exit_status import ExitStatus
    from kinfolk.processes.forking import ForkSide, ForkWithThreads, fork
    from kinfolk.processes.init import InitOutcome, run_as_init
    from kinfolk.processes.options import Options
    from kinfolk.processes.pid_file import PidFile
    from kinfolk.processes.process import Process
    from kinfolk.processes.shell import CommandReader, CommandText, CommandWriter, popen, system
    from kinfolk.processes.spawn import aspawn, preload, spawn
    from kinfolk.processes.streams import Redirect
    from kinfolk.processes.wait import await_all, await_any, wait_all, wait_any
    from kinfolk.sync.condition import Condition
    from kinfolk.sync.event import Event
    from kinfolk.sync.file_lock import FileLock
    from kinfolk.sync.mutex import Mutex
    from kinfolk.sync.posix_semaphore import PosixSemaphore
    from kinfolk.sync.semaphore import Semaphore
    from kinfolk.sync.sysv_semaphore import SysVSemaphore

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Address",
    "AddressError",
    "Adoption",
    "AlreadyExists",
    "BrokenChannel",
    "BufferTooSmall",
    "Busy",
    "Closed",
    "CodecError",
    "CommandReader",
    "CommandText",
    "CommandWriter",
    "Condition",
    "Connection",
    "CorruptChannel",
    "CorruptObject",
    "Cure",
    "Daemon",
    "Deadlock",
    "DecodeError",
    "EndOfChannel",
    "Event",
    "ExitStatus",
    "FileLock",
    "ForkSide",
    "ForkWithThreads",
    "ForkedCopy",
    "Identity",
    "InitOutcome",
    "InvalidValue",
    "KeeperDied",
    "KernelError",
    "KinfolkError",
    "LimitReached",
    "Limits",
    "Listener",
    "MessageTooBig",
    "Mutex",
    "NoSpace",
    "NotFound",
    "NotOwner",
    "Options",
    "OwnerDied",
    "Peer",
    "PeerError",
    "PidFile",
    "PosixSemaphore",
    "Process",
    "ProcessInfo",
    "ProcessTree",
    "Receiver",
    "Record",
    "Records",
    "Redirect",
    "Semaphore",
    "Sender",
    "SharedMemory",
    "Statistics",
    "StillInUse",
    "SysVSemaphore",
    "SystemProblem",
    "ThreadInfo",
    "Timeout",
    "Unsupported",
    "UntrustedPeer",
    "UsageError",
    "ZombieCause",
    "ZombieDiagnosis",
    "aconnect",
    "aopen_receiver",
    "aopen_sender",
    "aspawn",
    "at_exit",
    "await_all",
    "await_any",
    "channel",
    "connect",
    "daemonize",
    "diagnose_zombies",
    "execute",
    "exit",
    "exit_now",
    "forget_exit_handler",
    "fork",
    "listen",
    "on_exit",
    "open_receiver",
    "open_sender",
    "pair",
    "popen",
    "preload",
    "process_tree",
    "run_as_init",
    "signals",
    "spawn",
    "start_daemon",
    "stop_daemon",
    "system",
    "wait_all",
    "wait_any",
]

#: Where each name is at home; tests/test_public_surface.py holds it against the imports above.
_HOMES = {
    "channels.address": "Address",
    "channels.contract": "Limits",
    "channels.end": "Statistics",
    "channels.endpoints": "Connection Listener Receiver Sender",
    "channels.opening": (
        "aconnect aopen_receiver aopen_sender channel connect listen open_receiver open_sender pair"
    ),
    "errors": (
        "AccessDenied AddressError AlreadyExists BrokenChannel BufferTooSmall Busy "
        "Closed CodecError CorruptChannel CorruptObject Deadlock DecodeError "
        "EndOfChannel ForkedCopy InvalidValue KeeperDied KernelError KinfolkError "
        "LimitReached MessageTooBig NoSpace NotFound NotOwner OwnerDied PeerError "
        "StillInUse SystemProblem Timeout Unsupported UntrustedPeer UsageError"
    ),
    "identity": "Identity Peer",
    "inspection.cures": "Cure",
    "inspection.diagnosis": "ZombieCause ZombieDiagnosis diagnose_zombies",
    "inspection.process_info": "Adoption ProcessInfo ThreadInfo",
    "inspection.tree": "ProcessTree process_tree",
    "memory.records": "Record Records",
    "memory.shared_memory": "SharedMemory",
    "processes.daemon": "Daemon daemonize",
    "processes.daemon_program": "start_daemon",
    "processes.daemon_stop": "stop_daemon",
    "processes.execute": "execute",
    "processes.exit_handlers": "at_exit exit exit_now forget_exit_handler on_exit",
    "processes.exit_status": "ExitStatus",
    "processes.forking": "ForkSide ForkWithThreads fork",
    "processes.init": "InitOutcome run_as_init",
    "processes.options": "Options",
    "processes.pid_file": "PidFile",
    "processes.process": "Process",
    "processes.shell": "CommandReader CommandText CommandWriter popen system",
    "processes.spawn": "aspawn preload spawn",
    "processes.streams": "Redirect",
    "processes.wait": "await_all await_any wait_all wait_any",
    "signals": "signals",
    "sync.file_lock": "FileLock",
    "sync.condition": "Condition",
    "sync.event": "Event",
    "sync.mutex": "Mutex",
    "sync.posix_semaphore": "PosixSemaphore",
    "sync.semaphore": "Semaphore",
    "sync.sysv_semaphore": "SysVSemaphore",
}
_HOME = {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = _import_module(_HOME[name])
    except OSError as error:  # no descriptor left, for one
        from kinfolk.errors import from_os_error as _from_os_error

        raise _from_os_error(error, "can't be loaded", f"{__name__}.{name}") from error
    value: object = home if _HOME[name] == f"{__name__}.{name}" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
