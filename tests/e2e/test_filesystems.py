"""File systems on volumes, checked by themselves; also after the controller was killed."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from tests.control.process import Controller, Start
from tests.e2e.conftest import NewVolume
from tests.e2e.mounts import MKFS, Files, check, disk, mounted, need_mounts
from tests.e2e.programs import isochrone, run, uri

KINDS = list(MKFS)
SIZE = "400MiB"  # the least that XFS takes is 300


@pytest.fixture(autouse=True)
def can_mount() -> None:
    need_mounts()


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_back_and_fsck_is_content(
    controller: Controller, volume: NewVolume, folder: Path, kind: str
) -> None:
    name = volume(SIZE)
    with disk(uri(controller, name), folder) as device:
        run(*MKFS[kind], device)
        with mounted(device, folder) as root:
            files = Files(root, seed=1)
            files.work(150)
            files.compare(files.sums)
            run("fstrim", root)
        check(kind, device)
        with mounted(device, folder):
            files.compare(files.sums)
            # A copy of a mounted file system is what a power cut would leave.
            files.work(50, sync=True)
            at_copy = dict(files.synced)
            isochrone(controller, "copy", "take", "--writable", "--name", "live", name)
            files.work(50)
        check(kind, device)
    with disk(uri(controller, f"{name}@live"), folder) as device:
        with mounted(device, folder):
            files.compare(at_copy)
        check(kind, device)
    isochrone(controller, "copy", "delete", "live")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_under_a_mounted_file_system(start: Start, folder: Path, kind: str) -> None:
    """What was fsynced is there after a restart, and the journal makes the rest whole."""
    first = start(folder / "pool")
    isochrone(first, "volume", "create", "v", SIZE)
    with disk(uri(first, "v"), folder) as device:
        run(*MKFS[kind], device)
        # The kernel finds its disk gone: it may refuse anything from here on, but must let go.
        with mounted(device, folder) as root:
            files = Files(root, seed=2)
            files.work(40)
            files.work(40, sync=True)
            kept = dict(files.synced)
            files.work(20)
            first.end(signal.SIGKILL)
            with contextlib.suppress(OSError):
                files.work(20, sync=True)
    second = start(folder / "pool")
    # Names that were changed after the kill may be old or new; all others must be as they were.
    for name in set(kept) - set(files.synced):
        kept.pop(name)
    kept = {name: total for name, total in kept.items() if files.synced[name] == total}
    assert len(kept) > 10
    with disk(uri(second, "v"), folder) as device:
        with mounted(device, folder):
            files.compare(kept)
            files.work(0)
        check(kind, device)
    assert second.end()[0] == 0
