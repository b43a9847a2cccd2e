"""C programs for tests: each source is compiled once in a run of the suite, whoever asks for it.

Rules:
1. An object is known by all that went into it: the flags, the text of the source, and that of every header beside it or where it
   includes from. So a copy of a source is compiled when it differs, and else not.
2. Several runs may share a directory (tests/shares.py): an object is made under another name, and renamed when it is whole.
3. A warning in a source of this tree is an error. A copy with a mistake may have one, for what it does not use any more.
4. With a sanitizer it is compiled for its reports; else as it is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "native"

SANITIZERS = {
    "plain": (),
    # It does not know fences; both sides of each also use atomics in the strongest order.
    "thread": ("-fsanitize=thread", "-Wno-tsan"),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
_WARNINGS = ("-Wall", "-Wextra", "-Wno-missing-field-initializers", "-Werror")


class CCompiler:
    """Compiles and links. It keeps what it has compiled in a directory."""

    def __init__(self, directory: Path) -> None:
        """Around the directory."""
        self._directory = directory
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.fail("these tests need a C compiler, and there is no `cc` on PATH: install gcc")
        self._compiler = compiler

    def program(
        self,
        path: Path,
        sources: Sequence[Path],
        *flags: str,
        include: Sequence[Path] = (NATIVE,),
        libraries: Sequence[str | Path] = (),
    ) -> Path:
        """The program of some sources, at ``path``; what is there already is left as it is."""
        if not path.exists():
            # Bound at once: else the first call of each function is a thousand instructions of the linker's.
            command = [self._compiler, "-pthread", "-Wl,-z,now", *flags]
            objects = self.objects(sources, *flags, include=include)
            subprocess.run([*command, *objects, *libraries, "-o", path], check=True)
        return path

    def objects(
        self, sources: Sequence[Path], *flags: str, include: Sequence[Path] = (NATIVE,)
    ) -> list[Path]:
        """What each of some sources is compiled to."""
        headers = {
            place: _headers(place) for place in (*{each.parent for each in sources}, *include)
        }
        seen_by_all = [headers[place] for place in include]
        return [
            self._object(source, flags, include, b"".join([headers[source.parent], *seen_by_all]))
            for source in sources
        ]

    def _object(
        self, source: Path, flags: Sequence[str], include: Sequence[Path], headers: bytes
    ) -> Path:
        level = ("-O1", "-g") if any("-fsanitize" in flag for flag in flags) else ("-O2",)
        warnings = _WARNINGS if source.is_relative_to(ROOT) else ("-w",)
        how = ("-std=c11", "-D_GNU_SOURCE", "-pthread", *level, *warnings, *flags)
        known = hashlib.sha256(repr(how).encode() + headers + source.read_bytes()).hexdigest()
        made = self._directory / f"{source.stem}-{known[:24]}.o"
        if not made.exists():
            begun = made.with_suffix(f".{os.getpid()}")
            places = [f"-I{place}" for place in include]
            command = [self._compiler, *how, *places, "-c", source, "-o", begun]
            subprocess.run(command, check=True)
            begun.rename(made)
        return made


def _headers(directory: Path) -> bytes:
    """A digest of those in a directory, and of what is installed of the tree that it is in."""
    digest = hashlib.sha256()
    for place in (directory, directory.parent / "include"):
        for header in sorted(place.glob("*.h")):
            digest.update(header.name.encode() + header.read_bytes())
    return digest.digest()
