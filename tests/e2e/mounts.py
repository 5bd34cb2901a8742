"""A volume as a mounted file system: nbdfuse shows it as a file, a loop device as a disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import MIB, environment, run, running, until

MKFS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
FSCK = {
    "ext4": ("e2fsck", "-f", "-n"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}


def why_not() -> str:
    """Why no file system can be mounted here; empty if one can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    for device in ("/dev/fuse", "/dev/loop-control"):
        try:
            os.close(os.open(device, os.O_RDWR))
        except OSError as e:
            return f"{device}: {e.strerror}"
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    return done.stderr.strip() if done.returncode else ""


def need_mounts() -> None:
    """Skip where the machine does not let us; in CI that would be a hole nobody sees, so fail.

    A runner that can never do it says so itself, in ISOCHRONE_NO_MOUNTS. A missing package never
    gets here: it is a failure of the program that is missing.
    """
    known = os.environ.get("ISOCHRONE_NO_MOUNTS", "")
    if known:
        pytest.skip(f"this runner cannot mount file systems: {known}")
    reason = why_not()
    if reason and os.environ.get("CI"):
        pytest.fail(
            f"no file system can be mounted here ({reason}), so file systems on volumes are not"
            " tested; run as root with /dev/fuse and loop devices, or set"
            " ISOCHRONE_NO_MOUNTS=reason if this runner never can"
        )
    if reason:
        pytest.skip(f"no file system can be mounted here: {reason}")


@contextlib.contextmanager
def disk(uri: str, folder: Path) -> Iterator[str]:
    """A loop device over an export."""
    shown = folder / "fuse"
    shown.mkdir(exist_ok=True)
    file = shown / "disk"
    with running("nbdfuse", file, uri):
        until(file.exists, what="nbdfuse")
        try:
            device = run("losetup", "--find", "--show", file).strip()
            try:
                yield device
            finally:
                # A detach waits for whoever still holds the device, udev for instance.
                run("losetup", "--detach", device)
                until(lambda: not run("losetup", "--associated", file).strip(), what="losetup")
        finally:
            run("fusermount3", "-u", shown)


@contextlib.contextmanager
def mounted(device: str, folder: Path, *options: str) -> Iterator[Path]:
    where = folder / "mnt"
    where.mkdir(exist_ok=True)
    run("mount", *options, device, where)
    try:
        yield where
    finally:
        run("umount", where)


def check(kind: str, device: str) -> None:
    """The file system's own check finds nothing."""
    run(*FSCK[kind], device)


class Files:
    """A workload of files, and what must be there afterwards."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.dice = random.Random(seed)
        self.sums: dict[str, str] = {}  # of every file, by name
        self.synced: dict[str, str] = {}  # of those that were fsynced, and not touched since
        self._count = 0

    def work(self, rounds: int, *, sync: bool = False) -> None:
        """Make, overwrite, rename and delete files."""
        for _ in range(rounds):
            chance = self.dice.random()
            if chance < 0.6 or len(self.sums) < 5:
                self._count += 1
                self.write(f"d{self._count % 7}/f{self._count}", sync=sync)
            elif chance < 0.75:
                self.write(self._some(), sync=sync)
            elif chance < 0.9:
                old = self._some()
                self._count += 1
                (self.root / old).rename(self.root / f"r{self._count}")
                self.sums[f"r{self._count}"] = self.sums.pop(old)
                self.synced.pop(old, None)
            else:
                name = self._some()
                (self.root / name).unlink()
                self.sums.pop(name)
                self.synced.pop(name, None)

    def write(self, name: str, *, sync: bool = False) -> None:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        data = self.dice.randbytes(self.dice.choice((10, 4096, 70_000, MIB)))
        self.synced.pop(name, None)
        with path.open("wb") as f:
            f.write(data)
            if sync:
                f.flush()
                os.fsync(f.fileno())
        self.sums[name] = hashlib.sha256(data).hexdigest()
        if sync:
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            self.synced[name] = self.sums[name]

    def compare(self, sums: dict[str, str]) -> None:
        for name, wanted in sums.items():
            found = hashlib.sha256((self.root / name).read_bytes()).hexdigest()
            assert found == wanted, f"{name} is not what was written"

    def _some(self) -> str:
        return self.dice.choice(sorted(self.sums))
