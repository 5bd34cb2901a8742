"""The error tree: stable codes, a status for HTTP, an errno for block clients."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from isochrone import errors
from isochrone.errors import IsochroneError


def classes(base: type[IsochroneError] = IsochroneError) -> Iterator[type[IsochroneError]]:
    yield base
    for child in base.__subclasses__():
        yield from classes(child)


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.__name__)
def test_every_class_says_who_must_act_and_with_which_codes(kind: type[IsochroneError]) -> None:
    error = kind("it happened")
    assert error.code == kind.__name__
    assert str(error) == error.message == "it happened"
    assert error.hint == kind.hint_default
    assert kind("it happened", hint="do that").hint == "do that"
    assert 1 <= kind.exit_code <= 125
    assert 400 <= kind.http_status <= 599
    assert kind.errno in errno.errorcode
    assert kind.__doc__


def test_codes_that_scripts_rely_on() -> None:
    expected = {
        "InvalidInput": 2, "NotFound": 3, "Conflict": 4, "Unavailable": 5, "NoSpace": 6,
        "StaleEpoch": 7, "PeerFault": 8, "Damaged": 9, "DeadlinePassed": 10,
    }  # fmt: skip
    assert {name: getattr(errors, name).exit_code for name in expected} == expected


def test_what_a_block_client_sees() -> None:
    assert errors.NoSpace("x").errno == errno.ENOSPC
    assert errors.ReadOnly("x").errno == errno.EPERM
    assert errors.Damaged("x").errno == errno.EIO
