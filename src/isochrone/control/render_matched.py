"""Chains of questions, and requests for copies at several sites, drawn for people."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.control.render import Out, facts, table
from isochrone.control.views_matched import CheckView, RequestView, StepView

_WAYS = {
    "local": "nobody follows the target",
    "reserved": "secondaries do the same, and keep room for it",
    "command": "secondaries do the same, without having promised it",
    "data": "the content is sent as data",
}


def steps(views: Sequence[StepView], out: Out = None) -> None:
    rows = [
        ["yes" if x.ok else f"no: {x.reason}", x.stage, x.question, x.site[:12], x.detail]
        for x in views
    ]
    table("", ["ANSWER", "STAGE", "QUESTION", "SITE", "DETAIL"], rows, out)


def check(view: CheckView, out: Out = None) -> None:
    steps(view.steps, out)
    facts([("way", f"{view.way}: {_WAYS.get(view.way, '')}")], out)


def requests(views: Sequence[RequestView], out: Out = None) -> None:
    rows = [
        [x.request, x.group, x.copy or "-", x.time or "-", s.site or s.peer[:12], s.state, s.detail]
        for x in views
        for s in x.sites
    ]
    heads = ["REQUEST", "GROUP", "COPY", "AS OF", "SITE", "STATE", "DETAIL"]
    table("", heads, rows, out)


def request(view: RequestView, out: Out = None) -> None:
    requests([view], out)
