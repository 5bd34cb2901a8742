from __future__ import annotations

import pytest

from isochrone.control.relation_words import parse_pairs, parse_range
from isochrone.errors import InvalidInput
from isochrone.types import GIB, KIB, MIB


def extent(source: int, target: int, length: int) -> dict[str, int]:
    return {"source_offset": source, "target_offset": target, "length": length}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("A=B",), [("A", "B", [])]),
        (("A=B", "A=C"), [("A", "B", []), ("A", "C", [])]),
        (("a@c.1=B",), [("a@c.1", "B", [])]),
        (
            ("C:1GiB+512MiB=D:0",),
            [("C", "D", [extent(GIB, 0, 512 * MIB)])],
        ),
        (("C:64KiB+64KiB=D",), [("C", "D", [extent(64 * KIB, 64 * KIB, 64 * KIB)])]),
        (
            ("C:0+1MiB=D:0", "C:4MiB+1MiB=D:1MiB"),
            [("C", "D", [extent(0, 0, MIB), extent(4 * MIB, MIB, MIB)])],
        ),
    ],
)
def test_pairs(words: tuple[str, ...], expected: list[tuple[str, str, list[object]]]) -> None:
    assert parse_pairs(words) == [
        {"source": source, "target": target, "extents": extents}
        for source, target, extents in expected
    ]


@pytest.mark.parametrize(
    "word",
    [
        "A",
        "=B",
        "A=",
        "A:0=B:0",
        "A:0+=B",
        "A:+1MiB=B",
        "A=B:0",
        "A:0+1MiB=B:0+1MiB",
        "A:x+1=B",
        "",
    ],
)
def test_what_is_no_pair(word: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_pairs((word,))
    assert refused.value.hint


@pytest.mark.parametrize("words", [("A=B", "A=B"), ("A=B", "A:0+1MiB=B:0")])
def test_all_and_a_part_are_too_much(words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="A=B means all of it already"):
        parse_pairs(words)


def test_a_range() -> None:
    assert parse_range("1GiB+64KiB") == (GIB, 64 * KIB)
    for word in ("1GiB", "+1", "1+"):
        with pytest.raises(InvalidInput):
            parse_range(word)
