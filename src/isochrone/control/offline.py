"""What can be done with a pool while its controller is stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from isochrone.errors import NotFound
from isochrone.store.check import Finding, findings
from isochrone.store.pool import Pool
from isochrone.store.rebuild import rebuild
from isochrone.world import system_world
from isochrone.world.disk import BACKUP_NAME, DAMAGED_NAME, METADATA_NAME, FolderDisk


@dataclass(slots=True)
class CheckReport:
    damaged: int = 0  # ranges
    lines: list[str] = field(default_factory=list)


def check(directory: Path) -> CheckReport:
    """Read every block of a closed pool.

    Raises `NotFound` if there is none, `Conflict` if a controller has it open, and `Damaged` if it
    cannot be opened at all.
    """
    _must_hold_a_pool(directory)
    disk = FolderDisk(directory)
    try:
        pool = Pool.open(disk, system_world())
        try:
            return _report(pool)
        finally:
            pool.abandon()
    finally:
        disk.close()


def rebuild_metadata(directory: Path) -> str:
    """Replace a damaged metadata store of a closed pool; what was done, in a sentence.

    Raises `Conflict` if it is good or a controller has the pool open, `Damaged` if it cannot be
    rebuilt.
    """
    _must_hold_a_pool(directory)
    disk = FolderDisk(directory)
    try:
        done = rebuild(disk)
    finally:
        disk.close()
    replayed = done.lsn - done.checkpoint_lsn
    return (
        f"rebuilt from {done.source}: the next start replays {replayed} records, up to record"
        f" {done.lsn}; the old store is {directory / DAMAGED_NAME}"
    )


def _must_hold_a_pool(directory: Path) -> None:
    """One whose metadata store is gone is a pool too."""
    if not any((directory / name).exists() for name in (METADATA_NAME, BACKUP_NAME)) and not any(
        directory.glob("segment-*")
    ):
        raise NotFound(f"there is no pool in {directory}")


def _report(pool: Pool) -> CheckReport:
    report = CheckReport()
    for (exports, cause), ranges in groupby(findings(pool), _place):
        found = list(ranges)
        report.damaged += 1
        length = sum(f.bytes for f in found)
        for export in exports:
            report.lines.append(f"{export}: {length} bytes at {found[0].offset}: {cause}")
    volumes = sum(v.kind == "volume" for v in pool.state.volumes.values())
    verdict = f"{report.damaged} damaged ranges" if report.damaged else "no damage"
    report.lines.append(f"{volumes} volumes, {len(pool.state.copies)} copies: {verdict}")
    return report


def _place(finding: Finding) -> tuple[tuple[str, ...], str]:
    return tuple(finding.exports), finding.cause
