"""Protection of production data from being overlaid: who may be in the way of a command.

A command that changes a volume's content at once pulls it away under every host that has it open:
their caches and file systems would write old state over new. The mover of a mirror is no such host:
it reads the log. So the question is not whether a volume is in use, but by whom:

    mirrored  in use by    told that hosts may have it open   result
    no        nobody       -                                  perform
    no        any host     no                                 reject
    no        any host     yes                                perform: the operator takes the risk
    yes       mover only   -                                  perform
    yes       any host     no                                 reject
    yes       any host     yes                                reject: secondaries would follow

Forcing performs in every case. Each decision goes to the audit with all who were attached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.store.attachments import Attachment


@dataclass(frozen=True, slots=True)
class Verdict:
    perform: bool
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and all that it was made from."""

    act: str  # what was to be done to the volume: copied onto, reverted, deleted, …
    volume: str
    mirrored: bool
    online_ok: bool
    force: bool
    attached: tuple[Attachment, ...]
    verdict: Verdict


# (mirrored, a host has it open, hosts may) -> (perform, why)
TABLE: Final[dict[tuple[bool, bool, bool], Verdict]] = {
    (False, False, False): Verdict(True, "nobody has it open"),
    (False, False, True): Verdict(True, "nobody has it open"),
    (False, True, False): Verdict(False, "a host has it open"),
    (False, True, True): Verdict(True, "the operator takes the risk for hosts that have it open"),
    (True, False, False): Verdict(True, "at most its mirror reads it"),
    (True, False, True): Verdict(True, "at most its mirror reads it"),
    (True, True, False): Verdict(False, "a host has it open"),
    (True, True, True): Verdict(False, "a host has it open, and it is mirrored"),
}
FORCED: Final = Verdict(True, "forced, although a host has it open")


def decide(
    attached: Sequence[Attachment], *, mirrored: bool, online_ok: bool, force: bool
) -> Verdict:
    """Whether a volume's content may be changed at once, and why."""
    hosts = any(attachment.role != "mover" for attachment in attached)
    verdict = TABLE[mirrored, hosts, online_ok]
    return FORCED if force and not verdict.perform else verdict
