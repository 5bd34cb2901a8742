"""The chain of questions, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from isochrone.mirror.query import (
    Asked,
    Link,
    Policy,
    Reason,
    Standing,
    Step,
    Way,
    allows,
    configuration,
    first_no,
    verdict,
    way,
)

GOOD = Link("b", connected=True, duplex=True)
VOLUME = Asked("db", here=True, same_size=True)
STANDING = Standing((VOLUME,), duplex=True, relations_left=5, reservations_left=3, tight=False)
YES = Step("secondary", "?", ok=True)
NO = Step("secondary", "?", ok=False, reason=Reason.SPACE)


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (GOOD, Reason.YES),
        (replace(GOOD, connected=False), Reason.INACCESSIBLE),
        (replace(GOOD, connected=False, suspended="by a command"), Reason.SUSPENDED),
        (replace(GOOD, duplex=False), Reason.NOT_DUPLEX),
        (replace(GOOD, knows=False), Reason.VERSION),
    ],
)
def test_what_is_known_of_a_secondary(link: Link, reason: Reason) -> None:
    steps = configuration("g", {1, 2}, {"db": 1}, [GOOD, link, GOOD])
    assert steps[-1].reason is reason
    assert all(step.ok for step in steps[:-1])
    assert len(steps) == (4 if reason is Reason.YES else 3), "the first no is the last step"


def test_a_source_from_outside_ends_the_chain() -> None:
    (step,) = configuration("g", {1, 2}, {"db": 1, "spare": 7}, [GOOD])
    assert (step.ok, step.reason) == (False, Reason.OUTSIDE)
    assert "spare" in step.detail
    assert "db" not in step.detail


@pytest.mark.parametrize(
    ("standing", "relations", "reason"),
    [
        (STANDING, 5, Reason.YES),
        (STANDING, 6, Reason.RELATION_LIMIT),
        (replace(STANDING, relations_left=-1), 0, Reason.RELATION_LIMIT),
        (replace(STANDING, volumes=(VOLUME, replace(VOLUME, here=False))), 1, Reason.VOLUME),
        (replace(STANDING, volumes=(replace(VOLUME, same_size=False),)), 1, Reason.SIZE),
        (replace(STANDING, volumes=(replace(VOLUME, inhibited=True),)), 1, Reason.INHIBITED),
        (replace(STANDING, duplex=False), 1, Reason.NOT_DUPLEX),
        (replace(STANDING, tight=True), 1, Reason.SPACE),
        (replace(STANDING, failed="the disk is gone"), 1, Reason.FAILED),
        (replace(STANDING, reservations_left=0), 1, Reason.BUSY),
        # Its configuration is looked at before its state.
        (replace(STANDING, tight=True, volumes=(replace(VOLUME, here=False),)), 1, Reason.VOLUME),
    ],
)
def test_what_a_secondary_says(standing: Standing, relations: int, reason: Reason) -> None:
    said, detail = verdict(standing, relations)
    assert said is reason
    assert bool(detail) is (reason is not Reason.YES)


@pytest.mark.parametrize(
    ("policy", "steps", "allowed"),
    [
        ("required", [YES, YES], True),
        ("required", [YES, NO], False),
        ("preferred", [YES, NO], True),
        ("preferred", [replace(NO, stage="local")], False),
        ("", [], True),
        ("none", [replace(NO, stage="local")], False),
    ],
)
def test_what_a_policy_makes_of_it(policy: Policy, steps: list[Step], allowed: bool) -> None:
    assert allows(policy, steps) is allowed


def test_the_way() -> None:
    assert way([], followed=False, inside=True) is Way.LOCAL
    assert way([NO], followed=True, inside=False) is Way.DATA
    assert way([], followed=True, inside=True) is Way.COMMAND
    assert way([YES, NO], followed=True, inside=True) is Way.COMMAND
    assert way([YES], followed=True, inside=True) is Way.RESERVED
    assert way([replace(YES, stage="local")], followed=True, inside=True) is Way.COMMAND


def test_the_first_no() -> None:
    assert first_no([YES, NO, replace(NO, reason=Reason.SIZE)]) is NO
    assert first_no([YES]) is None
