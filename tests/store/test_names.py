from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.errors import InvalidInput
from isochrone.store.names import (
    NAME_CHARS_MAX,
    NUMBERED_CHARS_MAX,
    check_name,
    free_name,
    instant_name,
    unnumbered,
)


@pytest.mark.parametrize("name", ["a", "0", "disk-1", "A.b_c+d-e", "x" * NAME_CHARS_MAX])
def test_good_names_come_back(name: str) -> None:
    assert check_name("volume", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".a", "-a", "_a", "+a", "a@b", "a~1", "a b", "a/b", "ä", "a\n", "\na", "a\0", "x" * 129],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a volume") as e:
        check_name("volume", name)
    assert "letters, digits" in e.value.hint


def test_a_huge_name_does_not_make_a_huge_message() -> None:
    with pytest.raises(InvalidInput) as e:
        check_name("copy", "x" * 10**6)
    assert len(e.value.message) < 300


@given(st.text(max_size=200))
def test_what_is_accepted_is_safe_in_a_file_a_url_and_a_terminal(name: str) -> None:
    try:
        check_name("volume", name)
    except InvalidInput:
        return
    assert name.isascii() and name.isprintable()
    assert not set(name) & set(" /\\@~'\"$&;|<>*?#%:")
    assert name[0].isalnum() and len(name) <= NAME_CHARS_MAX


def test_numbers_that_sites_gave() -> None:
    for name in ("x", "x~7", "x~7~12"):
        assert unnumbered(name) == "x"
    for name in ("x~", "x~y", "~", "x~7y", "x~" + "7" * NUMBERED_CHARS_MAX):
        assert unnumbered(name) == name


def test_a_name_that_is_free() -> None:
    assert free_name("c", ()) == "c"
    assert free_name("c", {"c", "c-2", "c-4"}) == "c-3"


def test_an_instant_in_a_name_is_utc_to_the_second() -> None:
    assert instant_name(1_700_000_000_999_999_999) == "20231114T221320Z"
