"""Documents of the API about failing over, switching and coming back."""

from __future__ import annotations

import msgspec

from isochrone.control.times import rfc3339
from isochrone.dr.reports import LossStatement, RejoinReport, SwitchReport


class LossView(LossStatement, kw_only=True):
    """What a promotion would mean now, with its instants in words."""

    cut_time: str
    recovery_point_time: str
    last_heard_time: str


class SwitchView(SwitchReport, kw_only=True):
    cut_time: str


class RejoinView(RejoinReport, kw_only=True):
    since_time: str
    until_time: str


def loss_view(found: LossStatement) -> LossView:
    return LossView(
        **msgspec.structs.asdict(found),
        cut_time=rfc3339(found.cut_stamp),
        recovery_point_time=rfc3339(found.recovery_point),
        last_heard_time=rfc3339(found.last_heard),
    )


def switch_view(report: SwitchReport) -> SwitchView:
    return SwitchView(**msgspec.structs.asdict(report), cut_time=rfc3339(report.cut_stamp))


def rejoin_view(report: RejoinReport) -> RejoinView:
    return RejoinView(
        **msgspec.structs.asdict(report),
        since_time=rfc3339(report.since),
        until_time=rfc3339(report.until),
    )
