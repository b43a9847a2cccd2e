"""kinfolk: Linux processes that live and talk together.

    import kinfolk as kin

    receiver, sender = kin.channel("pipe:")

The rooms, by floor; imports run downward only, and tests/test_architecture.py holds that:

    0  errors
    1  descriptors, deadlines, identity, waiting
    2  processes, signals, memory
    3  channels, inspection
    4  tour, cli
"""

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
from kinfolk.sync.mutex import Mutex

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
    "Connection",
    "CorruptChannel",
    "CorruptObject",
    "Cure",
    "Daemon",
    "Deadlock",
    "DecodeError",
    "EndOfChannel",
    "ExitStatus",
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
    "Process",
    "ProcessInfo",
    "ProcessTree",
    "Receiver",
    "Record",
    "Records",
    "Redirect",
    "Sender",
    "SharedMemory",
    "Statistics",
    "StillInUse",
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
