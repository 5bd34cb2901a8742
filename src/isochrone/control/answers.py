"""What every route of the API does the same way: take a body, give a document."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Response
from pydantic import BaseModel, ConfigDict

from isochrone.control.views import Problem


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def answer(body: msgspec.Struct | dict[str, Any], status: int = 200) -> Response:
    """A document; a dict is one whose long lists are JSON already."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def gives(body: type[msgspec.Struct], status: int = 200) -> dict[str, Any]:
    """Keyword arguments of a route: what it answers, for the OpenAPI document."""
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    problem = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {
        "status_code": status,
        "response_model": None,
        "responses": {
            status: {"content": {"application/json": {"schema": schema}}},
            "default": {
                "description": "the error",
                "content": {"application/problem+json": {"schema": problem}},
            },
        },
    }
