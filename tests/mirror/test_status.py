"""What is told can be written down and read again, with nothing lost."""

from __future__ import annotations

import msgspec
import pytest

from isochrone.mirror.status import GroupStatus, PeerStatus, PromoteReport

PEER = PeerStatus(peer="aa" * 16, connected=True, acked_cut=7, bytes_sent=123)
STATUS = GroupStatus(
    group="g", role="secondary", state="SUSPENDED", cause="nobody answers", lineage="bb" * 16,
    epoch=2, volumes=["db", "wal"], cut=7, cut_stamp=10**18, recovery_point=10**18 + 1,
    recovery_point_age=0.25, source="a:7001", bytes_received=1, bytes_commands=2,
    bytes_incoming=3, peers=[PEER], promoted_stamp=4, superseded_by=5, fence_pending=True,
)  # fmt: skip
REPORT = PromoteReport(
    group="g", cut=7, cut_stamp=1, recovery_point=2, recovery_point_age=-1.0, lineage="bb" * 16,
    epoch=3, last_heard=4, lost_bytes=-1, incoming_bytes_dropped=5, volumes=["db"], copies=["c1"],
    seconds=0.001,
)  # fmt: skip


@pytest.mark.parametrize("told", [PEER, STATUS, REPORT], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("form", [msgspec.json, msgspec.msgpack])
def test_round_trip(told, form) -> None:
    assert form.decode(form.encode(told), type=type(told)) == told
    assert set(msgspec.to_builtins(told)) == set(type(told).__struct_fields__)


def test_what_the_first_controllers_told_has_no_silent_default() -> None:
    """Whoever makes a status says these; what came later has one, for answers of older ones."""
    for kind, told in ((PeerStatus, 4), (GroupStatus, 19), (PromoteReport, 13)):
        fields = msgspec.structs.fields(kind)
        assert sum(field.required for field in fields) == told
        with pytest.raises(TypeError):
            kind(group="g")


def test_the_defaults_promise_nothing() -> None:
    """What an older controller does not tell is not known, or not so."""
    assert (STATUS.behind_bytes, STATUS.eta, STATUS.phase, STATUS.hour.p95) == (-1, -1.0, "", -1.0)
    assert (PEER.changed_bytes, PEER.pace_seconds, PEER.suspensions) == (-1, 0.0, [])
