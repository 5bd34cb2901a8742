"""Which copies of a schedule stay, and why. Pure.

A copy is marked with the rules that were due when it was taken. Each rule keeps its newest N, by
the order of the log: no clock is looked at, so none can make anything old. A copy stays while any
rule keeps it. One that is held or pinned stays too; it counts as one of the N only while it is
among the newest N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isochrone.store.schedule import Rule


@dataclass(frozen=True, slots=True)
class Taken:
    """A copy that a schedule took."""

    name: str
    lsn: int
    rules: tuple[str, ...]  # that were due
    held: str = ""  # why it must stay, whatever the rules say; empty: it need not


@dataclass(frozen=True, slots=True)
class Verdict:
    copy: str
    keep: bool
    why: str


def decide(rules: Sequence[Rule], taken: Sequence[Taken]) -> list[Verdict]:
    """A verdict on each copy, the newest first."""
    counts = dict.fromkeys((rule.name for rule in rules), 0)
    limits = {rule.name: rule.keep for rule in rules}
    verdicts = []
    for copy in sorted(taken, key=lambda copy: -copy.lsn):
        keepers, beyond = [], []
        for name in copy.rules:
            if name not in limits:
                beyond.append(f"`{name}` is no rule any more")
                continue
            counts[name] += 1
            if counts[name] <= limits[name]:
                keepers.append(f"{name} ({counts[name]} of {limits[name]})")
            else:
                beyond.append(f"{name} keeps {limits[name]} newer ones")
        if copy.held:
            keepers.append(copy.held)
        verdicts.append(Verdict(copy.name, bool(keepers), ", ".join(keepers or beyond)))
    return verdicts
