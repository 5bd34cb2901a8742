"""Sizes as people write them: plain bytes, or a number with KiB, MiB, GiB or TiB."""

from __future__ import annotations

import re
from typing import Final

from isochrone.errors import InvalidInput
from isochrone.types import GIB, KIB, MIB, TIB

UNITS: Final = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB}
_SIZE: Final = re.compile(r"(\d{1,20})(?:\.(\d{1,9}))?\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes. Raises `InvalidInput`.

    `10GB` is refused: half of the world means 10^10 by it, and a volume cut short by 7 % is worse
    than a question.
    """
    found = _SIZE.fullmatch(text.strip())
    unit = UNITS.get(found[3].upper()) if found else None
    if found is None or unit is None:
        raise InvalidInput(
            f"{text!r} is not a size", hint="write bytes, or 64MiB, 10GiB, 1.5TiB (powers of 1024)"
        )
    whole, part = int(found[1]), found[2] or ""
    # In whole numbers: a float would round 63.9999999TiB.
    scale = int("1" + "0" * len(part))
    size, rest = divmod(int(part or 0) * unit, scale)
    if rest:
        raise InvalidInput(f"{text!r} is not a whole number of bytes")
    return whole * unit + size


def format_size(size: int) -> str:
    """Three digits and a unit: `1.5 GiB`. Exact multiples lose their fraction: `10 GiB`."""
    if size < KIB:
        return f"{size} B"
    unit, name = next(
        (u, n) for u, n in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= u
    )
    if size % unit == 0:
        return f"{size // unit} {name}"
    value = size / unit
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {name}"
