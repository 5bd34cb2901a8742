"""What is counted in a pool, and that counting again is cheap and right."""

from __future__ import annotations

from pathlib import Path

import msgspec

from isochrone.control.census import Census
from isochrone.control.views import CopyView
from isochrone.store import copies, volumes
from isochrone.store.pool import Pool
from isochrone.types import BLOCK, GIB, MIB, Caller, Proof


def write(pool: Pool, name: str, block: int, blocks: int) -> None:
    id = volumes.find(pool, name).id
    pool.stage_write(id, block, memoryview(b"x" * BLOCK * blocks))
    pool.commit()


async def test_mapped_bytes_follow_writes_and_discards(pool: Pool, fresh: Path) -> None:
    census = Census(pool, fresh)
    volume = volumes.create(pool, "v", 20 * GIB)
    assert (await census.volume(volume)).mapped == 0
    write(pool, "v", 0, 3)
    write(pool, "v", 1023, 2)  # two leaves
    write(pool, "v", 19 * GIB // BLOCK, 1)  # another chunk, far away
    assert (await census.volume(volume)).mapped == 6 * BLOCK
    pool.stage_discard(volume.id, 0, 1024)
    pool.commit()
    assert (await census.volume(volume)).mapped == 2 * BLOCK


async def test_what_did_not_change_is_not_counted_again(pool: Pool, fresh: Path) -> None:
    census = Census(pool, fresh)
    volume = volumes.create(pool, "v", MIB)
    write(pool, "v", 0, 1)
    await census.volume(volume)
    pool.state.forest.node = None  # type: ignore[assignment]  # whoever counts now fails
    assert (await census.volume(volume)).mapped == BLOCK


async def test_members_of_copies_are_with_their_copies(pool: Pool, fresh: Path) -> None:
    census = Census(pool, fresh)
    for name in ("b", "a"):
        volumes.create(pool, name, MIB)
    copies.take(pool, ["a", "b"], name="c")
    volumes.delete(pool, "b")
    assert [v.name for v in await census.volumes()] == ["a"]
    (copy,) = [msgspec.json.decode(raw, type=CopyView) for raw in await census.copies()]
    assert [(m.export, m.source) for m in copy.members] == [("a@c", "a"), ("b@c", "")]
    assert copy.time.endswith("Z")
    member = await census.volume(volumes.find(pool, "b@c"))
    assert (member.copy, member.source, member.read_only) == ("c", "", True)


async def test_space_is_what_the_files_have(pool: Pool, fresh: Path) -> None:
    census = Census(pool, fresh)
    assert census.space().log_bytes == 0
    volumes.create(pool, "v", GIB)
    for at in range(17):  # 68 MiB: a second segment
        write(pool, "v", at * 1024, 1024)
    space = census.space()
    files = [path for path in fresh.iterdir() if path.name.startswith("segment-")]
    assert space.log_segments == len(files) == 2
    assert space.log_bytes == sum(path.stat().st_size for path in files)
    assert space.free_bytes > 0


async def test_clients_are_named(pool: Pool, fresh: Path) -> None:
    volume = volumes.create(pool, "v", MIB)
    for caller in (
        Caller(Proof.USER, "uid 7", "unix#2"),
        Caller(Proof.CERTIFICATE, "db1", "192.0.2.1:9"),
        Caller(Proof.USER, "uid 7", "unix#1"),
        Caller(Proof.USER, "uid 7", "unix#1"),
        Caller(Proof.CERTIFICATE, "db1", "192.0.2.1:8"),
    ):
        pool.attached.attach(volume.id, caller)
    view = await Census(pool, fresh).volume(volume)
    assert view.clients == ["db1", "unix#1, unix#2"]
    assert [(a.kind, a.host, a.addresses) for a in view.attachments] == [
        ("certificate", "db1", ["192.0.2.1:8", "192.0.2.1:9"]),
        ("user", "uid 7", ["unix#1", "unix#2"]),
    ]
    guests = Census(pool, fresh).guests()
    assert [(g.export, g.host) for g in guests] == [("v", "db1"), ("v", "uid 7")]
