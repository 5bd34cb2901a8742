from __future__ import annotations

import pytest

from isochrone.store import records as r
from isochrone.store import state
from isochrone.types import MIB
from tests.store.stories import Story


def test_a_record_without_a_change_is_not_skipped() -> None:
    with pytest.raises(KeyError):
        Story()(r.Record())  # type: ignore[arg-type]


def test_what_a_record_makes_knows_its_place() -> None:
    story = Story()
    story(r.VolumeCreated(id=1, name="a", size=MIB), r.VolumeCreated(id=2, name="b", size=MIB))
    story(r.CopyTaken(name="c", writable=False, stamp=1, members=((1, 3),)))
    assert [v.changed_lsn for v in story.state.volumes.values()] == [1, 2, 3]
    assert story.state.copies["c"].lsn == 3


def test_each_change_is_named_after_its_record() -> None:
    for kind, change in state._APPLY.items():
        assert kind.__struct_config__.tag.replace("-", "_") == change.__name__
