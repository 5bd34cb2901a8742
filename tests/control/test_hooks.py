"""Hooks as real processes: ready, held, let go; and everything that can go wrong between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from isochrone.control.hooks import Hook, Quiet
from isochrone.errors import DeadlinePassed, HookFailed, InvalidInput
from isochrone.world.clock import SystemClock


def sh(script: str, gives: str = "application") -> Hook:
    return Hook(("sh", "-c", script), gives)  # type: ignore[arg-type]


def holding(folder: Path, name: str) -> Hook:
    """Notes when it held and when it let go."""
    return sh(f"echo +{name} >> {folder}/log; echo ready; cat; echo -{name} >> {folder}/log")


def told(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().split() if path.exists() else []


class _Later(SystemClock):
    """A clock that can be put forward."""

    later = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later


def test_hooks_hold_in_order_and_let_go_in_reverse(tmp_path: Path) -> None:
    quiet = Quiet([holding(tmp_path, "db"), holding(tmp_path, "fs")])
    quiet.freeze()
    assert told(tmp_path) == ["+db", "+fs"]
    assert quiet.thaw() == []
    assert told(tmp_path) == ["+db", "+fs", "-fs", "-db"]
    assert quiet.thaw() == [], "a second letting go has nothing to do"


def test_a_hook_that_fails_lets_the_others_go(tmp_path: Path) -> None:
    quiet = Quiet([holding(tmp_path, "db"), sh("echo no >&2; exit 3")])
    with pytest.raises(HookFailed, match="before it was ready; no copy was taken"):
        quiet.freeze()
    assert told(tmp_path) == ["+db", "-db"]


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HookFailed, match="cannot be run: No such file"):
        Quiet([holding(tmp_path, "db"), Hook((str(tmp_path / "nothing"),), "crash")]).freeze()
    assert told(tmp_path) == ["+db", "-db"]


def test_a_hook_that_is_never_ready_meets_the_deadline(tmp_path: Path) -> None:
    quiet = Quiet([holding(tmp_path, "db"), sh("cat")], seconds=0.5)
    with pytest.raises(DeadlinePassed, match=r"was not ready within 0\.5 s; no copy was taken"):
        quiet.freeze()
    assert told(tmp_path) == ["+db", "-db"]


def test_a_hook_that_babbles_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isochrone.control.hooks.LET_GO_S_MAX", 0.1)
    with pytest.raises(HookFailed, match="spoke too much"):
        Quiet([sh("yes")], seconds=1).freeze()


def test_ready_may_come_after_other_words_and_in_pieces() -> None:
    quiet = Quiet([sh("echo freezing ready; printf rea; sleep 0.05; echo dy; cat")])
    with pytest.raises(HookFailed):
        Quiet([sh("echo not ready")]).freeze()
    # `freezing ready` is no `ready`: only a line of its own counts.
    quiet.freeze()
    assert quiet.thaw() == []


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        ("echo ready; cat; exit 7", "did not hold still (exit code 7)"),
        ("echo ready; exit 0", "ended before it was told to"),
        ("echo ready; exit 2", "did not hold still (exit code 2)"),
    ],
)
def test_what_did_not_hold_is_told(script: str, wrong: str) -> None:
    quiet = Quiet([sh(script)])
    quiet.freeze()
    (_, program), end = quiet.running[0], time.monotonic() + 10
    while "cat" not in script and not program.ended and time.monotonic() < end:
        time.sleep(0.01)
    (said,) = quiet.thaw()
    assert wrong in said


def test_one_that_does_not_let_go_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isochrone.control.hooks.LET_GO_S_MAX", 0.3)
    quiet = Quiet([sh("echo ready; exec sleep 600")], seconds=0.2)
    quiet.freeze()
    (_, program) = quiet.running[0]
    assert f"did not let go and was ended (exit code {-signal.SIGTERM})" in quiet.thaw()[0]
    assert program.ended


def test_one_that_ignores_being_asked_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isochrone.control.hooks.LET_GO_S_MAX", 0.3)
    quiet = Quiet([sh("trap '' TERM; echo ready; while :; do sleep 600; done")], seconds=0.2)
    quiet.freeze()
    (_, program) = quiet.running[0]
    assert f"exit code {-signal.SIGKILL}" in quiet.thaw()[0]
    assert program.ended


def test_a_deadline_that_passed_is_told() -> None:
    clock = _Later()
    quiet = Quiet([sh("echo ready; cat")], seconds=5, clock=clock)
    quiet.freeze()
    clock.later = 6.0
    assert quiet.thaw() == ["the deadline of 5 s had passed"]


def test_the_hook_knows_how_long_it_has() -> None:
    quiet = Quiet([sh('test "${ISOCHRONE_HOOK_SECONDS%.*}" -le 7 && echo ready; cat')], seconds=7)
    quiet.freeze()
    assert quiet.thaw() == []


def test_nobody_stays_frozen_when_the_command_line_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from isochrone.control.hooks import Hook, Quiet\n"
        "quiet = Quiet([Hook(('sh', '-c', sys.argv[1]), 'crash')])\n"
        "quiet.freeze()\n"
        "print('frozen', flush=True)\n"
        "sys.stdin.read()\n"
    )
    hook = holding(tmp_path, "db").command[2]
    process = subprocess.Popen(
        [sys.executable, "-c", script, hook], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"frozen\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 10
    while told(tmp_path) != ["+db", "-db"] and time.monotonic() < end:
        time.sleep(0.01)
    assert told(tmp_path) == ["+db", "-db"]


@pytest.mark.parametrize("seconds", [0, -1, 301])
def test_deadlines_that_make_no_sense(seconds: float) -> None:
    with pytest.raises(InvalidInput, match="deadline"):
        Quiet([], seconds=seconds)


def test_what_a_copy_is() -> None:
    assert Quiet([]).gives == "crash"
    assert Quiet([sh("", "filesystem")]).gives == "filesystem"
    assert Quiet([sh("", "application"), sh("", "filesystem")]).gives == "application"
