"""This site and its peers, as a person reads them."""

from __future__ import annotations

import io

from isochrone.control import render_site
from isochrone.control import views_site as v

LIMIT = v.LimitView(site="west", rules="1MiB/s", rate=1 << 20, sent=5 << 20, waited=1.0)
PEER = v.PeerView(
    name="west", id="i", fingerprint="ab" * 32, role="takeover", address="h:1", pool="p",
    joined="2026-01-01T00:00:00Z", connections=1, limit=LIMIT,
)  # fmt: skip


def test_identity() -> None:
    out = io.StringIO()
    invitation = v.InvitationView(id="i", role="replicate", expires="2026-01-02T00:00:00Z")
    render_site.identity(
        v.IdentityView(
            name="east", id="i", fingerprint="cd" * 32, addresses=[], sites=[PEER],
            invitations=[invitation], limits=[v.LimitView(site="*", rules="", rate=0, sent=0,
                                                          waited=0.0)],
        ),
        out,
    )  # fmt: skip
    text = out.getvalue()
    assert "east" in text
    assert "no port" in text
    assert "ab" * 8 + "\n" in text
    assert "1 MiB/s" in text
    assert "replicate  2026-01-02" in text
    assert "every other site" in text


def test_without_a_name() -> None:
    out = io.StringIO()
    render_site.identity(
        v.IdentityView(
            name="", id="", fingerprint="", addresses=[], sites=[], invitations=[], limits=[]
        ),
        out,
    )
    assert "isochrone site init NAME" in out.getvalue()


def test_peer_and_token() -> None:
    out = io.StringIO()
    render_site.peer(PEER, out)
    assert "h:1" in out.getvalue()
    out = io.StringIO()
    render_site.token(v.TokenView(token="t", address="h:1", role="takeover", expires="x"), out)
    assert out.getvalue() == "t\n"


def test_a_renewal() -> None:
    view = v.RenewalView(done=True, fingerprint="ab", expires="2029", waiting=[])
    out = io.StringIO()
    render_site.renewal(view, out)
    assert "known to all sites" in out.getvalue()
    for done, words in ((False, "the present one is in use"), (True, "in use")):
        waiting = [v.WaitingView(site="west", why="it is down")]
        view = v.RenewalView(done=done, fingerprint="ab", expires="2029", waiting=waiting)
        out = io.StringIO()
        render_site.renewal(view, out)
        assert words in out.getvalue()
        assert "known to all" not in out.getvalue()
        assert "it is down" in out.getvalue()
