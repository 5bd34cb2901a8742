"""`copy take --at` and `copy requests` against one controller; two sites are in `e2e`."""

from __future__ import annotations

import pytest

from tests.control.shell import Shell


def test_requests_of_a_site_without_any(at: Shell) -> None:
    assert at.json("copy", "requests") == {"requests": []}
    at("copy", "requests")


@pytest.mark.parametrize(
    "options", [["--wait"], ["--wait-duplex"], ["--keep-late"], ["--request", "x"]]
)
def test_options_that_need_sites(at: Shell, options: list[str]) -> None:
    at("copy", "take", "v", *options).refused(2, f"{options[0]} is for copies --at several sites")


def test_what_cannot_be_combined(at: Shell) -> None:
    at("copy", "take", "v", "--at", "both", "--hook", "true").refused(2, "this site alone")
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
