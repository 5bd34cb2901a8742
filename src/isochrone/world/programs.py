"""Other programs, and our own standard input: what a command line has beside a controller."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from isochrone.world.clock import SystemClock

READ_BYTES: Final = 4096
ADMIN_PATHS: Final = ":/usr/sbin:/sbin"  # not on everybody's PATH


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PATH": os.environ.get("PATH", "") + ADMIN_PATHS, **(more or {})}


class Program:
    """A running program that we talk to: its input and output are pipes to us.

    Raises `OSError` if it cannot be started.
    """

    def __init__(self, command: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(more),
            start_new_session=True,  # ^C is for us; it gets the end of its input
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def read(self, seconds: float) -> bytes | None:
        """What it says next; empty at the end of its output, None if nothing came in time."""
        out = self._process.stdout
        assert out is not None
        if not select.select([out], [], [], max(seconds, 0.0))[0]:
            return None
        return os.read(out.fileno(), READ_BYTES)

    def close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it closed its end: its exit code says why
            self._process.stdin.close()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal; None if it has not ended in time."""
        try:
            code = self._process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return None
        self.close_input()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def end(self, seconds: float) -> int:
        """End it with all its children: ask, then force, with so many seconds for each."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            code = self.wait(seconds)
            if code is not None:
                return code
        return -signal.SIGKILL  # it is inside the kernel, where a signal waits


def run(command: Sequence[str]) -> tuple[int, str]:
    """Run a program to its end: exit code, and what it said on stderr. Raises `OSError`."""
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_environment()
    )
    return done.returncode, done.stderr.strip()


def input_ends(seconds: float) -> bool:
    """Whether our standard input ends before the time is over; what it says does not matter."""
    clock = SystemClock()
    end = clock.monotonic() + seconds
    while select.select([sys.stdin], [], [], max(end - clock.monotonic(), 0.0))[0]:
        if not os.read(sys.stdin.fileno(), READ_BYTES):
            return True
    return False
