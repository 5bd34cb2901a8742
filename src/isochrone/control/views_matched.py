"""Documents of the API about asking secondaries, and about copies at several sites."""

from __future__ import annotations

import msgspec


class StepView(msgspec.Struct, kw_only=True):
    """One question of the chain before a command, and its answer."""

    stage: str  # local, configuration, secondary
    question: str
    ok: bool
    reason: str  # yes, or a stable name of the no
    site: str  # the secondary; empty: it is not about one
    detail: str


class CheckView(msgspec.Struct, kw_only=True):
    """What would become of a command."""

    ok: bool  # whether every step says yes
    way: str  # how the content would reach the secondaries: local, reserved, command, data
    steps: list[StepView]


class RequestSiteView(msgspec.Struct, kw_only=True):
    peer: str  # pool identity of the secondary
    site: str  # what it calls itself
    state: str  # NEW, LOCAL_DONE, SENT, ARMED, OVERTAKEN, DONE, MISSED, REFUSED, EXPIRED
    detail: str
    copy: str  # its name there
    withdraw: bool  # it may come late, and then goes again


class RequestView(msgspec.Struct, kw_only=True):
    """A copy that is to exist at several sites, as of one instant."""

    request: str
    group: str
    copy: str  # its name here; empty: not taken yet
    volumes: list[str]
    stamp: int  # the instant of the copy; 0: not taken yet
    time: str
    done: bool  # at all sites
    consistency: str = "crash"  # of the copy here, while it is here
    inherited: bool = False  # it was asked for at a site from which this one took over
    sites: list[RequestSiteView]


class RequestList(msgspec.Struct, kw_only=True):
    requests: list[RequestView]


ANSWERS = (StepView, CheckView, RequestView, RequestList)
