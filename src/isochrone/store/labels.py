"""Labels of volumes, `tier=gold`, and the selectors that find them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from isochrone.errors import InvalidInput

LABELS_MAX: Final = 32  # of one volume
LABEL_CHARS_MAX: Final = 64  # of a key, and of a value

_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_VALUE: Final = re.compile(r"[A-Za-z0-9._/+:-]*")


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return good labels in the order of their keys, or raise `InvalidInput`."""
    if len(labels) > LABELS_MAX:
        raise InvalidInput(f"a volume has at most {LABELS_MAX} labels")
    for key, value in labels.items():
        good = _KEY.fullmatch(key) and _VALUE.fullmatch(value)
        if not good or max(len(key), len(value)) > LABEL_CHARS_MAX:
            raise InvalidInput(
                f"'{key[:LABEL_CHARS_MAX]}={value[:LABEL_CHARS_MAX]}' cannot be a label",
                hint=f"KEY=VALUE, each up to {LABEL_CHARS_MAX} letters, digits and ._/-, as in"
                " tier=gold",
            )
    return dict(sorted(labels.items()))


def parse_labels(words: Iterable[str]) -> dict[str, str]:
    """Labels as they are typed, `tier=gold`. Raises `InvalidInput`."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in found:
            what = "is given twice" if equals else "is no label"
            raise InvalidInput(f"{word!r} {what}", hint="write KEY=VALUE, as in tier=gold")
        found[key] = value
    return check_labels(found)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a volume has all labels of a selector."""
    return all(labels.get(key) == value for key, value in selector.items())
