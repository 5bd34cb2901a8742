"""`isochrone site …`, against a real controller."""

from __future__ import annotations

from tests.control.shell import Shell


def test_from_init_to_revoke(at: Shell) -> None:
    assert "no name and no certificate" in at("site", "show").out
    at("site", "init", "a b").refused(2, "cannot be the name of a site")
    assert at.json("site", "init", "here")["name"] == "here"
    assert "fingerprint" in at("site", "show").out
    at("site", "invite").refused(4, "no link port", "--link HOST:PORT")
    said = at("site", "invite", "--address", "here.example:1", "--expires", "30m")
    assert said.out.startswith("isochrone1.")
    assert len(said.out.splitlines()) == 1
    assert "it will call here.example:1" in said.err
    at("site", "invite", "--role", "king", "--address", "h:1").refused(2, "not a role")
    at("site", "invite", "--expires", "8d", "--address", "h:1").refused(2, "at most 7 days")
    at("site", "join", said.out.strip()).refused(4, "this very site")
    at("site", "join", "junk").refused(2, "not a token")
    assert at.json("site", "list") == {"sites": []}
    at("site", "revoke", "x").refused(2, "needs a confirmation", "--yes")
    at("site", "revoke", "x", "--yes").refused(3, "no site 'x'")


def test_limits(at: Shell) -> None:
    said = at("site", "limit", "*", "08:00-18:00", "mon-fri", "20MiB/s,", "else", "unlimited")
    assert "every other site" in said.out
    assert "08:00-18:00 mon-fri 20MiB/s, else unlimited" in at("site", "show").out
    at("site", "limit", "*", "fast").refused(2, "does not end with a rate")
    assert at.json("site", "limit", "*", "none")["rules"] == ""
    at("site", "limit", "x", "1MiB/s").refused(3, "no site 'x'")


def test_a_new_key(at: Shell) -> None:
    """The site has its name by now."""
    before = at.json("site", "show")["fingerprint"]
    said = at("site", "renew")
    assert (said.code, "known to all sites" in said.out) == (0, True)
    assert at.json("site", "show")["fingerprint"] != before
    assert "renew until" in at("site", "show").out
    at("site", "renew", "--without").refused(2, "needs a confirmation", "--yes")
    assert at("site", "renew", "--without", "--yes").code == 0
