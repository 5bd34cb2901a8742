"""What each record about restore probes changes. Called by `State.apply` and other apply steps."""

from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.catalogue import Catalogue, Place
from isochrone.store.probes import Probe, Probes


def probe_begun(state: Catalogue, place: Place, record: r.ProbeBegun) -> None:
    known = state.probes.setdefault(record.group, Probes(group=record.group, probes=[]))
    known.probes.append(
        Probe(
            copy=record.copy,
            cut=record.cut,
            stamp=record.stamp,
            check=record.check,
            began=record.began,
            seconds=record.seconds,
        )
    )
    known.trim()


def probe_ended(state: Catalogue, place: Place, record: r.ProbeEnded) -> None:
    probe = state.probes[record.group].running
    assert probe is not None, record
    probe.ended, probe.result, probe.said = record.ended, record.result, record.said
    if record.group not in state.groups:
        del state.probes[record.group]


def forgotten(state: Catalogue, group: str) -> None:
    """The group is gone, and what was found out about it; what runs has a copy that must go."""
    known = state.probes.pop(group, None)
    if known is not None and known.running is not None:
        state.probes[group] = Probes(group=group, probes=[known.running])
