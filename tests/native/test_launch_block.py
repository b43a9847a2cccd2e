"""What goes to a keeper, as plain C, under the sanitizers (see launch_block_test.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

ROUNDS = {"whole": 1, "damaged": 20_000, "packets": 20_000}


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("launch_block")

    def compile_with(block=NATIVE / "launch_block.c"):
        sources = [HERE / "launch_block_test.c", block, NATIVE / "keeper_wire.c"]
        return c_compiler.program(directory / block.parent.name, sources, *SANITIZERS["address"])

    return compile_with


def run(program, what):
    done = subprocess.run(
        [program, what, str(ROUNDS[what])],
        check=False,
        timeout=HANG_LIMIT,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", ROUNDS)
def test_nothing_that_is_read_lies_outside(build, what):
    assert run(build(), what) == (0, "")


@pytest.mark.parametrize(
    ("guard", "without"),
    [
        ("least <= left", "(left || true)"),
        ("header->descriptors <= descriptor_count", "(descriptor_count || true)"),
        ("zero == NULL", "false"),
        ("rest->at == rest->end;", "true;"),
        ("there <= pairs[i - 1].there", "false"),
    ],
)
def test_without_a_check_it_is_noticed(build, tmp_path, guard, without):
    source = (NATIVE / "launch_block.c").read_text()
    assert source.count(guard) == 1
    (tmp_path / "launch_block.c").write_text(source.replace(guard, without))
    code, _ = run(build(tmp_path / "launch_block.c"), "damaged")
    assert code != 0
