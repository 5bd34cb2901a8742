"""Documents of the API about restore probes: a check that ran on a fork of the replica."""

from __future__ import annotations

import msgspec

from isochrone.store.probes import Result


class ProbeView(msgspec.Struct, kw_only=True):
    group: str
    copy: str  # that the check worked on; it is gone once there is a result
    cut: int
    stamp: int  # when the primary placed the cut, ns since 1970, by its clock
    time: str
    check: str  # the command
    began: str
    seconds: float  # it took, or has taken so far
    deadline: float  # seconds it may take
    result: Result  # good, bad, expired (nobody said how it ended), or nothing: it runs
    said: str = ""  # the last words of the check
    ended: str = ""
    uris: dict[str, str] = {}  # volume -> where it can be reached as long as the probe runs


class ProbeList(msgspec.Struct, kw_only=True):
    """The probes of a group, oldest first."""

    group: str
    age: float  # seconds since one ended well; -1: none has
    probes: list[ProbeView]


ANSWERS = (ProbeList, ProbeView)
