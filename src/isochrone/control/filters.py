"""Filters as they are typed: `read-only`, `rate=10MiB/s`, `delay=5ms`, `error=1%`, `pause`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from isochrone.control.sizes import parse_size
from isochrone.errors import InvalidInput
from isochrone.nbd.filters import Bucket, Chain, Delay, Error, Maker, Pause, Rate, ReadOnly
from isochrone.world.dice import Dice

KINDS: Final = "read-only, rate=SIZE/s, delay=TIME, error=PERCENT%, pause"
DELAY_S_MAX: Final = 60.0  # beyond, clients give up, and `pause` says it better
_TIME: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s)")
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)%")


def parse_chain(words: Sequence[str], dice: Dice) -> Chain:
    """The filters that these words mean. Raises `InvalidInput`."""
    if not words:
        raise InvalidInput("which filters?", hint=f"write some of: {KINDS}")
    kinds = [word.partition("=")[0] for word in words]
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), "")
    if twice:
        raise InvalidInput(f"{twice} is there twice")
    return Chain(tuple(words), tuple(_maker(word, dice) for word in words))


def _maker(word: str, dice: Dice) -> Maker:
    kind, _, value = word.partition("=")
    match kind:
        case "read-only" if word == kind:
            return ReadOnly
        case "pause" if word == kind:
            return Pause
        case "rate":
            return partial(Rate, bucket=Bucket(_rate(word, value)))
        case "delay":
            return partial(Delay, seconds=_seconds(word, value))
        case "error":
            return partial(Error, share=_share(word, value), dice=dice)
    raise InvalidInput(f"{word!r} is not a filter", hint=f"write one of: {KINDS}")


def _rate(word: str, value: str) -> int:
    rate = parse_size(value.removesuffix("/s")) if value.endswith("/s") else 0
    if rate <= 0:
        raise InvalidInput(f"{word!r} is not a rate", hint="write it like rate=10MiB/s")
    return rate


def _seconds(word: str, value: str) -> float:
    found = _TIME.fullmatch(value)
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not 0 < seconds <= DELAY_S_MAX:
        raise InvalidInput(
            f"{word!r} is not a delay", hint=f"write it like delay=5ms; at most {DELAY_S_MAX:.0f}s"
        )
    return seconds


def _share(word: str, value: str) -> float:
    found = _PERCENT.fullmatch(value)
    share = float(found[1]) / 100 if found else 0.0
    if not 0 < share <= 1:
        raise InvalidInput(f"{word!r} is not a share", hint="write it like error=1%")
    return share
