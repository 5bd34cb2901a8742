"""Documents of the API about groups and their mirrors."""

from __future__ import annotations

import msgspec

from isochrone.control.times import rfc3339
from isochrone.mirror.status import GroupStatus


class GroupView(GroupStatus, kw_only=True):
    """A group at this site, with its instants in words."""

    cut_time: str
    recovery_point_time: str
    promoted_time: str
    last_heard_time: str = ""


class GroupList(msgspec.Struct, kw_only=True):
    groups: list[GroupView]


def group_view(status: GroupStatus) -> GroupView:
    return GroupView(
        **msgspec.structs.asdict(status),
        cut_time=rfc3339(status.cut_stamp),
        recovery_point_time=rfc3339(status.recovery_point),
        promoted_time=rfc3339(status.promoted_stamp),
        last_heard_time=rfc3339(status.last_heard),
    )
