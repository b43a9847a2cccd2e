"""A directory that looks like /proc, for what no real process does at will: thousands of them, torn snapshots, odd parents."""

from __future__ import annotations

from pathlib import Path


class FakeProc:
    """Processes as files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        pid: int,
        parent: int,
        *,
        name: bytes = b"fake",
        state: str = "S",
        start: int = 100,
        session: int | None = None,
        group: int | None = None,
        terminal: int = 0,
        flags: int = 0,
        threads: int = 1,
        exit_signal: int = 17,
        uid: int = 0,
        tracer: int = 0,
        arguments: bytes = b"",
        namespace_pids: str = "",
        masks: bool = True,
    ) -> None:
        """One process, in the session and group of process 1 unless said otherwise."""
        directory = self.root / str(pid)
        directory.mkdir(exist_ok=True)
        session = 1 if session is None else session
        group = 1 if group is None else group
        fields = [parent, group, session, terminal, -1, flags, *[0] * 10, threads, 0, start]
        fields += [0] * 15 + [exit_signal]
        stat = b"%d (%s) %s " % (pid, name, state.encode()) + " ".join(map(str, fields)).encode()
        (directory / "stat").write_bytes(stat + b" 0 0\n")
        status = f"Name:\tfake\nTracerPid:\t{tracer}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"
        status += f"NSpid:\t{namespace_pids or pid}\n"
        if masks:
            status += "".join(
                f"{mask}:\t0000000000000000\n"
                for mask in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
            )
        (directory / "status").write_text(status)
        (directory / "cmdline").write_bytes(arguments)
        (directory / "cgroup").write_text("0::/fake\n")

    def add_task(self, pid: int) -> None:
        """Its one thread."""
        task = self.root / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        for file in ("stat", "status"):
            (task / file).write_bytes((self.root / str(pid) / file).read_bytes())

    def remove(self, pid: int) -> None:
        """It has gone."""
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()
