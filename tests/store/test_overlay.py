"""The table of decisions, row by row."""

from __future__ import annotations

import pytest

from isochrone.store.attachments import Attachment, Role
from isochrone.store.overlay import TABLE, decide
from isochrone.types import Proof


def who(*roles: Role) -> list[Attachment]:
    return [Attachment(role, Proof.ADDRESS, f"host {n}", False, 0) for n, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("mirrored", "roles", "online_ok", "perform"),
    [
        (False, (), False, True),
        (False, (), True, True),
        (False, ("app",), False, False),
        (False, ("app",), True, True),
        (True, (), False, True),
        (True, ("mover",), False, True),
        (True, ("mover",), True, True),
        (True, ("mover", "mover"), False, True),
        (True, ("mover", "app"), False, False),
        (True, ("mover", "app"), True, False),
        (True, ("app",), True, False),
    ],
)
def test_the_table(mirrored: bool, roles: tuple[Role, ...], online_ok: bool, perform: bool) -> None:
    verdict = decide(who(*roles), mirrored=mirrored, online_ok=online_ok, force=False)
    assert verdict.perform is perform
    forced = decide(who(*roles), mirrored=mirrored, online_ok=online_ok, force=True)
    assert forced.perform
    assert ("forced" in forced.why) is (not perform), "only what was forced is called so"


def test_the_table_is_complete() -> None:
    both = (False, True)
    assert set(TABLE) == {(a, b, c) for a in both for b in both for c in both}


def test_a_mover_of_no_mirror_is_nobody() -> None:
    """Its group was deleted while it is still connected."""
    assert decide(who("mover"), mirrored=False, online_ok=False, force=False).perform
