"""A long copy is made durable as it comes, and leaves the page cache as soon as it is.

Else all of it would be synced at its cut, which would have to wait for gigabytes. And its pages
would push out those that clients of this controller read, although nobody reads a copy before the
site takes over.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from isochrone.store.log import Stretch
from isochrone.store.pool import Pool


class Hardening:
    """What the log has got since this was made, step by step; one step at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._done = pool.log.position
        self._bytes = pool.log.bytes_appended  # when the last step began
        self._busy = False

    def step(self) -> None:
        """Begin to sync all there is now. Nobody waits for it, and nothing is promised by it."""
        log = self._pool.log
        # Whoever is told often of little would have the disk do nothing else.
        little = log.bytes_appended - self._bytes < self._pool.limits.segment_bytes // 2
        if self._busy or little:
            return  # the next step covers more
        self._busy, self._bytes = True, log.bytes_appended
        start, end = self._done, log.position

        def durable(failure: BaseException | None) -> None:
            if failure is not None:  # who waits for the cut is told of it
                self._busy = False
                return
            self._done = end
            stretches = log.stretches(start, end)
            self._pool.world.work.start(lambda: _forget(stretches), self._over)

        self._pool.when_durable(durable)

    def _over(self, error: BaseException | None) -> None:
        self._busy = False


def _forget(stretches: Iterable[Stretch]) -> None:
    for file, offset, length in stretches:
        with suppress(OSError):  # closed meanwhile, with its segment
            file.forget(offset, length)
