"""`copy take --at` and `copy requests` against one controller; two sites are in `e2e`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isochrone.control import views_matched as v
from isochrone.control.cli_matched import OPTIONS, take_at
from isochrone.control.hooks import Hook, Quiet
from isochrone.errors import Conflict
from tests.control.shell import Shell


def test_requests_of_a_site_without_any(at: Shell) -> None:
    assert at.json("copy", "requests") == {"requests": []}
    at("copy", "requests")


@pytest.mark.parametrize(
    "options",
    [
        ["--wait"],
        ["--wait-duplex"],
        ["--keep-late"],
        ["--request", "x"],
        ["--mirror", "required"],
    ],
)
def test_options_that_need_sites(at: Shell, options: list[str]) -> None:
    at("copy", "take", "v", *options).refused(2, f"{options[0]} is for copies --at several sites")


def test_what_cannot_be_combined(at: Shell) -> None:
    at("copy", "take", "--at", "both", "--as-of", "1m ago").refused(2, "this site alone")
    for options in (["--hook", "true"], ["--mirror", "required"]):
        words = ["copy", "take", "v", "--at", "both", "--wait-duplex", *options]
        at(*words).refused(2, "neither held still nor asked about")
    at("copy", "take", "v", "--at", "both", "--expendable").refused(2, "is not given up at one")
    at("copy", "take", "--at", "both").refused(2, "which volumes?")


def test_volumes_without_a_mirror(at: Shell) -> None:
    at("volume", "create", "lone", "1MiB")
    at("copy", "take", "lone", "--at", "both").refused(2, "of one mirrored group")
    at("volume", "create", "other", "1MiB")
    found = at.json("relation", "check", "lone=other")
    assert (found["ok"], found["way"]) == (True, "local")
    said = at("relation", "check", "lone=lone")
    assert (said.code, "no (local)" in said.err, "overlap" in said.out) == (4, True, True)


def test_requests_that_are_not_there(at: Shell) -> None:
    at("copy", "requests", "--cancel", "nix").refused(3, "no request 'nix'")


def test_who_is_asked_first_can_say_no(at: Shell) -> None:
    """A group that nobody follows has no site to ask."""
    at("volume", "create", "alone", "1MiB")
    at("group", "create", "solo", "alone")
    words = ["copy", "take", "--group", "solo", "--at", "far"]
    for mirror in ("required", "preferred"):
        said = at(*words, "--mirror", mirror, "--hook", "sh -c 'echo ready; cat'")
        assert said.code in (3, 4), said
    assert at.json("copy", "list")["copies"] == []


class Known:
    """A site that has a request of group `g` already, whose copy is `consistency`."""

    def __init__(self, consistency: str) -> None:
        self.calls: list[str] = []
        self.shown = 0
        self._view = v.RequestView(
            request="r1", group="g", copy="c", consistency=consistency,  # type: ignore[arg-type]
            inherited=False, volumes=[], stamp=1, time="", done=True, sites=[],
        )  # fmt: skip

    def call(self, method: str, words: Any, body: Any = None, **how: Any) -> bytes:
        self.calls.append(method)
        if method == "POST" and body["group"] != "g":
            raise Conflict("the request 'r1' is of group 'g'; choose another name")
        return msgspec.json.encode(self._view)

    def show(self, *what: Any) -> None:
        self.shown += 1


def again(site: Known, group: str, at_least: Any) -> None:
    options = {**dict.fromkeys(OPTIONS), "request": "r1", "expendable": False}
    hooks = [Hook(("false",), "application")]  # nothing is held still again
    take_at(site, "both", (), group, options, Quiet(hooks, 1.0), at_least)  # type: ignore[arg-type]


def test_a_request_that_is_known_has_to_be_the_one_that_is_meant() -> None:
    site = Known("application")
    again(site, "g", "application")
    assert site.shown == 1
    with pytest.raises(Conflict, match="of group 'g'"):
        again(site, "other", "crash")
    for less in ("crash", "filesystem"):
        with pytest.raises(Conflict, match=f"{less}-consistent only"):
            again(Known(less), "g", "application")
    again(Known("crash"), "g", "crash")
