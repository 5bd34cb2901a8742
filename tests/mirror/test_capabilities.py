"""What the other side lacks is said at the start, or not sent."""

from __future__ import annotations

from typing import cast

import pytest

from isochrone.errors import Conflict, PeerFault
from isochrone.mirror import capabilities
from isochrone.mirror.capabilities import (
    CAPABILITIES,
    OURS,
    Capability,
    check_message,
    check_secondary,
)
from isochrone.mirror.messages import TYPES
from isochrone.store.catalogue import Group
from isochrone.store.state import State

STATE = cast(State, None)
GROUP = Group(name="g", role="primary")


def test_the_table() -> None:
    assert list(OURS) == sorted(CAPABILITIES)
    for row in CAPABILITIES.values():
        assert row.messages <= set(TYPES)
    kinds = [kind for row in CAPABILITIES.values() for kind in row.messages]
    assert len(kinds) == len(set(kinds))


def test_an_old_secondary_is_refused_what_it_cannot_take() -> None:
    table = {
        "always": Capability("", needed=lambda state, group: True),
        "never": Capability("", needed=lambda state, group: False),
        "nothing": Capability(""),
    }
    check_secondary(("always", "of the future"), STATE, GROUP, table)
    with pytest.raises(Conflict, match="needs always, which the secondary does not know") as e:
        check_secondary((), STATE, GROUP, table)
    assert "upgrade the secondary first" in e.value.hint


def test_messages_that_it_would_not_understand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_NEEDED_BY", {99: "new"})
    check_message(1, frozenset(), "p")
    check_message(99, frozenset({"new"}), "p")
    with pytest.raises(PeerFault, match="p does not know new"):
        check_message(99, frozenset({"old"}), "p")
