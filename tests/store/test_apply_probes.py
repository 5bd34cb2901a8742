from __future__ import annotations

from isochrone.store import records as r
from isochrone.store.probes import PROBES_MAX
from tests.store.pools import Rig, settle
from tests.store.stories import following


def begun(copy: str) -> r.ProbeBegun:
    return r.ProbeBegun(group="g", copy=copy, cut=1, stamp=100, check="fsck", began=5, seconds=60.0)


def test_a_probe_from_its_beginning_to_its_result() -> None:
    story = following()
    story(begun("probe-g-1"))
    running = story.state.probes["g"].running
    assert running is not None
    assert (running.copy, running.check, running.began) == ("probe-g-1", "fsck", 5)
    story(r.ProbeEnded(group="g", ended=9, result="bad", said="a block is missing"))
    assert story.state.probes["g"].running is None
    assert (running.ended, running.result, running.said) == (9, "bad", "a block is missing")


def test_they_are_bounded_and_go_with_their_group() -> None:
    story = following()
    for number in range(PROBES_MAX + 5):
        story(begun(str(number)), r.ProbeEnded(group="g", ended=number, result="good"))
    assert [probe.copy for probe in story.state.probes["g"].probes][-1] == str(PROBES_MAX + 4)
    assert len(story.state.probes["g"].probes) == PROBES_MAX
    story(r.GroupDeleted(name="g"))
    assert story.state.probes == {}


def test_what_runs_outlives_its_group_until_it_has_ended() -> None:
    story = following()
    story(begun("a"), r.ProbeEnded(group="g", ended=1, result="good"), begun("b"))
    story(r.GroupDeleted(name="g"))
    assert [probe.copy for probe in story.state.probes["g"].probes] == ["b"]
    story(r.ProbeEnded(group="g", ended=9, result="expired"))
    assert story.state.probes == {}


def test_they_survive_a_checkpoint_and_the_log() -> None:
    rig = Rig()
    pool = rig.open()
    pool.record(r.MirrorAdded(group="g", source="there:1"))
    pool.record(begun("one"))
    pool.record(r.ProbeEnded(group="g", ended=9, result="good", said="clean"))
    settle(pool.checkpoint())
    pool.record(begun("two"))
    before = pool.state.probes
    again = rig.reopen(pool)
    assert again.state.probes == before
    assert [probe.result for probe in again.state.probes["g"].probes] == ["good", ""]
