"""A real controller whose system calls fail: `strace` answers them in the kernel's place."""

from __future__ import annotations

import contextlib
import errno
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.process import Controller, Nbd, Start
from tests.e2e.programs import environment, isochrone, lost

BLOCK = 4096


@contextlib.contextmanager
def failing(
    controller: Controller, calls: str, error: str, path: Path, when: str
) -> Iterator[None]:
    """System calls on one file fail. The controller's own threads are all followed."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:error={error}:when={when}"]
    try:
        tracer = subprocess.Popen(
            [*command, "-p", str(controller.process.pid)],
            env=environment(), stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    except FileNotFoundError:
        lost("strace")
        raise
    try:
        wait_for_tracer(controller, tracer)
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=20)


def wait_for_tracer(controller: Controller, tracer: subprocess.Popen[str]) -> None:
    tick = threading.Event()
    for _ in range(500):
        threads = list(Path(f"/proc/{controller.process.pid}/task").iterdir())
        traced = [t for t in threads if f"TracerPid:\t{tracer.pid}\n" in (t / "status").read_text()]
        if threads and len(traced) == len(threads):
            return
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            pytest.fail(f"strace cannot attach (kernel.yama.ptrace_scope?): {tracer.stderr.read()}")
        tick.wait(0.02)
    pytest.fail("strace did not attach")


@pytest.fixture
def pool(start: Start, folder: Path) -> Controller:
    controller = start(folder / "pool")
    assert controller.ready
    isochrone(controller, "volume", "create", "v", "1MiB")
    with client(controller) as nbd:
        nbd.write(0, b"a" * BLOCK)
        nbd.flush()
    return controller


def client(controller: Controller) -> Nbd:
    return Nbd(str(controller.directory / "nbd.sock"), "v")


def newest(controller: Controller) -> Path:
    return max(controller.directory.glob("segment-*"))


def refused(call, *arguments: object) -> int:
    with pytest.raises(OSError) as e:
        call(*arguments)
    assert e.value.errno is not None
    return e.value.errno


def test_a_sync_that_failed_once_is_never_forgotten(
    pool: Controller, start: Start, folder: Path
) -> None:
    """The next sync would succeed, of pages that the kernel has dropped: it must not count."""
    with client(pool) as nbd, failing(pool, "fdatasync,fsync", "EIO", newest(pool), "1"):
        nbd.write(BLOCK, b"b" * BLOCK)
        assert refused(nbd.flush) == errno.EIO
    with client(pool) as nbd:
        assert refused(nbd.flush) == errno.EIO
        assert refused(nbd.write, 0, b"c" * BLOCK) in (errno.EIO, errno.EPERM)
        assert nbd.read(0, 2 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK
    _, _, err = pool.end()
    assert "sync failed" in err
    again = start(folder / "pool")
    assert again.ready, again.wait()
    with client(again) as nbd:
        assert nbd.read(0, BLOCK) == b"a" * BLOCK
        nbd.write(0, b"d" * BLOCK)
        nbd.flush()
    assert again.end()[0] == 0


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_an_append_that_failed_is_refused_and_leaves_nothing(
    pool: Controller, start: Start, folder: Path, error: str
) -> None:
    calls = "pwritev,pwrite64,pwritev2"
    with client(pool) as nbd, failing(pool, calls, error, newest(pool), "1"):
        assert refused(nbd.write, 0, b"x" * BLOCK) == getattr(errno, error)
        assert nbd.read(0, BLOCK) == b"a" * BLOCK
        nbd.write(BLOCK, b"b" * BLOCK)
        nbd.flush()
    assert pool.end()[0] == 0
    again = start(folder / "pool")
    with client(again) as nbd:
        assert nbd.read(0, 2 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK
    assert again.end()[0] == 0


def test_a_disk_that_stays_full(pool: Controller, start: Start, folder: Path) -> None:
    calls = "pwritev,pwrite64,pwritev2"
    with client(pool) as nbd, failing(pool, calls, "ENOSPC", newest(pool), "1+"):
        for n in range(5):
            assert refused(nbd.write, n * BLOCK, b"x" * BLOCK) == errno.ENOSPC
        nbd.flush()  # of what was taken before
        assert nbd.read(0, 2 * BLOCK) == b"a" * BLOCK + bytes(BLOCK)
    with client(pool) as nbd:
        nbd.write(0, b"y" * BLOCK)
        nbd.flush()
    pool.process.kill()
    pool.wait()
    again = start(folder / "pool")
    with client(again) as nbd:
        assert nbd.read(0, 2 * BLOCK) == b"y" * BLOCK + bytes(BLOCK)


def test_blocks_the_disk_cannot_read(pool: Controller) -> None:
    with client(pool) as nbd:
        nbd.write(8 * BLOCK, b"b" * BLOCK)
        with failing(pool, "pread64,preadv,preadv2", "EIO", newest(pool), "1+"):
            assert refused(nbd.read, 8 * BLOCK, BLOCK) == errno.EIO
        assert nbd.read(8 * BLOCK, BLOCK) == b"b" * BLOCK
    assert pool.end()[0] == 0
