"""Bounds of messages: what the other side may say at all."""

from __future__ import annotations

import msgspec
import pytest

from isochrone.mirror import messages
from isochrone.mirror.messages import Begin, Cut, Hello, Holes, Pull, Refuse


def decode(kind: type[messages.Message], **fields: object) -> messages.Message:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=kind)


def test_numbers_of_types_are_used_once() -> None:
    assert messages.DATA_TYPE not in messages.TYPES
    assert len(set(messages.TYPES.values())) == len(messages.TYPES)


def test_fields_with_a_default_may_be_left_out() -> None:
    hello = decode(Hello, pool="p", group="g", lineage="", epoch=0, cut=0)
    assert hello == Hello(pool="p", group="g", lineage="", epoch=0, cut=0, purpose="follow")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Pull, {"cut": -1, "credit": 0}),
        (Pull, {"cut": (1 << 62) + 1, "credit": 0}),
        (Refuse, {"code": "x", "message": "x" * (messages.TEXT_CHARS_MAX + 1)}),
        (Hello, {"pool": "p" * 257, "group": "g", "lineage": "", "epoch": 0, "cut": 0}),
        (Holes, {"ranges": [(0, 0, 0)] * (messages.HOLES_MAX + 1)}),
        (Begin, {"base": 0, "cut": 1, "volumes": [(1, "v", 1)] * (messages.GROUP_VOLUMES_MAX + 1)}),
        (Cut, {"cut": 1, "stamp": 1, "blocks": "1", "token": 1}),
    ],
)
def test_what_is_out_of_bounds_is_no_message(kind: type[messages.Message], fields: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(kind, **fields)  # type: ignore[arg-type]
