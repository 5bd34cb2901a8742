"""May a command onto mirrored volumes be given, and how does it reach the other sites? Pure.

The chain has three parts, and ends with the first that says no: what can be seen at the primary
(`local`: no message is sent), what the primary knows of its secondaries (`configuration`: no
message either), and what each secondary answers (`secondary`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

Policy = Literal["", "required", "preferred", "none"]
Stage = Literal["local", "configuration", "secondary"]
ASK: Final[tuple[Policy, ...]] = ("required", "preferred")  # the others never ask


class Reason(StrEnum):
    """Why a site says no. The names travel: add, never rename."""

    YES = "yes"
    LOCAL = "local"  # refused where the command was given
    OUTSIDE = "outside"  # a source is not in the group of its target
    INACCESSIBLE = "inaccessible"  # the secondary is not connected
    SUSPENDED = "suspended"
    NOT_DUPLEX = "not-duplex"  # a first copy or a resend is under way
    VERSION = "version"  # the other side does not know the question
    VOLUME = "volume"  # it does not have a volume
    SIZE = "size"  # a volume has another size there
    RELATION_LIMIT = "relation-limit"
    SPACE = "space"
    INHIBITED = "inhibited"  # a relation there protects the target
    BUSY = "busy"  # too many reservations
    FAILED = "failed"  # its pool is read-only
    DEADLINE = "deadline"  # no answer in time


class Way(StrEnum):
    """How the content reaches the other sites."""

    LOCAL = "local"  # nobody follows the target
    RESERVED = "reserved"  # as a command, for which all of them keep room
    COMMAND = "command"  # as a command
    DATA = "data"


@dataclass(frozen=True, slots=True)
class Step:
    """One question of the chain, and its answer."""

    stage: Stage
    question: str
    ok: bool
    reason: Reason = Reason.YES
    site: str = ""  # the secondary's name, or its pool's identity
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """What a primary knows of one secondary."""

    site: str
    connected: bool
    suspended: str = ""  # why
    duplex: bool = False  # it has a base, and nothing but cuts lies between it and the present
    knows: bool = True  # it understands the question


def configuration(
    group: str, members: Collection[int], sources: Mapping[str, int], links: Iterable[Link]
) -> list[Step]:
    """What is known without asking, about a command onto volumes of one group.

    `sources` are the volumes that are read, by name. The first no is the last step.
    """
    steps = []
    outside = sorted(name for name, id in sources.items() if id not in members)
    detail = f"not in group {group!r}: {', '.join(outside)}" if outside else ""
    question = "are the sources mirrored with the target?"
    steps.append(
        Step("configuration", question, not outside, Reason.OUTSIDE, detail=detail)
        if outside
        else Step("configuration", question, ok=True)
    )
    if outside:
        return steps
    for link in links:
        steps.append(_of(link))
        if not steps[-1].ok:
            break
    return steps


def _of(link: Link) -> Step:
    question = "is the mirror up to date but for what is on its way?"
    for bad, reason, detail in (
        (bool(link.suspended), Reason.SUSPENDED, link.suspended),
        (not link.connected, Reason.INACCESSIBLE, "not connected"),
        (not link.duplex, Reason.NOT_DUPLEX, "a first copy or a resend is under way"),
        (not link.knows, Reason.VERSION, "its version cannot be asked"),
    ):
        if bad:
            return Step("configuration", question, ok=False, reason=reason, site=link.site,
                        detail=detail)  # fmt: skip
    return Step("configuration", question, ok=True, site=link.site)


@dataclass(frozen=True, slots=True)
class Asked:
    """A volume that a query names."""

    name: str
    here: bool  # known at the secondary
    same_size: bool
    inhibited: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a secondary looks at, in this order."""

    volumes: Sequence[Asked]
    duplex: bool
    relations_left: int  # after those that exist and those that are reserved
    reservations_left: int
    tight: bool  # space runs short
    failed: str = ""


def verdict(standing: Standing, relations: int) -> tuple[Reason, str]:
    """What a secondary says to a command that needs so many relations, and why."""
    for volume in standing.volumes:  # its configuration
        if not volume.here:
            return Reason.VOLUME, f"volume {volume.name!r} is not mirrored here"
        if not volume.same_size:
            return Reason.SIZE, f"volume {volume.name!r} has another size here"
    if standing.failed:  # its state
        return Reason.FAILED, standing.failed
    if not standing.duplex:
        return Reason.NOT_DUPLEX, "the group is being copied"
    for volume in standing.volumes:
        if volume.inhibited:
            return Reason.INHIBITED, f"a relation of this site protects {volume.name!r}"
    if standing.tight:
        return Reason.SPACE, "space runs short"
    if relations > standing.relations_left:
        return Reason.RELATION_LIMIT, f"{standing.relations_left} relations are left"
    if standing.reservations_left <= 0:
        return Reason.BUSY, "too many commands are reserved"
    return Reason.YES, ""


def allows(policy: Policy, steps: Iterable[Step]) -> bool:
    """Whether a command may be given after these steps. A local no is always one."""
    return all(step.ok or (policy != "required" and step.stage != "local") for step in steps)


def way(steps: Sequence[Step], *, followed: bool, inside: bool) -> Way:
    """How a command that is allowed reaches the other sites."""
    if not followed:
        return Way.LOCAL
    if not inside:
        return Way.DATA
    sure = all(step.ok for step in steps) and any(step.stage == "secondary" for step in steps)
    return Way.RESERVED if sure else Way.COMMAND


def first_no(steps: Iterable[Step]) -> Step | None:
    return next((step for step in steps if not step.ok), None)
