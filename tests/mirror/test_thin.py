"""What is thin at the primary is thin at the secondary: the same blocks have data at both."""

from __future__ import annotations

from random import Random

from isochrone.store import copies
from isochrone.store.extents import mapped
from isochrone.types import BLOCK
from tests.mirror.sites import GROUP, Host, Two, play

BLOCKS = 1024


def with_data(host: Host, name: str) -> list[int]:
    """Blocks that take space, also if they hold zeros."""
    state = host.pool.state
    table = state.tables[state.names[name]]
    found: list[int] = []
    at = 0
    for blocks, has_data in mapped(state.forest, table, 0, BLOCKS, BLOCKS):
        found.extend(range(at, at + blocks) if has_data else ())
        at += blocks
    assert at == BLOCKS
    return found


def some_changes(host: Host, dice: Random) -> None:
    for _ in range(30):
        name, first = dice.choice(["db", "wal"]), dice.randrange(BLOCKS - 64)
        match dice.randrange(4):
            case 0:
                host.discard(name, first, dice.randint(1, 64))
            case 1:  # zeros that somebody wrote are data
                host.device(name).write(first * BLOCK, memoryview(bytes(4 * BLOCK)))
                host.pool.commit()
            case _:
                host.write(name, first, "data", count=dice.randint(1, 40))


def test_the_same_blocks_have_data_whichever_way_they_came() -> None:
    """By a first copy, by the log, by a resend; in volumes and in copies."""

    async def scenario(two: Two) -> None:
        dice = Random(5)
        some_changes(two.a, dice)
        await two.mirror()
        for way in ("first copy", "log", "resend"):
            if way == "resend":
                two.a.mirrors.suspend(GROUP)
            some_changes(two.a, dice)
            copies.take(two.a.pool, ["db", "wal"], name=way.replace(" ", "-"))
            some_changes(two.a, dice)
            if way == "resend":
                two.a.mirrors.resume(GROUP)
            await two.b.wait()
            for name in sorted(two.a.pool.state.names):
                assert with_data(two.b, name) == with_data(two.a, name), f"{name} after the {way}"
        assert 0 < len(with_data(two.b, "db")) < BLOCKS

    play(scenario, mirrored=False)
