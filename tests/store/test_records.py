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
from isochrone.store.promises import Told

NUMBERS = st.integers(0, 2**63 - 1)
TEXT = st.text(string.printable + "äß€😀", max_size=20)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(tuple)
BY_TYPE = {
    "int": NUMBERS,
    "str": TEXT,
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "Literal['crash', 'filesystem', 'application']": st.sampled_from(
        ["crash", "filesystem", "application"]
    ),
    "dict[str, int]": st.dictionaries(TEXT, NUMBERS, max_size=3),
    "dict[str, str]": st.dictionaries(TEXT, TEXT, max_size=3),
    "tuple[str, ...]": st.lists(TEXT, max_size=3).map(tuple),
    "tuple[int, ...]": st.lists(NUMBERS, max_size=5).map(tuple),
    "tuple[tuple[int, int], ...]": PAIRS,
    "tuple[tuple[int, int, int], ...]": st.lists(
        st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=3
    ).map(tuple),
    "Pairs": PAIRS,
    "tuple[NewRelation, ...]": st.lists(
        st.builds(
            r.NewRelation,
            NUMBERS,
            NUMBERS,
            NUMBERS,
            st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=3).map(tuple),
            st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    "tuple[WithdrawnPart, ...]": st.lists(
        st.builds(r.WithdrawnPart, NUMBERS, PAIRS), max_size=3
    ).map(tuple),
    "tuple[IncomingVolume, ...]": st.lists(
        st.builds(r.IncomingVolume, NUMBERS, TEXT, NUMBERS, NUMBERS, NUMBERS), max_size=3
    ).map(tuple),
}
BY_TYPE["tuple[MirroredPart, ...]"] = st.lists(
    st.builds(
        r.MirroredPart, NUMBERS, NUMBERS, NUMBERS, BY_TYPE["tuple[tuple[int, int, int], ...]"],
        NUMBERS, NUMBERS, st.booleans(), PAIRS, NUMBERS,
    ),
    max_size=3,
).map(tuple)  # fmt: skip
BY_TYPE["Literal['establish', 'refresh', 'restore', 'keep', 'discard']"] = st.sampled_from(
    ["establish", "refresh", "restore", "keep", "discard"]
)
BY_TYPE["Literal['good', 'bad', 'expired']"] = st.sampled_from(["good", "bad", "expired"])
BY_TYPE["Takeovers"] = st.lists(st.builds(r.Takeover, NUMBERS, NUMBERS, TEXT), max_size=3).map(
    tuple
)
BY_TYPE["Position"] = st.builds(r.Position, NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS)
BY_TYPE["tuple[Told, ...]"] = st.lists(
    st.builds(
        Told, TEXT, TEXT, NUMBERS, st.floats(allow_nan=False), st.booleans(),
        st.lists(st.tuples(TEXT, TEXT, st.booleans()), max_size=3),
    ),
    max_size=3,
).map(tuple)  # fmt: skip
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
        "clock-seen",
        "copy-classified",
        "copy-deleted",
        "copy-held",
        "copy-requested",
        "copy-taken",
        "cut-placed",
        "cut-relayed",
        "fenced",
        "group-changed",
        "group-created",
        "group-deleted",
        "group-tuned",
        "handover-begun",
        "handover-cancelled",
        "history-learned",
        "incoming-begun",
        "incoming-committed",
        "incoming-dropped",
        "incoming-progress",
        "mirror-added",
        "peer-fenced",
        "point-opened",
        "points-dropped",
        "probe-begun",
        "probe-ended",
        "promoted",
        "rejoined",
        "relations-established",
        "relations-listed",
        "relations-mirrored",
        "relations-refreshed",
        "relations-restored",
        "relations-withdrawn",
        "request-moved",
        "requests-told",
        "reservation-made",
        "reservation-released",
        "schedule-deleted",
        "schedule-set",
        "session-closed",
        "session-fell-behind",
        "session-holds",
        "session-opened",
        "session-resumed",
        "session-set",
        "session-suspended",
        "volume-created",
        "volume-deleted",
        "volume-labelled",
        "volume-resized",
        "volumes-reverted",
        "window-set",
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


@pytest.mark.parametrize(
    ("record", "body"),
    [
        (
            r.RelationsEstablished(
                relations=(r.NewRelation(9, 1, 2, ((0, 16, 32),), True),),
                stamp=5,
                images=((2, 10),),
            ),
            "84a174b572656c6174696f6e732d65737461626c6973686564"
            "a972656c6174696f6e73919609010291930010"
            "20c3a0a57374616d7005a6696d6167657391"
            "92020a",
        ),
        (
            r.RelationsRefreshed(ids=(9,), stamp=5),
            "83a174b372656c6174696f6e732d726566726573686564a36964739109a57374616d7005",
        ),
        (
            r.RelationsRestored(ids=(9,), stamp=5),
            "83a174b272656c6174696f6e732d726573746f726564a36964739109a57374616d7005",
        ),
        (
            r.RelationsWithdrawn(parts=(r.WithdrawnPart(9, ((16, 32),)),), discard=True),
            "83a174b372656c6174696f6e732d77697468647261776ea570617274739192099192"
            "1020a764697363617264c3",
        ),
        (
            r.VolumesReverted(members=((1, 3),), undo="u", undo_members=((1, 4),), stamp=5),
            "85a174b0766f6c756d65732d7265766572746564a76d656d62657273919201"
            "03a4756e646fa175ac756e646f5f6d656d62657273"
            "91920104a57374616d7005",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, r.Record) else "",
)
def test_bytes_of_relations(record: r.AnyRecord, body: str) -> None:
    """Pinned: they are in logs."""
    assert r.encode(record).hex() == body
