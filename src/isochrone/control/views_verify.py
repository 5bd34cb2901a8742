"""Documents of the API about comparing sites, and healing one from the other."""

from __future__ import annotations

from typing import Final

import msgspec

from isochrone.mirror.comparison import Found, Result
from isochrone.mirror.repair import Outcome


class PassView(Result, kw_only=True):
    """A pass that came to its end."""

    time: str
    age: float  # seconds


class VerifyView(msgspec.Struct, kw_only=True):
    """A comparison of a group with its primary: the one that runs, or the last."""

    group: str
    state: str  # never, running, stopped, failed, done
    reason: str  # why it stands still
    every: float  # seconds from one to the next; 0: none by itself
    read: bool  # the data is read, too
    repair: bool
    rate: int  # bytes a second; 0: no limit
    started_time: str
    total: int  # bytes of the group's volumes
    bytes: int  # compared
    bytes_read: int  # at this site
    unstable_bytes: int  # that never stood still, and are not known to be equal
    found: int
    unhealed: int
    findings: list[Found]
    last_verified: PassView | None  # when all was compared last,
    last_read: PassView | None  # and when the data was read, too
    history: list[PassView]  # oldest first


class OutcomeView(Outcome, kw_only=True):
    time: str


class RepairView(msgspec.Struct, kw_only=True):
    """What is being healed from other sites, and what came of it."""

    waiting: int  # blocks that have not been looked up yet
    healed: int  # blocks, since the start of the controller
    unhealed: list[OutcomeView]  # what cannot be had now; it is asked for again
    outcomes: list[OutcomeView]  # the last ones, oldest first


ANSWERS: Final = (VerifyView, RepairView)
