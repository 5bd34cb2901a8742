"""`copy take` with hooks, against a real controller. Frozen file systems are end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.control.process import Controller
from tests.control.shell import Shell

HELD = "sh -c 'echo ready; cat'"
NOT_HELD = "sh -c 'echo ready; cat; exit 1'"


@pytest.fixture(scope="module", autouse=True)
def volumes(site: Controller) -> None:
    from isochrone.control.client import Client

    client = Client(str(site.directory))
    for name in ("a", "b", "c"):
        client.call("POST", "/v1/volumes", {"name": name, "size": 1 << 20})
    client.call("POST", "/v1/groups", {"name": "g", "volumes": ["a", "b"]})
    client.close()


def members(at: Shell, *words: str) -> list[str]:
    return [each["source"] for each in at.json("copy", "take", *words)["members"]]


def test_groups_and_volumes(at: Shell) -> None:
    assert members(at, "--group", "g") == ["a", "b"]
    assert members(at, "--group", "g", "c", "b") == ["a", "b", "c"]
    at("copy", "take").refused(2, "which volumes?", "--group")
    at("copy", "take", "--group", "none").refused(3, "no group 'none'")


def test_what_held_still_is_on_the_copy(at: Shell) -> None:
    assert at.json("copy", "take", "a")["consistency"] == "crash"
    taken = at.json("copy", "take", "a", "--name", "held", "--hook", HELD)
    assert taken["consistency"] == "application"
    assert "the application held still" in at("copy", "show", "held").out
    assert at.json("copy", "take", "a", "--at-least", "crash")["consistency"] == "crash"


def test_less_than_promised_is_not_kept(at: Shell) -> None:
    before = at.json("copy", "list")
    said = at("copy", "take", "a", "--name", "no", "--hook", NOT_HELD)
    assert said.code == 11
    assert "did not hold still (exit code 1)" in said.err
    assert "the copy was deleted again" in said.err
    assert at.json("copy", "list") == before
    less = at.json("copy", "take", "a", "--hook", NOT_HELD, "--at-least", "crash")
    assert less["consistency"] == "crash"


def test_a_copy_that_is_refused_lets_everything_go(at: Shell, tmp_path: Path) -> None:
    log = tmp_path / "log"
    hook = f"sh -c 'echo ready; cat; echo gone >> {log}'"
    said = at("copy", "take", "none", "--hook", hook)
    assert (said.code, log.read_text()) == (3, "gone\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hook", "'"), "cannot be read"),
        (("--hook", " "), "an empty hook"),
        (("--at-least", "application"), "nothing makes this copy consistent"),
        (("--deadline", "0"), "a deadline of 0 s is not possible"),
        (("--deadline", "301", "--hook", HELD), "a deadline of 301 s is not possible"),
    ],
)
def test_what_makes_no_sense(at: Shell, words: tuple[str, ...], message: str) -> None:
    at("copy", "take", "a", *words).refused(2, message)
