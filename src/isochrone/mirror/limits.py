"""When a side file has grown too large, and what is done then. Pure: figures in, an action out.

The side file of a session is the part of the log that its secondary has not hardened. It costs room
in the pool and, if the primary is lost, it is what is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, get_args

from isochrone.errors import InvalidInput
from isochrone.types import GIB, MIB

Policy = Literal["suspend", "fall-behind", "pace"]
Resync = Literal["auto", "manual"]
POLICIES: Final[tuple[str, ...]] = get_args(Policy)
RESYNCS: Final[tuple[str, ...]] = get_args(Resync)

# An hour of change at 20 Mbit/s. Beyond it the tracks that changed are far fewer bytes than the
# writes that changed them, and a resend of these is the shorter way back.
SIDE_FILE_BYTES: Final = 8 * GIB
SIDE_FILE_BYTES_MIN: Final = 16 * MIB  # below the credit of a connection each cut would trip it
SIDE_FILE_BYTES_MAX: Final = 1 << 50  # 1 PiB: more than any pool
SIDE_FILE_SECONDS_MIN: Final = 2.0  # two cuts of the shortest usual interval
SIDE_FILE_SECONDS_MAX: Final = 30 * 86400.0
INTERVAL_SECONDS_MIN: Final = 0.05  # a cut costs a sync at each site
INTERVAL_SECONDS_MAX: Final = 3600.0  # more is no mirror, it is a schedule of copies
PACE_START: Final = 0.5  # of a limit: below it nobody is delayed
PACE_SECONDS_MAX: Final = 1.0  # that a write waits; hosts give up after 30 s and more
PACED_OUT_SECONDS: Final = 60.0  # over the limit for so long at full delay: pacing does not help
PRESSED_SECONDS: Final = 2.0  # a round of cleaning may end it by itself
PINNED_SEGMENTS_MIN: Final = 4  # fewer are not what makes a pool full


class Action(Enum):
    NONE = "none"
    PACE = "pace"
    FALL_BEHIND = "fall behind"  # let go of the log; the session goes on from the changed tracks
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True)
class SideFileLimits:
    """What a session may use. A limit of 0 is none."""

    policy: str = "suspend"
    bytes: int = SIDE_FILE_BYTES
    seconds: float = 0.0

    def check(self) -> None:
        """Raises `InvalidInput`."""
        if self.policy not in POLICIES:
            raise InvalidInput(f"the policy is one of {', '.join(POLICIES)}, not {self.policy!r}")
        if self.bytes and not SIDE_FILE_BYTES_MIN <= self.bytes <= SIDE_FILE_BYTES_MAX:
            raise InvalidInput(
                f"a side file is limited to {SIDE_FILE_BYTES_MIN} bytes at least, 0 means no limit"
            )
        if self.seconds and not SIDE_FILE_SECONDS_MIN <= self.seconds <= SIDE_FILE_SECONDS_MAX:
            raise InvalidInput(
                f"the age of a side file is limited to {SIDE_FILE_SECONDS_MIN:g} s at least and"
                f" {SIDE_FILE_SECONDS_MAX:g} s at most, 0 means no limit"
            )


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the side file of a session is now."""

    bytes: int = 0  # written after the cut that the secondary has hardened
    age: float = 0.0  # seconds since the oldest of them
    drain_seconds: float = 0.0  # until it is shipped, at the rate of late; 0: not known
    over_seconds: float = 0.0  # for so long a limit has been exceeded
    pressed_seconds: float = 0.0  # for so long writers have waited for room in the pool
    pinned_segments: int = 0  # of the log, kept for this session
    keeps_log: bool = True
    copying: bool = False  # a first copy or a resend is under way


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action = Action.NONE
    delay: float = 0.0  # seconds that each write waits
    why: str = ""  # a sentence, where something is done


def fill(backlog: Backlog, limits: SideFileLimits) -> float:
    """How much of the limits is used: 1.0 is all of the one that is nearer."""
    by_bytes = backlog.bytes / limits.bytes if limits.bytes else 0.0
    by_age = backlog.age / limits.seconds if limits.seconds else 0.0
    return max(by_bytes, by_age)


def ahead(backlog: Backlog) -> float:
    """How old the side file will be, at most, when what is in it now has been taken.

    A cut carries what was written while the one before travelled, so the age that is seen is half
    of what comes. The rate is a guess after quiet times: it counts for twice the age at most.
    """
    return backlog.age + min(backlog.drain_seconds, 2 * backlog.age)


def pace(used: float) -> float:
    """Seconds that a write waits, from none at half the limit to the most at the limit."""
    share = min(1.0, max(0.0, (used - PACE_START) / (1.0 - PACE_START)))
    return float(PACE_SECONDS_MAX * share**2)


def decide(backlog: Backlog, limits: SideFileLimits) -> Decision:
    """What to do about a session that is not suspended."""
    if (
        backlog.keeps_log
        and backlog.pressed_seconds >= PRESSED_SECONDS
        and backlog.pinned_segments >= PINNED_SEGMENTS_MIN
    ):
        # Whatever the policy: production must not be refused room for the sake of a mirror.
        why = f"the pool needs the room of {backlog.pinned_segments} segments of its log"
        return Decision(Action.FALL_BEHIND if backlog.copying else Action.SUSPEND, why=why)
    used = fill(backlog, limits)
    if not backlog.keeps_log:
        return Decision()  # it costs no room, and goes on from the changed tracks
    patient = used < 1.0 or backlog.over_seconds < PACED_OUT_SECONDS
    if limits.policy == "pace" and patient and not backlog.copying:
        by_age = ahead(backlog) / limits.seconds if limits.seconds else 0.0
        delay = pace(max(used, by_age))
        return Decision(Action.PACE, delay) if delay else Decision()
    if used < 1.0:
        return Decision()
    why = _over(backlog, limits)
    if limits.policy == "fall-behind" or backlog.copying:
        # To suspend a copy would be to begin it again; without the log it can still end.
        return Decision(Action.FALL_BEHIND, why=why)
    return Decision(Action.SUSPEND, why=why)


def _over(backlog: Backlog, limits: SideFileLimits) -> str:
    if limits.bytes and backlog.bytes >= limits.bytes:
        return f"its side file reached {backlog.bytes} bytes of {limits.bytes}"
    return f"its side file is {backlog.age:.0f} s old, and {limits.seconds:g} s are allowed"
