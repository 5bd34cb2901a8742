"""Giving up copies that may be given up, before production is refused room.

Work copies, such as what a backup or a test reads, are taken as *expendable*. When the slack of a
pool has shrunk to twice of what makes it full, the oldest of them goes, also under whoever reads
it: their job fails, and the volumes go on. What the next marking finds decides about the next one.
"""

from __future__ import annotations

import structlog

from isochrone.errors import IsochroneError
from isochrone.store import copies
from isochrone.store.attachments import hosts_of
from isochrone.store.catalogue import Copy
from isochrone.store.pool import Pool

log = structlog.get_logger("isochrone.space")


def candidates(pool: Pool) -> list[Copy]:
    """Copies that may be given up, the oldest first. Held, pinned and related ones may not."""
    expendable = [copy for copy in pool.state.copies.values() if copy.expendable]
    found = [
        copy for copy in expendable if not copies.why_not_deletable(pool, copy, even_read=True)
    ]
    return sorted(found, key=lambda copy: copy.lsn)


class Sacrifices:
    """Of one pool; `look` is called by whoever watches its space."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._markings = -1  # so many had been when the last copy was given up

    def look(self) -> str:
        """Give up one copy if it is time; its name, or nothing."""
        pool = self._pool
        if pool.failed or not pool.space.tight or pool.space.markings == self._markings:
            return ""
        copy = next(iter(candidates(pool)), None)
        if copy is None:
            return ""
        self._markings = pool.space.markings
        readers = [a for _, member in copy.members for a in pool.attached.of(member)]
        try:
            copies.give_up(pool, copy)
        except IsochroneError as e:
            log.error("a copy could not be given up", copy=copy.name, reason=e.message)
            return ""
        log.warning(
            "a copy was given up for space", copy=copy.name, readers=hosts_of(readers) or None
        )
        return copy.name
