"""What volumes, copies and groups may be called."""

from __future__ import annotations

import re
from collections.abc import Container
from datetime import UTC, datetime
from typing import Final

from isochrone.errors import InvalidInput

NAME_CHARS_MAX: Final = 128  # VOLUME@COPY stays far below the 4,096 bytes of an NBD export name
NUMBERED_CHARS_MAX: Final = 256  # with the numbers of all sites that had the name already
_NUMBERS: Final = re.compile(r"(?:~[0-9]+)+$")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def check_name(what: str, name: str) -> str:
    """Return a good name, or raise `InvalidInput`. `@` and `~` are ours: they join and number."""
    if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:NAME_CHARS_MAX]!r} cannot be the name of a {what}",
            hint=f"use up to {NAME_CHARS_MAX} letters, digits and ._+- (letter or digit first)",
        )
    return name


def free_name(base: str, taken: Container[str]) -> str:
    """The base, or the first of base-2, base-3 and so on that is not taken."""
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}-{n}"
    return name


def instant_name(stamp: int) -> str:
    """An instant (ns since 1970) as part of a name: 20260131T120000Z."""
    return datetime.fromtimestamp(stamp // 10**9, UTC).strftime("%Y%m%dT%H%M%SZ")


def unnumbered(name: str) -> str:
    """The name of a copy without the numbers that sites gave it because theirs had it already."""
    return _NUMBERS.sub("", name) if len(name) <= NUMBERED_CHARS_MAX else name
