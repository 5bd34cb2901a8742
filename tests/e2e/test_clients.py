"""Every client a person will try, against a real controller and a real pool."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.control.process import Controller
from tests.e2e.conftest import NewVolume
from tests.e2e.programs import (
    MIB,
    SYSTEM_PYTHON,
    fio,
    isochrone,
    run,
    running,
    socket_uri,
    until,
    uri,
)

SIZE = 64 * MIB


@pytest.fixture
def image(folder: Path) -> Path:
    """Data, holes, zeros, and an end that is no multiple of a block."""
    path = folder / "image"
    with path.open("wb") as f:
        f.write(os.urandom(5 * MIB + 512))
        f.seek(20 * MIB)
        f.write(os.urandom(3 * MIB))
        f.write(bytes(2 * MIB))
        f.seek(SIZE - 700)
        f.write(os.urandom(700))
    return path


# -- libnbd


def test_nbdinfo_tells_size_and_abilities(controller: Controller, volume: NewVolume) -> None:
    export = uri(controller, volume())
    assert run("nbdinfo", "--size", export).strip() == str(SIZE)
    for ability in ("flush", "fua", "trim", "zero", "fast-zero", "df", "multi-conn", "cache"):
        run("nbdinfo", "--can", ability, export)
    run("nbdinfo", "--is", "read-only", export, ok=False)
    (told,) = json.loads(run("nbdinfo", "--json", export))["exports"]
    assert told["export-size"] == SIZE
    assert told["block_size_preferred"] == 4096
    assert told["is_read_only"] is False


def test_nbdinfo_lists_volumes_and_copies(controller: Controller, volume: NewVolume) -> None:
    name = volume()
    isochrone(controller, "copy", "take", "--name", "listed", name)
    told = json.loads(run("nbdinfo", "--list", "--json", uri(controller)))
    exports = {e["export-name"]: e for e in told["exports"]}
    assert exports[f"{name}@listed"]["is_read_only"] is True
    assert exports[name]["is_read_only"] is False
    isochrone(controller, "copy", "delete", "listed")


def test_nbdinfo_maps_what_is_allocated(
    controller: Controller, volume: NewVolume, image: Path
) -> None:
    export = uri(controller, volume())
    run("nbdcopy", image, export)
    extents = json.loads(run("nbdinfo", "--map", "--json", export))
    assert sum(e["length"] for e in extents) == SIZE
    data = [(e["offset"], e["length"]) for e in extents if not e["type"] & 1]
    assert data[0][0] == 0
    assert sum(length for _, length in data) < 12 * MIB
    totals = json.loads(run("nbdinfo", "--map", "--totals", "--json", export))
    assert sum(t["size"] for t in totals) == SIZE


@pytest.mark.parametrize("connections", [1, 4])
def test_nbdcopy_both_ways(
    controller: Controller, volume: NewVolume, image: Path, folder: Path, connections: int
) -> None:
    export = uri(controller, volume())
    many = f"--connections={connections}"
    run("nbdcopy", many, "--flush", image, export)
    run("nbdcopy", many, export, folder / "back")
    run("cmp", image, folder / "back")
    # Between two of our own exports, and in requests of the largest size nbdcopy knows.
    other = uri(controller, volume())
    run("nbdcopy", many, "--request-size=33554432", "--requests=4", export, other)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", export, other)


LIBNBD = """
import nbd, os, sys
uri = sys.argv[1]
h = nbd.NBD()
h.set_export_name("nothing")
h.connect_uri(uri)
size = h.get_size()
assert h.can_multi_conn() and h.can_fua() and h.can_trim() and h.can_zero()
data = os.urandom(1 << 20)
cookies = []
for at in range(64):
    buffer = nbd.Buffer.from_bytearray(bytearray(data[at * 16384 : (at + 1) * 16384]))
    cookies.append(h.aio_pwrite(buffer, 12345 + at * 16384))
while h.aio_in_flight():
    h.poll(-1)
    for cookie in list(cookies):
        if h.aio_command_completed(cookie):
            cookies.remove(cookie)
h.flush()
assert h.pread(1 << 20, 12345) == data
h.zero(4096, 12345 + 100)
assert h.pread(4096, 12345 + 100) == bytes(4096)
h.trim(8192, 0)
h.cache(1 << 20, 0)
h.pwrite(b"end", size - 3, nbd.CMD_FLAG_FUA)
assert h.pread(3, size - 3) == b"end"
h.set_strict_mode(0)
for bad in (lambda: h.pread(2, size - 1), lambda: h.pwrite(b"xx", size - 1),
            lambda: h.pread(0, 0), lambda: h.trim(2, size - 1)):
    try:
        bad()
    except nbd.Error:
        continue
    raise SystemExit("a bad request was not refused")
assert h.pread(3, size - 3) == b"end", "and the connection goes on"
h.shutdown()
print("fine")
"""


def test_python_libnbd(controller: Controller, volume: NewVolume) -> None:
    assert run(SYSTEM_PYTHON, "-W", "ignore", "-c", LIBNBD, uri(controller, volume())) == "fine\n"


# -- qemu


def test_qemu_img(controller: Controller, volume: NewVolume, image: Path, folder: Path) -> None:
    export = uri(controller, volume())
    told = json.loads(run("qemu-img", "info", "--output=json", export))
    assert told["virtual-size"] == SIZE
    raw = ("-f", "raw", "-O", "raw")
    run("qemu-img", "convert", "-n", "-m", "8", "-W", *raw, image, export)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, export)
    extents = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", export))
    assert sum(e["length"] for e in extents) == SIZE
    back = folder / "back.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", export, back)
    run("qemu-img", "check", back)
    run("qemu-img", "compare", "-F", "raw", back, export)
    other = uri(controller, volume())
    run("qemu-img", "convert", "-n", *raw, export, other)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", export, other)


def test_qemu_img_bench(controller: Controller, volume: NewVolume) -> None:
    export = uri(controller, volume())
    for options in (("-w", "-s", "4096"), ("-w", "-s", "65536", "--flush-interval=50"), ()):
        told = run("qemu-img", "bench", "-f", "raw", "-c", "2000", "-d", "32", *options, export)
        assert "Run completed" in told


def test_qemu_io(controller: Controller, volume: NewVolume) -> None:
    script = (
        *("write -P 7 1000 100000", "write -f -P 8 4096 4096", "discard 0 4096"),
        *("write -z 8192 4096", "write -z -u 64k 64k", "flush"),
        *("aio_write -P 9 1M 1M", "aio_write -P 10 2M 31M", "aio_flush"),
        *("read -P 0 0 4096", "read -P 8 4096 4096", "read -P 0 8192 4096", "read -P 0 64k 64k"),
        *("read -P 7 12288 53248", "read -P 9 1M 1M", "read -P 10 2M 31M"),
    )
    commands = [word for line in script for word in ("-c", line)]
    told = run("qemu-io", "-f", "raw", *commands, uri(controller, volume()))
    assert "verification failed" not in told
    assert "error" not in told.lower()


def test_qemu_io_cannot_change_a_copy(controller: Controller, volume: NewVolume) -> None:
    name = volume()
    isochrone(controller, "copy", "take", "--name", "frozen", name)
    export = uri(controller, f"{name}@frozen")
    run("qemu-io", "-f", "raw", "-c", "write 0 4096", export, ok=False)
    run("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4096", export)
    isochrone(controller, "copy", "delete", "frozen")


def test_qemu_storage_daemon(
    controller: Controller, volume: NewVolume, image: Path, folder: Path
) -> None:
    """qcow2 inside a volume, served on by QEMU's own block layer."""
    name = volume("96MiB")
    run("qemu-img", "create", "-f", "qcow2", uri(controller, name), str(SIZE))
    served = folder / "qsd.sock"
    server = f"server.type=unix,server.path={controller.directory}/nbd.sock"
    with running(
        *("qemu-storage-daemon",),
        *("--blockdev", f"driver=nbd,node-name=wire,{server},export={name},discard=unmap"),
        *("--blockdev", "driver=qcow2,node-name=disk,file=wire,discard=unmap"),
        *("--nbd-server", f"addr.type=unix,addr.path={served}"),
        *("--export", "type=nbd,id=e,node-name=disk,name=disk,writable=on"),
    ):
        until(served.exists, what="qemu-storage-daemon")
        run("nbdcopy", "--flush", image, socket_uri(served, "disk"))
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, socket_uri(served, "disk"))
        fio(socket_uri(served, "disk"), folder, "--rw=randwrite", "--bs=4k", "--size=8m")
    run("qemu-img", "check", "-f", "qcow2", uri(controller, name))


# -- fio


@pytest.mark.parametrize(
    "options",
    [
        ("--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned", "--fsync=16"),
        ("--rw=randwrite", "--bssplit=4k/60:64k/30:1m/10", "--fsync=32"),
        ("--rw=randtrimwrite", "--bs=16k"),
        ("--rw=write", "--bs=1m"),
    ],
    ids=["odd-sizes", "mixed-sizes", "trim", "sequential"],
)
def test_fio_verifies(
    controller: Controller, volume: NewVolume, folder: Path, options: tuple[str, ...]
) -> None:
    fio(uri(controller, volume()), folder, "--size=48m", "--iodepth=32", *options)


def test_fio_of_several_clients_on_one_volume(
    controller: Controller, volume: NewVolume, folder: Path
) -> None:
    own = ("--numjobs=4", "--size=8m", "--offset_increment=16m", "--thread", "--group_reporting")
    fio(uri(controller, volume()), folder, "--rw=randwrite", "--bs=4k", "--iodepth=16", *own)


# -- a volume larger than any disk here


def test_a_terabyte_of_sparse_data_comes_back(controller: Controller, volume: NewVolume) -> None:
    """nbdkit makes 1 TiB with islands of data, and compares every byte that comes back."""
    export = uri(controller, volume("1TiB"))
    plugin = ("nbdkit", "-f", "-U", "-", "sparse-random", "1T", "seed=7", "percent=0.02")
    run(*plugin, "--run", f'nbdcopy --destination-is-zero "$uri" "{export}"')
    run(*plugin, "--run", f'nbdcopy --destination-is-zero "{export}" "$uri"')
