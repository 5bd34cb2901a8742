"""What can be done with a pool while its controller is stopped."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from isochrone.errors import NotFound
from isochrone.store.check import Finding, findings
from isochrone.store.pool import Pool
from isochrone.world import system_world
from isochrone.world.disk import METADATA_NAME, FolderDisk


@dataclass(slots=True)
class CheckReport:
    damaged: int = 0  # ranges
    lines: list[str] = field(default_factory=list)


def check(directory: Path) -> CheckReport:
    """Read every block of a closed pool.

    Raises `NotFound` if there is none, `Conflict` if a controller has it open, and `Damaged` if it
    cannot be opened at all.
    """
    if not (directory / METADATA_NAME).exists():
        raise NotFound(f"there is no pool in {directory}")
    disk = FolderDisk(directory)
    try:
        pool = Pool.open(disk, system_world())
        try:
            return _report(pool)
        finally:
            pool.abandon()
    finally:
        disk.close()


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
