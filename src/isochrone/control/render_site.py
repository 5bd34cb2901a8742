"""This site and its peers, drawn for a person."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from isochrone.control import views_site as v
from isochrone.control.render import Out, facts, table
from isochrone.control.sizes import format_size


def identity(view: v.IdentityView, out: Out = None) -> None:
    out = out or sys.stdout
    if view.name:
        port = ", ".join(view.addresses) or "no port: serve with --link HOST:PORT"
        facts(
            [
                ("name", view.name),
                ("fingerprint", view.fingerprint),
                ("renew until", view.expires),
                ("attention", view.warning),
                ("link", port),
            ],
            out,
        )
    else:
        print("no name and no certificate: links at ports are plain, on this machine", file=out)
        print("give it both with: isochrone site init NAME", file=out)
    if view.sites:
        print(file=out)
        peers(view.sites, out, title="Sites")
    if view.invitations:
        print(file=out)
        rows = [[each.role, each.expires] for each in view.invitations]
        table("Invitations", ["ROLE", "EXPIRES"], rows, out)
    for each in view.limits:
        print(file=out)
        limit(each, out)


def peers(views: Sequence[v.PeerView], out: Out = None, title: str = "") -> None:
    heads = ["SITE", "ROLE", "LINKS", "ADDRESS", "JOINED", "LIMIT", "SENT", "CERTIFICATE"]
    rows = [
        [
            *(each.name, each.role, str(each.connections), each.address or "-", each.joined),
            *(_rate(each.limit) or "-", format_size(each.limit.sent), each.fingerprint[:16]),
        ]
        for each in views
    ]
    table(title, heads, rows, out)


def peer(view: v.PeerView, out: Out = None) -> None:
    facts(
        [
            ("site", view.name),
            ("role", view.role),
            ("address", view.address or "none: it only ever calls"),
            ("fingerprint", view.fingerprint),
        ],
        out,
    )


def renewal(view: v.RenewalView, out: Out = None) -> None:
    state = "in use, and known to all sites" if view.done else "waits: the present one is in use"
    if view.done and view.waiting:
        state = "in use"
    facts(
        [
            ("new certificate", state),
            ("fingerprint", view.fingerprint),
            ("renew until", view.expires),
        ],
        out,
    )
    if view.waiting:
        rows = [[each.site, each.why] for each in view.waiting]
        table("Not told", ["SITE", "WHY"], rows, out)


def limit(view: v.LimitView, out: Out = None) -> None:
    facts(
        [
            ("limit of", "every other site" if view.site == "*" else view.site),
            ("rules", view.rules or "unlimited"),
            ("now", _rate(view)),
        ],
        out,
    )


def token(view: v.TokenView, out: Out = None) -> None:
    """The token alone on stdout, so that it can be taken from there."""
    print(view.token, file=out or sys.stdout)
    click.echo(f"for one site, until {view.expires}; it will call {view.address}", err=True)
    click.echo("there: isochrone site join TOKEN", err=True)


def _rate(view: v.LimitView) -> str:
    return f"{format_size(view.rate)}/s" if view.rate else ""
