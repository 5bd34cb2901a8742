"""Other people's programs, run against real controllers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.control.process import Controller

MIB = 1 << 20

# What they come in, for whoever sees a test fail for want of one.
PACKAGES = {
    "nbdinfo": "libnbd-bin",
    "nbdcopy": "libnbd-bin",
    "nbdfuse": "libnbd-bin",
    "nbdkit": "nbdkit",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "fio": "fio",
    "mkfs.ext4": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "xfs_repair": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "btrfs": "btrfs-progs",
    "fusermount3": "fuse3",
    "losetup": "mount",
    "mount": "mount",
    "umount": "mount",
    "strace": "strace",
    "systemd-socket-activate": "systemd",
}
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's libnbd is for this one


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PATH": PATH, **more}


def lost(program: str) -> None:
    pytest.fail(f"{program} is missing: apt install {PACKAGES.get(program, program)}")


def run(*command: str | Path, ok: bool = True, timeout: float = 100) -> str:
    """Run a program to its end and return what it printed."""
    words = [str(word) for word in command]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        process = subprocess.Popen(
            words, text=True, env=environment(), start_new_session=True, **pipes
        )
    except FileNotFoundError:
        lost(words[0])
        raise
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException as e:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it started itself
        process.communicate()
        if isinstance(e, subprocess.TimeoutExpired):
            pytest.fail(f"{words} did not end within {timeout} seconds")
        raise
    if ok is (process.returncode != 0):
        pytest.fail(f"{words} ended with {process.returncode}:\n{out}\n{err}")
    return out if ok else out + err


@contextlib.contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs beside the test and ends with it."""
    words = [str(word) for word in command]
    try:
        process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        lost(words[0])
        raise
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(true: Callable[[], object], seconds: float = 20, what: str = "it") -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds} seconds for {what} in vain")
        time.sleep(0.02)


def uri(controller: Controller, export: str = "") -> str:
    return socket_uri(controller.directory / "nbd.sock", export)


def socket_uri(path: Path, export: str = "") -> str:
    return f"nbd+unix:///{quote(export)}?socket={path}"


def isochrone(controller: Controller, *words: str) -> str:
    site = ("--site", str(controller.directory))
    return run(sys.executable, "-m", "isochrone", *site, *words)


def fio(where: str, folder: Path, *options: str, timeout: float = 100) -> str:
    """fio against an export. It writes, then reads all back and compares."""
    return run(
        *("fio", "--name=e2e", "--ioengine=nbd", f"--uri={where}", f"--aux-path={folder}"),
        *("--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", *options),
        timeout=timeout,
    )
