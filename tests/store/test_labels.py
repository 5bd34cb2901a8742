"""Labels and selectors."""

from __future__ import annotations

import pytest

from isochrone.errors import InvalidInput
from isochrone.store.labels import (
    LABEL_CHARS_MAX,
    LABELS_MAX,
    check_labels,
    matches,
    parse_labels,
)


def test_typed_labels() -> None:
    assert parse_labels(["tier=gold", "app/owner=db-team", "empty="]) == {
        "tier": "gold",
        "app/owner": "db-team",
        "empty": "",
    }
    assert list(check_labels({"b": "1", "a": "2"})) == ["a", "b"]


@pytest.mark.parametrize(
    "words",
    [
        ["tier"],
        ["=gold"],
        ["tier=gold", "tier=tin"],
        ["tier=a b"],
        ["ti er=a"],
        ["-x=a"],
        ["k=" + "v" * (LABEL_CHARS_MAX + 1)],
        ["k" * (LABEL_CHARS_MAX + 1) + "=v"],
        ["tier=a=b"],
        [f"k{n}=v" for n in range(LABELS_MAX + 1)],
    ],
)
def test_what_is_no_label(words: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_labels(words)


def test_a_selector_wants_all_of_its_labels() -> None:
    labels = {"tier": "gold", "app": "db"}
    assert matches({"tier": "gold"}, labels)
    assert matches({"tier": "gold", "app": "db"}, labels)
    assert not matches({"tier": "gold", "app": "web"}, labels)
    assert not matches({"zone": ""}, labels)
