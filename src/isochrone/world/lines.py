"""Lines for whoever reads standard error, written by a thread: a reader that stalls stops nobody.

A pipe whose reader sleeps, or a terminal that is held with Ctrl-S, lets a write wait for ever. So
lines wait in memory, in order; when they are too many the oldest are dropped and counted.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

LINES_BYTES_MAX: Final = 1 << 20  # waiting: an hour of a busy controller, or a storm of a second
WRITE_BYTES: Final = 1 << 16  # at once: as much as a pipe holds
FLUSH_SECONDS_MAX: Final = 2.0  # at the end, for a reader that has fallen behind


class Lines:
    """A text stream, as far as loggers want one. `write` never waits and never fails."""

    def __init__(
        self, file: int, say_dropped: Callable[[int], str], bytes_max: int = LINES_BYTES_MAX
    ) -> None:
        """`say_dropped` words the line that stands where so many were dropped."""
        self._file = file
        self._say_dropped = say_dropped
        self._bytes_max = bytes_max
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0  # in front of all that wait
        self._writing = False  # something was taken out and is on its way
        self._broken = False  # nobody can read it any more
        self._news = threading.Condition()
        threading.Thread(target=self._run, daemon=True, name="lines").start()

    def write(self, text: str) -> int:
        """Queue some text: whole lines."""
        data = text.encode(errors="backslashreplace")
        with self._news:
            if not self._broken:
                self._waiting.append(data)
                self._bytes += len(data)
                while self._bytes > self._bytes_max:
                    self._bytes -= len(self._waiting.popleft())
                    self._dropped += 1
                self._news.notify_all()
        return len(text)

    def flush(self) -> None:
        """Loggers call it after each line. There is nothing to do: it is on its way."""

    def drain(self, seconds: float = FLUSH_SECONDS_MAX) -> bool:
        """Wait until all is written, but no longer than that; whether it is."""
        with self._news:
            return self._news.wait_for(self._idle, seconds)

    def _idle(self) -> bool:
        return self._broken or not (self._waiting or self._writing or self._dropped)

    # -- the thread

    def _run(self) -> None:
        while True:
            with self._news:
                self._writing = False
                self._news.notify_all()
                self._news.wait_for(lambda: self._waiting or self._dropped)
                data = self._take()
                self._writing = True
            try:
                self._put(data)
            except OSError:  # the reader is gone, and with it whoever could be told
                with self._news:
                    self._broken = True
                    self._waiting.clear()
                    self._news.notify_all()
                return

    def _take(self) -> bytes:
        """The next lines, few enough that what waits behind them may still be dropped."""
        taken = []
        if self._dropped:
            taken.append(self._say_dropped(self._dropped).encode())
            self._dropped = 0
        size = 0
        while self._waiting and (not size or size + len(self._waiting[0]) <= WRITE_BYTES):
            taken.append(self._waiting.popleft())
            size += len(taken[-1])
        self._bytes -= size
        return b"".join(taken)

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._file, rest) :]
            except BlockingIOError:  # somebody who shares it wants it so
                select.select([], [self._file], [])
