"""What every route shares."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from isochrone.control import views
from isochrone.control.answers import Body, answer, gives


class Sized(Body):
    size: int


@pytest.mark.parametrize("body", [{"size": "1"}, {"size": 1, "sise": 2}, {}, {"size": 1.0}])
def test_a_body_takes_nothing_that_it_does_not_know(body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Sized(**body)


def test_an_answer_is_json_with_a_status() -> None:
    space = views.SpaceView(log_bytes=1, log_segments=2, free_bytes=3)
    found = answer(space, 201)
    assert (found.status_code, found.media_type) == (201, "application/json")
    assert json.loads(bytes(found.body))["log_segments"] == 2


def test_the_document_names_what_comes_and_what_errors_look_like() -> None:
    found = gives(views.CopyView, 201)
    assert found["status_code"] == 201
    responses = found["responses"]
    assert set(responses) == {201, "default"}
    assert "CopyView" in str(responses[201])
    assert "Problem" in str(responses["default"])
