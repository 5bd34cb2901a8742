"""Running a check to its end or its deadline, and keeping its last words."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from isochrone.errors import InvalidInput
from isochrone.store.probes import SAID_CHARS_MAX
from isochrone.world.clock import Clock, SystemClock
from isochrone.world.programs import Program

END_SECONDS: Final = 5.0  # that a check has to end once it was asked to, before it is forced
TAIL_BYTES: Final = 4 * SAID_CHARS_MAX  # a character has up to four bytes
DEADLINE_VARIABLE: Final = "ISOCHRONE_PROBE_SECONDS"  # what the check has


def run_check(
    words: Sequence[str], more: Mapping[str, str], seconds: float, clock: Clock | None = None
) -> tuple[str, str]:
    """What was wrong with a check, or nothing, and the last line that it printed.

    What it prints goes on to our stderr: stdout is for the answer. It gets no input. At the
    deadline it is ended with all its children.
    """
    clock = clock or SystemClock()
    if not words:
        raise InvalidInput("an empty command checks nothing")
    try:
        program = Program(words, {**more, DEADLINE_VARIABLE: f"{seconds:g}"})
    except OSError as e:
        return f"it cannot be run: {e.strerror or e}", ""
    program.close_input()
    end = clock.monotonic() + seconds
    tail, code = b"", None
    try:
        while piece := program.read(end - clock.monotonic()):
            sys.stderr.buffer.write(piece)
            sys.stderr.flush()
            tail = (tail + piece)[-TAIL_BYTES:]
        code = program.wait(end - clock.monotonic())
    finally:
        if code is None:  # it has not ended, so its number is still its own
            program.end(END_SECONDS)
    if code is None:
        return f"it was not done within {seconds:g} s and was ended", last_line(tail)
    return (f"exit code {code}" if code else ""), last_line(tail)


def last_line(tail: bytes) -> str:
    """The last line that says something, as far as it is text; at most `SAID_CHARS_MAX`."""
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
    printable = ["".join(c for c in line if c.isprintable()) for line in lines]
    return next((line for line in reversed(printable) if line), "")[-SAID_CHARS_MAX:]
