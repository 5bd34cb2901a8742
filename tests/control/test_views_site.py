"""Documents about sites are all in the OpenAPI document, and hold no secret."""

from __future__ import annotations

import msgspec

from isochrone.control import views_site as v


def test_all_are_answers() -> None:
    made = {each for each in vars(v).values() if isinstance(each, type)}
    assert {each for each in made if each.__module__ == v.__name__} == set(v.ANSWERS)


def test_only_a_token_tells_a_secret() -> None:
    for view in set(v.ANSWERS) - {v.TokenView}:
        names = {field.name for field in msgspec.structs.fields(view)}
        assert not names & {"token", "secret", "verifier", "certificate"}
