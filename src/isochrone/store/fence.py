"""The fence around commands that change a volume under whoever has it open.

What is asked here and the record that follows run in one step of the loop, and so does the
attaching of a client: nobody can come in between the look at the table and the change.
"""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.errors import Conflict
from isochrone.store.attachments import hosts_of
from isochrone.store.catalogue import Group, Volume
from isochrone.store.overlay import Decision, decide
from isochrone.store.pool import Pool


def followed(pool: Pool, volume: Volume) -> Group | None:
    """The group that carries the volume's changes to somebody."""
    group = pool.state.groups.get(volume.group)
    return group if group is not None and group.sessions else None


def pass_fence(
    pool: Pool,
    volumes: Sequence[Volume],
    act: str,
    *,
    online_ok: bool = False,
    force: bool = False,
    tell: bool = True,
) -> None:
    """Let a command change these volumes, or raise `Conflict`; either is told to the audit.

    Call it last of all checks, right before the record: what passes is noted as done. Only a
    rehearsal does not `tell`.
    """
    decisions = []
    for volume in volumes:
        attached = pool.attached.of(volume.id)
        mirrored = followed(pool, volume) is not None
        verdict = decide(attached, mirrored=mirrored, online_ok=online_ok, force=force)
        decisions.append(
            Decision(act, volume.name, mirrored, online_ok, force, tuple(attached), verdict)
        )
    refused = [decision for decision in decisions if not decision.verdict.perform]
    for decision in refused or decisions:
        for told in pool.on_decision if tell else ():
            told(decision)
    if refused:
        raise _in_use(pool, refused[0])


def _in_use(pool: Pool, decision: Decision) -> Conflict:
    hosts = [attachment for attachment in decision.attached if attachment.role != "mover"]
    lost = max((pool.attached.lease_left(host) for host in hosts), default=0.0)
    waits = f", cut off and expected back for another {lost:.0f} s," if lost else ""
    also = " and is mirrored" if decision.online_ok and decision.mirrored else ""
    first = hosts[0].host
    return Conflict(
        f"{decision.volume!r} is in use by {hosts_of(hosts)}{waits}{also}:"
        f" it cannot be {decision.act}",
        hint=detach_hint(decision.volume, first),
    )


def detach_hint(volume: str, host: str) -> str:
    """What to do about hosts that are in the way."""
    return (
        "disconnect its clients first; who is gone for good:"
        f" isochrone volume detach {volume} --host '{host}'"
    )
