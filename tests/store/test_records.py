from __future__ import annotations

import string
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import Damaged
from isochrone.store import records as r
from isochrone.store import state

NUMBERS = st.integers(0, 2**63 - 1)
TEXT = st.text(string.printable + "äß€😀", max_size=20)
BY_TYPE = {
    "int": NUMBERS,
    "str": TEXT,
    "bool": st.booleans(),
    "dict[str, int]": st.dictionaries(TEXT, NUMBERS, max_size=3),
    "tuple[int, ...]": st.lists(NUMBERS, max_size=5).map(tuple),
    "tuple[tuple[int, int], ...]": st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(tuple),
    "tuple[IncomingVolume, ...]": st.lists(
        st.builds(r.IncomingVolume, NUMBERS, TEXT, NUMBERS, NUMBERS, NUMBERS), max_size=3
    ).map(tuple),
}
KINDS = sorted(r.Record.__subclasses__(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_comes_back(kind: type[r.Record]) -> None:
    fields = {name: BY_TYPE[text] for name, text in kind.__annotations__.items()}

    @given(st.fixed_dictionaries(fields))
    def comes_back(values) -> None:
        record = kind(**values)
        assert r.decode(r.encode(record)) == record

    comes_back()


def test_every_record_is_in_the_union_and_is_applied() -> None:
    assert set(get_args(r.AnyRecord)) == set(KINDS) == set(state._APPLY)


def test_tags_are_names_for_ever() -> None:
    """They are in logs: a renamed class keeps its tag."""
    assert sorted(kind.__struct_config__.tag for kind in KINDS) == [
        "copy-deleted",
        "copy-taken",
        "cut-placed",
        "fenced",
        "group-created",
        "group-deleted",
        "incoming-begun",
        "incoming-committed",
        "incoming-dropped",
        "mirror-added",
        "peer-fenced",
        "promoted",
        "session-closed",
        "session-opened",
        "volume-created",
        "volume-deleted",
        "volume-resized",
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"t": "volume-painted", "id": 1}),
        msgspec.msgpack.encode({"id": 1}),
        msgspec.msgpack.encode({"t": "volume-deleted"}),
        msgspec.msgpack.encode({"t": "volume-deleted", "id": "one"}),
        msgspec.msgpack.encode([1, 2]),
        msgspec.msgpack.encode({"t": "volume-deleted", "id": 1}) + b"\0",
    ],
)
def test_what_this_version_does_not_know_is_refused(body: bytes) -> None:
    with pytest.raises(Damaged, match="cannot be understood") as e:
        r.decode(body)
    assert "newer version" in e.value.hint


@given(st.binary(max_size=100))
def test_foreign_bytes_are_refused_in_our_own_words(body: bytes) -> None:
    try:
        record = r.decode(body)
    except Damaged:
        return
    assert isinstance(record, r.Record)


def test_a_field_of_a_newer_version_is_no_obstacle() -> None:
    body = msgspec.msgpack.encode({"t": "volume-deleted", "id": 7, "by": "somebody"})
    assert r.decode(body) == r.VolumeDeleted(id=7)
