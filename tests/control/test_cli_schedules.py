"""`isochrone schedule …` and labels, against a real controller."""

from __future__ import annotations

from tests.control.shell import Shell


def test_from_set_to_delete(at: Shell) -> None:
    at.json("volume", "create", "a", "1MiB", "--label", "tier=gold")
    at.json("volume", "create", "b", "1MiB")
    said = at(
        "schedule", "set", "s", "monthly", "keep", "3,", "weekly keep 2", "--label", "tier=gold"
    )
    assert said.code == 0
    assert "monthly keep 3, weekly keep 2 (UTC)" in said.out
    at.json("volume", "label", "b", "tier=gold", "zone=x")
    assert at.json("schedule", "show", "s")["members"] == ["a", "b"]
    assert at.json("volume", "label", "b", "zone-")["labels"] == {"tier": "gold"}
    assert "tier=gold" in at("volume", "show", "b").out
    copy = at.json("schedule", "run", "s")
    assert copy["schedule"] == "s"
    assert sorted(m["source"] for m in copy["members"]) == ["a", "b"]
    assert "schedule    s (" in at("copy", "show", copy["name"]).out
    assert "tier=gold" in at("schedule", "list").out
    assert "Schedules" in at("status").out
    gone = at("schedule", "delete", "s")
    assert gone.err == "schedule s deleted\n"
    at("schedule", "show", "s").refused(3, "there is no schedule 's'", "isochrone schedule list")


def test_rules_that_delete_at_once_need_a_yes(at: Shell) -> None:
    at.json("volume", "create", "c", "1MiB")
    at.json("schedule", "set", "t", "monthly keep 9", "--volume", "c")
    for _ in range(3):
        at.json("schedule", "run", "t")
    dry = at("schedule", "set", "t", "monthly keep 1", "--volume", "c", "--dry-run")
    assert "would go" in dry.out
    refused = at("schedule", "set", "t", "monthly keep 1", "--volume", "c")
    refused.refused(2, "setting rules that delete", "--yes")
    assert at.json("schedule", "show", "t")["rules"] == "monthly keep 9"
    assert at("schedule", "set", "t", "monthly keep 1", "--volume", "c", "--yes").code == 0
    assert at.json("schedule", "show", "t")["rules"] == "monthly keep 1"


def test_what_is_wrong_is_said(at: Shell) -> None:
    at.json("volume", "create", "d", "1MiB")
    at("schedule", "set", "x", "hourly", "--volume", "d").refused(2, "does not end with `keep N`")
    at("schedule", "set", "x", "hourly keep 2").refused(2, "for volumes, or", "--volume")
    at("schedule", "set", "x", "hourly keep 2", "--group", "no").refused(3, "no group 'no'")
    at("volume", "label", "d", "gold").refused(2, "'gold' is no label", "KEY=VALUE")
    at("volume", "label", "d", "gold-").refused(3, "has no label 'gold'")
    at("schedule", "run", "x").refused(3, "no schedule 'x'")
