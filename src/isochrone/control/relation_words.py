"""Relations as people type them: `A=B`, `A:1GiB+512MiB=B:0`."""

from __future__ import annotations

from typing import Any, Final

from isochrone.control.sizes import parse_size
from isochrone.errors import InvalidInput

FORM: Final = "write SOURCE=TARGET, or SOURCE:OFFSET+LENGTH=TARGET:OFFSET"


def parse_pairs(words: tuple[str, ...]) -> list[dict[str, Any]]:
    """The pairs of a command, as the API takes them; extents of one pair are gathered."""
    found: dict[tuple[str, str], list[dict[str, int]]] = {}
    whole: set[tuple[str, str]] = set()
    for word in words:
        left, equals, right = word.partition("=")
        source, offset, length = _side(left, word)
        target, place, nothing = _side(right, word)
        if not (equals and source and target) or nothing >= 0:
            raise InvalidInput(f"{word!r} is not a pair of volumes", hint=FORM)
        if (offset >= 0) != (length >= 0) or (place >= 0 and offset < 0):
            raise InvalidInput(f"{word!r} does not say where, and how long", hint=FORM)
        extents = found.setdefault((source, target), [])
        if offset < 0:
            whole.add((source, target))
        else:
            extents.append(
                {
                    "source_offset": offset,
                    "target_offset": place if place >= 0 else offset,
                    "length": length,
                }
            )
    for source, target in sorted(whole):
        if found[source, target] or sum(word == f"{source}={target}" for word in words) > 1:
            raise InvalidInput(f"{source}={target} means all of it already")
    return [
        {"source": source, "target": target, "extents": extents}
        for (source, target), extents in found.items()
    ]


def parse_range(word: str) -> tuple[int, int]:
    """`1GiB+512MiB`: an offset and a length."""
    offset, plus, length = word.partition("+")
    if not plus:
        raise InvalidInput(f"{word!r} is no extent", hint="write OFFSET+LENGTH: 1GiB+512MiB")
    return parse_size(offset), parse_size(length)


def _side(text: str, word: str) -> tuple[str, int, int]:
    """Name, offset and length; -1 for what is not said."""
    name, colon, place = text.partition(":")
    if not colon:
        return name, -1, -1
    offset, plus, length = place.partition("+")
    if not offset or (plus and not length):
        raise InvalidInput(f"{word!r} does not say where, and how long", hint=FORM)
    return name, parse_size(offset), parse_size(length) if plus else -1
