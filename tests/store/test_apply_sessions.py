from __future__ import annotations

import pytest

from isochrone.store import records as r
from isochrone.store.catalogue import Session
from tests.store.stories import Story, two_volumes


@pytest.fixture
def story() -> Story:
    story = two_volumes()
    story(
        r.GroupCreated(name="g", lineage="ab" * 16, volumes=(1, 2)),
        r.SessionOpened(group="g", peer="p", site="west"),
    )
    return story


def session(story: Story) -> Session:
    found: Session = story.state.groups["g"].sessions["p"]
    return found


def test_terms_hold_over_a_suspension(story: Story) -> None:
    assert (session(story).policy, session(story).limit_bytes) == ("suspend", 8 << 30)
    story(
        r.SessionSet(
            group="g", peer="p", policy="pace", limit_bytes=1 << 30, limit_seconds=9.0,
            resync="manual",
        ),
        r.SessionSuspended(group="g", peer="p", cause="full", stamp=5, kind="limit"),
    )  # fmt: skip
    found = session(story)
    assert (found.keeps_log, found.cause, found.kind, found.suspended_stamp) == (
        *(False, "full", "limit"),
        5,
    )
    story(r.SessionResumed(group="g", peer="p"))
    found = session(story)
    assert (found.keeps_log, found.cause, found.kind, found.suspended_stamp) == (False, "", "", 0)
    assert (found.policy, found.limit_bytes, found.limit_seconds, found.resync) == (
        *("pace", 1 << 30, 9.0),
        "manual",
    )


def test_a_session_that_fell_behind_is_not_suspended(story: Story) -> None:
    story(r.SessionFellBehind(group="g", peer="p"))
    assert (session(story).keeps_log, session(story).cause) == (False, "")


def test_an_interval_is_of_the_group(story: Story) -> None:
    assert story.state.groups["g"].interval == 0.0
    story(r.GroupTuned(name="g", interval=5.0))
    assert story.state.groups["g"].interval == 5.0
