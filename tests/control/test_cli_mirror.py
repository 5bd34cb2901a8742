"""Commands about groups and mirrors, against a real controller."""

from __future__ import annotations

from tests.control.shell import Shell


def test_terms_need_somebody_to_have_them_with(at: Shell) -> None:
    at("volume", "create", "tv", "1MiB")
    at("group", "create", "tg", "tv")
    assert at("mirror", "status", "tg").out.startswith("tg: NOT MIRRORED: no secondary follows\n")
    at("mirror", "set", "tg", "--policy", "pace").refused(4, "nobody follows group 'tg' from here")
    at("mirror", "suspend", "tg").refused(4, "nobody follows")
    at("mirror", "resume", "nix").refused(3, "there is no group 'nix'")
    at("mirror", "forget", "tg", "west", "--yes").refused(3, "no secondary of group 'tg' is 'west'")
    at("mirror", "forget", "tg", "west").refused(2, "needs a confirmation")
    assert at.json("mirror", "set", "tg", "--interval", "2.5")["interval"] == 2.5
    at("mirror", "set", "tg", "--interval", "0.001").refused(2, "the interval is 0.05 s to 3600 s")
    at("mirror", "set", "tg", "--policy", "hope").refused(2, "--policy")


def test_groups(at: Shell) -> None:
    at("volume", "create", "gv", "1MiB")
    made = at.json("group", "create", "gg", "gv")
    assert at.json("group", "show", "gg")["lineage"] == made["lineage"]
    at("volume", "create", "gw", "1MiB")
    assert at.json("group", "add", "gg", "gw")["volumes"] == ["gv", "gw"]
    assert at.json("group", "remove", "gg", "gv")["volumes"] == ["gw"]
    at("group", "remove", "gg", "gw").refused(4, "nothing would be left of the group 'gg'")
    at("group", "add", "nix", "gv").refused(3, "there is no group 'nix'")
    assert at("group", "delete", "gg", "--yes").err == "group gg deleted\n"
