"""Other programs: pipes, exit codes, ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from isochrone.world.programs import Program, run


def test_it_speaks_and_ends() -> None:
    program = Program(["sh", "-c", 'echo "$WORD"; cat; exit 3'], {"WORD": "hello"})
    assert program.read(20) == b"hello\n"
    assert program.read(0.01) is None
    assert not program.ended
    program.close_input()
    assert program.read(20) == b""
    assert program.wait(20) == 3
    assert program.ended


def test_one_that_went_does_not_disturb() -> None:
    program = Program(["true"])
    assert program.read(20) == b""
    assert program.wait(20) == 0
    program.close_input()


def test_its_children_end_with_it() -> None:
    program = Program(["sh", "-c", "sleep 600 & echo $!; wait"])
    said = program.read(20)
    assert said is not None
    assert program.wait(0.01) is None
    assert program.end(20) == -signal.SIGTERM
    # The child has ended too, or it is a zombie that waits for init.
    state = subprocess.run(
        ["ps", "-o", "state=", "-p", said.decode().strip()], capture_output=True, text=True
    )
    assert state.stdout.strip() in ("", "Z")


def test_one_that_cannot_be_started() -> None:
    with pytest.raises(FileNotFoundError):
        Program(["/nothing/here"])
    with pytest.raises(FileNotFoundError):
        run(["/nothing/here"])


def test_run_tells_what_was_said() -> None:
    assert run(["sh", "-c", "echo no >&2; exit 4"]) == (4, "no")
    code, _ = run(["fsfreeze", "--version"])
    assert code == 0, "found also where /usr/sbin is not on the path"


@pytest.mark.parametrize(("words", "ends"), [(b"", "True"), (b"words\n", "True"), (None, "False")])
def test_the_end_of_our_input(words: bytes | None, ends: str) -> None:
    script = "from isochrone.world.programs import input_ends; print(input_ends(0.3))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    if words is not None:
        process.stdin.write(words)
        process.stdin.close()
    assert process.stdout.read().decode().strip() == ends
    process.stdin.close()
    process.stdout.close()
    assert process.wait(20) == 0
