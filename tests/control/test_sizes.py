"""What a person may write as a size, and what they read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.control.sizes import format_size, parse_size
from isochrone.errors import InvalidInput
from isochrone.types import GIB, KIB, MIB, TIB


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", MIB),
        ("512B", 512),
        ("64MiB", 64 * MIB),
        ("64mib", 64 * MIB),
        ("10GiB", 10 * GIB),
        (" 10 GiB ", 10 * GIB),
        ("1.5TiB", 3 * TIB // 2),
        ("0.5KiB", 512),
        ("63.5TiB", 127 * TIB // 2),
    ],
)
def test_parsed(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GiB",
        "-1",
        "10GB",
        "10G",
        "1e9",
        "0x10",
        "1..5GiB",
        "1.5",
        "1.2B",
        "ten",
        "1GiB 2",
        "٣x",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text)


def test_a_wrong_unit_says_which_are_right() -> None:
    with pytest.raises(InvalidInput, match="'10GB' is not a size") as caught:
        parse_size("10GB")
    assert "10GiB" in caught.value.hint


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (KIB, "1 KiB"),
        (1536, "1.50 KiB"),
        (20_000_000, "19.1 MiB"),
        (10 * GIB, "10 GiB"),
        (500 * GIB + MIB, "500 GiB"),
        (64 * TIB, "64 TiB"),
    ],
)
def test_formatted(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 50))
def test_plain_bytes_are_themselves(size: int) -> None:
    assert parse_size(str(size)) == size


@given(st.integers(1, 1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_round_sizes_come_back(number: int, unit: str) -> None:
    text = f"{number} {unit}"
    assert format_size(parse_size(text)) == text
