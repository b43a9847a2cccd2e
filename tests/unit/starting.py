"""What the tests of starts share: programs that run until they are told otherwise, and what the kernel says about them."""

from __future__ import annotations

from typing import Any

from kinfolk.processes.direct import Direct
from kinfolk.processes.launch import Launch
from kinfolk.processes.options import Options, prepared
from kinfolk.processes.process import Process
from kinfolk.processes.streams import Redirect

#: Runs until somebody ends it.
SLEEP = ["sleep", "1000"]


def start(argv: list[str], **options: Any) -> Process:
    """A child of this process, without the keeper."""
    wanted: Options = options  # type: ignore[assignment]
    launch, streams = prepared(argv, wanted, "direct")
    try:
        custody = Direct(launch)
    except BaseException:
        streams.failed()
        raise
    streams.started()
    return Process(custody, argv[0], streams)


def shell(script: str, **options: Any) -> Process:
    """A shell that runs a script."""
    return start(["sh", "-c", script], **options)


def ready(script: str, **options: Any) -> Process:
    """A shell that has said ``ready``, by ``echo``, before this returns."""
    process = shell(script, stdout=Redirect.PIPE, **options)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == b"ready\n", line
    return process


def output(argv: list[str], **options: Any) -> str:
    """What a program writes; it has to succeed."""
    process = start(argv, stdout=Redirect.PIPE, text=True, **options)
    assert process.stdout is not None
    with process.stdout:
        text: str = process.stdout.read()
    assert process.wait().success, (process.wait(), text)
    return text


def launch_of(argv: list[str], **fields: Any) -> Launch:
    """A launch with an inherited environment and the three standard streams."""
    words = [word.encode() for word in argv]
    fields.setdefault("descriptors", [(0, 0), (1, 1), (2, 2)])
    return Launch(argv=words, executables=fields.pop("executables", words[:1]), **fields)
