"""When a cut is worth placing, and what it marks."""

from __future__ import annotations

from isochrone.mirror import cuts, groups
from isochrone.store import copies, volumes
from isochrone.store import records as r
from isochrone.types import MIB
from tests.mirror.sites import GROUP, Host, Two, play


def in_a_group(act) -> None:
    async def scenario(two: Two) -> None:
        volumes.create(two.a.pool, "db", MIB)
        volumes.create(two.a.pool, "other", MIB)
        groups.create(two.a.pool, GROUP, ["db"])
        await act(two.a)

    play(scenario, made=False)


def place(host: Host):
    return cuts.place(host.pool, host.group(), {})


def test_a_cut_marks_its_place() -> None:
    async def act(host: Host) -> None:
        host.write("db", 0, "x", count=3)
        first = place(host)
        assert (first.cut, first.lsn, first.blocks_changed) == (1, host.pool.log.lsn, 3)
        assert first.stamp == host.site.clock.wall_ns()
        assert place(host).cut == 2
        assert host.group().cut == 2

    in_a_group(act)


def test_only_what_a_secondary_must_learn_counts() -> None:
    async def act(host: Host) -> None:
        pool = host.pool
        changes = {
            "write": lambda: host.write("db", 0, "x"),
            "discard": lambda: host.discard("db", 0, 1),
            "resize": lambda: volumes.resize(pool, "db", 2 * MIB),
            "copy": lambda: copies.take(pool, ["other", "db"], name="c1"),
            "deletion of a copy": lambda: copies.delete(pool, "c1"),
        }
        for what, change in changes.items():
            mark = place(host)
            assert not cuts.changed_since(pool, host.group(), mark), what
            change()
            assert cuts.changed_since(pool, host.group(), mark), what
        mark = place(host)
        host.write("other", 0, "x")
        copies.take(pool, ["other"], name="c2")
        volumes.create(pool, "new", MIB)
        assert not cuts.changed_since(pool, host.group(), mark)

    in_a_group(act)


def test_what_a_secondary_has_hardened_is_remembered_with_the_cut() -> None:
    async def act(host: Host) -> None:
        host.pool.record(r.SessionOpened(group=GROUP, peer="peer"))
        for n in range(5):
            cuts.place(host.pool, host.group(), {"peer": n, "gone": n})
        assert {peer: s.cut for peer, s in host.group().sessions.items()} == {"peer": 4}
        assert [mark.cut for mark in host.group().marks] == [4, 5]
        await host.call(host.pool.flush())
        await host.restart()
        assert [mark.cut for mark in host.group().marks] == [4, 5]

    in_a_group(act)
