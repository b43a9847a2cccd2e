"""The condition as plain C threads and processes, under the sanitizers (see condition_test.c)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.c_compiler import NATIVE, SANITIZERS

HERE = Path(__file__).resolve().parent
HANG_LIMIT = 60  # seconds

ROUNDS = {
    "store": 1000,
    "brief": 500,
    "all": 200,
    "several": 30,
    "deaths": 30,
    "newcomers": 3,
    "mutexes": 6,
    "misuse": 1,
}
CORE = (
    *("condition", "members", "members_leave", "watcher", "child", "sysv_wait"),
    *("mutex", "mutex_wait", "robust", "sync_object"),
)


@pytest.fixture(scope="module")
def build(c_compiler, tmp_path_factory):
    directory = tmp_path_factory.mktemp("condition")

    def compile_to(name, flags=(), **changed):
        """Compile; those of ``changed`` by their stems instead."""
        core = [changed.get(stem, NATIVE / f"{stem}.c") for stem in CORE]
        return c_compiler.program(directory / name, [HERE / "condition_test.c", *core], *flags)

    return compile_to


def run(program, what, rounds, limit=HANG_LIMIT):
    done = subprocess.run(
        [program, what, str(rounds)], check=False, timeout=limit, capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("what", ROUNDS)
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_core(sanitizer, what, build):
    assert run(build(sanitizer, SANITIZERS[sanitizer]), what, ROUNDS[what]) == (0, "")


@pytest.mark.parametrize(
    ("what", "old", "new"),
    [
        ("several", "wake(condition, count) < count", "wake(condition, count) <= count"),
        ("store", "wait->released && kin_condition_was_notified(condition, wait)", "0"),
        ("deaths", "kin_condition_wake(condition); /* rule 4 */", "(void)condition;"),
    ],
    ids=["several", "store", "deaths"],
)
def test_a_broken_one_hangs(what, old, new, build, tmp_path):
    text = (NATIVE / "condition.c").read_text()
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in condition.c"
    (tmp_path / "condition.c").write_text(text.replace(old, new))
    program = build(f"broken-{what}", condition=tmp_path / "condition.c")
    with pytest.raises(subprocess.TimeoutExpired):
        run(program, what, ROUNDS[what], limit=1)


@pytest.mark.parametrize(
    ("source", "old", "new"),
    [
        ("condition", "return is_free || found == identity ? 0 : EMEDIUMTYPE;", "return 0;"),
        ("condition", "*identity = __atomic_load_n(&object->header.identity, __ATOMIC_RELAXED);", "*identity = (uintptr_t)object;"),
        ("condition", "found == 0 || kin_members_alone(&condition->members)", "found == 0"),
        ("members", " && !is_over(row->pid, row->start)", ""),
        ("members", "row == own ? handles != 1\n                       : ", "row != own && "),
    ],
    ids=["never refused", "by its address", "for ever", "by the dead", "by others alone"],
)  # fmt: skip
def test_one_that_knows_mutexes_badly_is_caught(source, old, new, build, tmp_path, request):
    text = (NATIVE / f"{source}.c").read_text()
    assert text.count(old) == 1, f"{old} stands {text.count(old)} times in {source}.c"
    (tmp_path / f"{source}.c").write_text(text.replace(old, new))
    name = f"broken-{request.node.callspec.id.replace(' ', '-')}"
    flags = ("-Wno-unused-function", "-Wno-unused-variable")
    program = build(name, flags, **{source: tmp_path / f"{source}.c"})
    code, message = run(program, "mutexes", ROUNDS["mutexes"])
    assert code == 1
    assert "notify_by" in message


def test_one_that_goes_on_for_newcomers_is_caught(build, tmp_path):
    text = (NATIVE / "condition.c").read_text()
    old = "    if (is_dead)\n        kin_condition_wake"
    assert text.count(old) == 1
    (tmp_path / "condition.c").write_text(
        text.replace(old, "    (void)is_dead;\n        kin_condition_wake")
    )
    program = build("broken-newcomers", condition=tmp_path / "condition.c")
    code, message = run(program, "newcomers", ROUNDS["newcomers"])
    assert code != 0
    assert "ETIMEDOUT" in message
