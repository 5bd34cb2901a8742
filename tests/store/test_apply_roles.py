"""What records about roles change, live and after a restart."""

from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.apply_roles import TAKEOVERS_KEPT
from tests.mirror.sites import GROUP, Two, play


def test_nobody_writes_while_it_is_handed_over() -> None:
    async def scenario(two: Two) -> None:
        pool = two.a.pool
        pool.record(r.HandoverBegun(group=GROUP, peer="p", stamp=1))
        assert not two.a.group().writable
        assert two.a.group().standing == "primary, being handed over"
        assert two.a.device("db").read_only
        await two.a.call(pool.flush())
        await two.a.restart()
        assert two.a.group().handover == "p"
        two.a.pool.record(r.HandoverCancelled(group=GROUP))
        assert two.a.group().writable

    play(scenario)


def test_a_history_remembers_so_many_takeovers() -> None:
    async def scenario(two: Two) -> None:
        pool, group = two.a.pool, two.a.group()
        many = tuple(r.Takeover(n, n, "x") for n in range(2, TAKEOVERS_KEPT + 12))
        pool.record(r.HistoryLearned(group=GROUP, takeovers=many, way=("a", "b")))
        assert group.takeovers == list(many[-TAKEOVERS_KEPT:])
        assert group.way == ["a", "b"]
        pool.record(r.Promoted(group=GROUP, epoch=99, stamp=1, pool="me"))
        assert group.takeovers[-1] == r.Takeover(99, group.cut, "me")
        assert len(group.takeovers) == TAKEOVERS_KEPT
        assert group.way == []

    play(scenario)


def test_coming_back_keeps_what_is_known_of_its_own_changes() -> None:
    async def scenario(two: Two) -> None:
        pool, group = two.a.pool, two.a.group()
        cut = group.cut
        two.fabric.cut("a", "b")
        two.a.write("db", 16, "tail")
        pool.record(r.CutPlaced(group=GROUP, cut=cut + 1, stamp=1))
        two.a.write("wal", 16, "tail")
        pool.record(r.Fenced(group=GROUP, epoch=2, cut=cut, source="b:7001", stamp=5))
        pairs = tuple((id + 100, id) for id in group.volumes)
        told = (r.Takeover(2, cut, "b"),)
        pool.record(
            r.Rejoined(
                group=GROUP, source="b:7001", epoch=2, cut=cut, volumes=pairs, takeovers=told,
                diverged=cut,
            )
        )  # fmt: skip
        for _ in range(2):
            group, state = two.a.group(), two.a.pool.state
            assert (group.role, group.cut, group.epoch) == ("secondary", cut, 2)
            assert [mark.cut for mark in group.marks] == [
                m.cut for m in group.marks if m.cut <= cut
            ]
            from isochrone.store import changes

            found = changes.since(state, group, cut)
            assert found is not None
            assert {state.volumes[id].name: list(b) for id, b in found.items()} == {
                "db": [1], "wal": [1],
            }  # fmt: skip
            assert group.remote_ids == {id + 100: id for id in group.volumes}
            assert (group.superseded_by, group.sessions, group.handover) == (0, {}, "")
            await two.a.call(two.a.pool.flush())
            await two.a.call(two.a.pool.checkpoint())
            await two.a.restart()

    play(scenario)


def test_what_was_relayed_to_whom() -> None:
    async def scenario(two: Two) -> None:
        pool, group = two.b.pool, two.b.group()
        pool.record(r.SessionOpened(group=GROUP, peer="p"))
        pool.record(r.CutRelayed(group=GROUP, peer="p", acked=1, cut=group.cut, begun=(1,)))
        assert group.sessions["p"].cuts == {1, group.cut}
        pool.record(r.CutRelayed(group=GROUP, peer="gone", acked=1, cut=group.cut))

    play(scenario)
