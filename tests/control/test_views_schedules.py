"""The documents about schedules go over the wire and come back."""

from __future__ import annotations

import msgspec
import pytest

from isochrone.control import views_schedules as v
from tests.control.examples import difference, schedule, verdicts


@pytest.mark.parametrize(
    "view", [schedule(), verdicts(), difference()], ids=lambda x: type(x).__name__
)
def test_there_and_back(view: msgspec.Struct) -> None:
    assert msgspec.json.decode(msgspec.json.encode(view), type=type(view)) == view


def test_every_answer_is_in_the_openapi_document() -> None:
    structs = {
        found
        for found in vars(v).values()
        if isinstance(found, type) and issubclass(found, msgspec.Struct)
    }
    inner = {v.ScheduleRuleView}  # comes with what it is part of
    assert structs - inner == set(v.ANSWERS)
