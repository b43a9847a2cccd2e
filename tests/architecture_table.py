"""The floors of kinfolk: the table that tests/test_architecture.py holds the imports to.

This is the file to edit when a module is added. The rules:

1. A module may import modules of lower floors.
2. On its own floor it may import only from its own house, and there only from lower steps.
   Modules on one step never import each other. A house without steps may import within itself in
   any order without a cycle.
3. A package's `__init__` stands on top of its house; nothing inside the house imports it.
4. `kinfolk` itself (the public names) is imported by programs only: the houses of floor 4.
5. Front ends see nothing but the public names, their own house, and the programs named for them.

An import counts wherever it stands: in a function or under TYPE_CHECKING too.
"""

from __future__ import annotations

from typing import NamedTuple


class House(NamedTuple):
    """A module or package that stands on a floor, or several modules that share an order.

    `steps` go upward; each is a string of module names. In a package they are relative to it, and
    `name/` stands for everything in the sub-package `name`.
    """

    name: str
    steps: tuple[str, ...] = ()
    is_package: bool = False


FLOORS: tuple[tuple[House, ...], ...] = (
    # 0: nothing below
    (
        House("errors"),
        House("_native"),
    ),
    # 1: what every mechanism stands on
    (
        House(
            "ground",
            (
                "addresses deadlines descriptors exit_hooks marks record_locks room sysctl",
                "identity helper_threads interpreter_exit memfd nameless_file ownership process_limit sysv_keys",
                "transfer",
                "turnstile ancillary",
                "interest",
                "thread_waiter task_waiter",
                "waiting",
                "rendezvous",
                "runtime_directory",
                "watcher",
            ),
        ),
        House("signal_table"),  # what a signal is called: for all who take one, or tell of one
    ),
    # 2: one process
    (
        House("processes", is_package=True),
        House(
            "signals",
            (
                "arrived mask",
                "handling receiving sending",
            ),
            is_package=True,
        ),
        House(
            "memory",
            (
                "address guard_program records space trust",
                "contract",
                "arrays guard",
                "membership",
                "file_segment sysv_segment",
                "named sysv_limits",
                # The kinds: siblings, which never import each other.
                "posix sysv memfd mapped_file",
                "kinds",
                "opening",
                "shared_memory",
            ),
            is_package=True,
        ),
        House("sync", is_package=True),
    ),
    # 3: several processes
    (
        House(
            "channels",
            (
                "address delivery",
                "contract",  # what a mechanism promises: limits, messages, transports
                "array_format",
                "codec framing claims credentials trust message_reader packet_format to_program",
                "pipe_size kernel_buffers presence queue_limits packet_limits ring_limits ring_options ring_blocks",
                "pipe_transport queue_transport ring_memory",
                "posix_queue sysv_queue ring_file ring_sweep",
                "ring_polling ring_passing",
                "ring_transport",
                "ring_acknowledging",
                "pipe_sender pipe_receiver stream_reader packet_reader socket_names",  # what several mechanisms move their bytes with
                "stream_terms packet_transport",
                "socket_transport",
                "listening",
                "fan_in",
                "end readiness reserving",
                "passing sending receiving",
                "endpoints",
                # The mechanisms: siblings, which never import each other.
                "pipe fifo unix_stream unix_seqpacket unix_dgram mq sysv_mq tcp ring file",
                "mechanisms",
                "opening",
            ),
            is_package=True,
        ),
        House("supervision", is_package=True),
        House(
            "inspection",
            (
                "procfs freezer",
                "process_info",
                "adoption reaper",
                "tree cures",
                "diagnosis",
            ),
            is_package=True,
        ),
    ),
    # 4: programs on top of the public names
    (
        House(
            "bench",
            (
                "sizes statistics machine shared_slot",
                "placement subject",
                "cases messages accounting forked",
                "results loops participants",
                # What is measured: siblings, which never import each other.
                "channel_subjects kernel_subjects peers/ round_trips streams hand_overs idling lock_cases waking_cases "
                "start_cases growth_cases memory_copies bare_slots",
                "subjects",
                "bends workloads runner choosing",
                "stage performing tables comparing",
                "exporting claims.claim claims.copying claims.sampled",
                "claims.semaphores text report.plots report.plotly_js",
                # The claims: siblings too.
                "claims.buffers claims.copies claims.racing claims.sockets claims.signalling claims.relatives "
                "claims.datagrams claims.forking report.sections",
                "claims.trial report.page",
                "claims report session",
            ),
            is_package=True,
        ),
        House("tour", is_package=True),
        House("cli", is_package=True),
        House("web", is_package=True),
    ),
)

# Front ends, and the programs that they may start besides using the public names.
FRONT_ENDS: dict[str, tuple[str, ...]] = {
    "cli": ("tour", "bench"),
    "web": (),
}

# Packages whose names are public as they stand: `kin.signals.send`.
PUBLIC_PACKAGES = ("signals",)

# Packages from outside the standard library, and the houses that may import them: none named
# means all. A new one also needs a line in pyproject.toml and in docs/design/dependencies.md.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "click": ("cli",),
    "cloudpickle": ("processes",),
    "rich": ("cli", "tour", "bench"),
    "msgspec": (),
    "posix_ipc": (),
    "sysv_ipc": (),
    "numpy": (),
    "faster_fifo": ("bench",),
    "faster_fifo_reduction": ("bench",),
    "iceoryx2": ("bench",),
    "plotly": ("bench",),
    "pynng": ("bench",),
    "subetha": ("bench",),
    "zmq": ("bench",),
}

# Not installed with kinfolk: only imported inside a function, when it is asked for. Each with the package of an extra.
OPTIONAL = {
    "numpy": "numpy",
    "faster_fifo": "faster-fifo",
    "faster_fifo_reduction": "faster-fifo",
    "iceoryx2": "iceoryx2",
    "plotly": "plotly",
    "pynng": "pynng",
    "subetha": "subetha-ipc",
    "zmq": "pyzmq",
}

# (module, what it imports): why this import may depend on the machine. Empty is best.
CONDITIONAL_IMPORTS: dict[tuple[str, str], str] = {}

# module: why it imports by a name that is only known when it runs.
DYNAMIC_IMPORTS: dict[str, str] = {
    "bench.stage": "the library of what is measured: its import is a part of the start-up",
    "processes.keeper": "the modules that the user names to kinfolk.preload",
}

MAXIMAL_LINES = 400
FORBIDDEN_NAMES = ("util", "utils", "common", "helper", "helpers", "misc")
