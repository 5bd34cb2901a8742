"""One sync of the log for everybody who waits, and the next as soon as it has ended.

Who needs something to be durable leaves a callback with the lsn it needs. A sync covers what was
appended before it began; those it does not cover share the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from isochrone.errors import PoolFailed
from isochrone.store.log import Log, SyncTicket
from isochrone.types import KIB, Synced
from isochrone.world.work import Work

BRIEF_BYTES_MAX: Final = 256 * KIB  # more takes a disk longer than a change of threads


class SharedSync:
    """Makes a log durable, one sync at a time."""

    def __init__(self, log: Log, work: Work, on_failure: Callable[[str], None]) -> None:
        self._log = log
        self._work = work
        self._on_failure = on_failure  # called before anybody is told
        self._waiting: deque[tuple[int, Synced]] = deque()  # lsn needed, ascending
        self._ticket: SyncTicket | None = None  # of the sync that runs
        self._bytes_synced = 0  # `Log.bytes_appended` when the last sync began

    def when_durable(self, done: Synced, *, alone: bool = False) -> None:
        """Call `done` once everything appended so far survives a power cut, or cannot any more.

        `alone`: nobody needs the loop until then. `done` may be called before this returns.
        """
        if self._log.durable >= self._log.lsn:
            done(None)
            return
        self._waiting.append((self._log.lsn, done))
        if self._ticket is None:
            self._begin(alone=alone)

    def _begin(self, *, alone: bool = False) -> None:
        log = self._log
        ticket = self._ticket = log.begin_sync()
        size, self._bytes_synced = log.bytes_appended - self._bytes_synced, log.bytes_appended
        brief = alone and ticket.only_data and size <= BRIEF_BYTES_MAX
        self._work.start(ticket.run, self._ended, brief=brief)

    def _ended(self, error: BaseException | None) -> None:
        ticket, self._ticket = self._ticket, None
        assert ticket is not None
        if error is not None:
            self._fail(error)
            return
        self._log.end_sync(ticket)
        waiting = self._waiting
        told = []
        while waiting and waiting[0][0] <= ticket.lsn:
            told.append(waiting.popleft()[1])
        if waiting:
            self._begin()  # before the callbacks: the disk need not wait for them
        _tell(told, None)

    def _fail(self, error: BaseException) -> None:
        """After a failed sync the kernel may have dropped the pages: no later success means
        anything, so nothing is ever called durable again."""
        words = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._on_failure(f"a sync failed: {words}")
        failure = error
        if isinstance(error, Exception):  # anything else is the end of the program
            failure = PoolFailed(f"the pool cannot make data durable: {words}")
            failure.__cause__ = error
        told, self._waiting = self._waiting, deque()
        _tell([done for _, done in told], failure)


def _tell(told: Iterable[Synced], failure: BaseException | None) -> None:
    """Who breaks when told keeps nobody else waiting for ever; then the defect is raised."""
    defect: Exception | None = None
    for done in told:
        try:
            done(failure)
        except Exception as e:  # noqa: BLE001 - raised below
            defect = defect or e
    if defect is not None:
        raise defect
