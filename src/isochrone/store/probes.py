"""Restore probes: whether a check of the operator's could work with what a replica holds.

A probe is a writable copy of a group as of one of its points, made for one run of one check and
deleted at its end. What stays is what the check found. See docs/adr/0027.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

PROBES_MAX: Final = 16  # on record for a group: two weeks of daily ones, and today's
SAID_CHARS_MAX: Final = 400  # of what a check says: a line of a status, not a log
CHECK_CHARS_MAX: Final = 1024  # of its command line
SECONDS_MAX: Final = 86_400.0  # for one: a copy that nobody ends keeps space

Result = Literal["", "good", "bad", "expired"]  # "": it runs; expired: nobody said how it ended


class Probe(msgspec.Struct, kw_only=True):
    copy: str  # its name; it is gone once there is a result
    cut: int  # that was opened
    stamp: int  # when the primary placed it, by its clock
    check: str  # the command, in words
    began: int  # ns since 1970, by the clock of this site
    seconds: float  # it may take so long
    ended: int = 0
    result: Result = ""
    said: str = ""  # the last words of the check


class Probes(msgspec.Struct, kw_only=True):
    """Those of a group, oldest first."""

    group: str
    probes: list[Probe] = []

    @property
    def running(self) -> Probe | None:
        return next((probe for probe in self.probes if not probe.result), None)

    @property
    def newest(self) -> Probe | None:
        """The newest that has ended."""
        return next((probe for probe in reversed(self.probes) if probe.result), None)

    @property
    def good(self) -> Probe | None:
        """The newest that ended well."""
        return next((probe for probe in reversed(self.probes) if probe.result == "good"), None)

    def trim(self) -> None:
        """Forget the oldest of too many; the newest good one stays as long as there is room."""
        good = self.good
        while len(self.probes) > PROBES_MAX:
            self.probes.remove(next(x for x in self.probes if x is not good))
