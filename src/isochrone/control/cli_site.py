"""`isochrone site …`: who this site is, and which others it is enrolled with."""

from __future__ import annotations

import click

from isochrone.control.command import Site, SiteGroup, confirm, pass_site
from isochrone.errors import Unavailable

RENEWAL_S = 120.0  # sites that do not answer are waited for one after the other


@click.group(cls=SiteGroup)
def site() -> None:
    """Certificates of this site and of others, and how much is sent to them."""


@site.command("init")
@click.argument("name")
@pass_site
def site_init(site: Site, name: str) -> None:
    """Call this site NAME, and make its key and certificate.

    From then on its ports speak TLS, with enrolled sites only.
    """
    from isochrone.control import render_site, views_site

    document = site.call("POST", ("site",), {"name": name})
    site.show(document, views_site.IdentityView, render_site.identity)


@site.command("show")
@pass_site
def site_show(site: Site) -> None:
    """This site's name and fingerprint, who is enrolled, and open invitations."""
    from isochrone.control import render_site, views_site

    document = site.call("GET", ("site",))
    site.show(document, views_site.IdentityView, render_site.identity)


@site.command("list")
@pass_site
def site_list(site: Site) -> None:
    """Sites that are enrolled here."""
    from isochrone.control import render_site, views_site

    document = site.call("GET", ("sites",))
    site.show(document, views_site.PeerList, lambda view: render_site.peers(view.sites))


@site.command("invite")
@click.option(
    "--role",
    default="takeover",
    metavar="ROLE",
    help="replicate: it may follow groups; takeover: and take them over.  [default: takeover]",
)
@click.option("--expires", default="1h", metavar="SPAN", help="30m, 1h, at most 7d.  [default: 1h]")
@click.option("--address", default="", metavar="HOST:PORT", help="Where it finds our link.")
@pass_site
def site_invite(site: Site, role: str, expires: str, address: str) -> None:
    """Print a token with which one other site can enrol. Keep it as secret as a password."""
    from isochrone.control import render_site, views_site
    from isochrone.store.schedule import parse_span

    body = {"role": role, "seconds": parse_span(expires), "address": address}
    document = site.call("POST", ("site", "invitations"), body)
    site.show(document, views_site.TokenView, render_site.token)


@site.command("join")
@click.argument("token")
@click.option(
    "--role", default="takeover", metavar="ROLE", help="What it may do here.  [default: takeover]"
)
@click.option("--address", default="", metavar="HOST:PORT", help="Where it finds our link.")
@pass_site
def site_join(site: Site, token: str, role: str, address: str) -> None:
    """Enrol with the site that printed TOKEN; afterwards both know each other."""
    from isochrone.control import render_site, views_site

    body = {"token": token, "role": role, "address": address}
    site.show(site.call("POST", ("sites",), body), views_site.PeerView, render_site.peer)


@site.command("renew")
@click.option("--without", is_flag=True, help="Even if some sites cannot be told: they join again.")
@click.option("--yes", is_flag=True, help="Do not ask; with --without.")
@pass_site
def site_renew(site: Site, without: bool, yes: bool) -> None:
    """Give this site a new key and certificate, while its links go on.

    All enrolled sites are told first. If one cannot be reached nothing changes yet: repeat it.
    Fails then, with exit code 5.
    """
    import msgspec

    from isochrone.control import render_site, views_site

    if without:
        what = "leaving sites that do not answer without this site's new certificate"
        confirm("Cut off the sites that cannot be told?", what, yes=yes)
    document = site.call("POST", ("site", "renewal"), {"without": without}, wait=RENEWAL_S)
    site.show(document, views_site.RenewalView, render_site.renewal)
    view = msgspec.json.decode(document, type=views_site.RenewalView)
    if not view.done:
        names = ", ".join(each.site for each in view.waiting)
        raise Unavailable(
            f"not all sites know the new certificate: {names}; the present one stays in use",
            hint="repeat it once they can be reached: isochrone site renew",
        )


@site.command("revoke")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def site_revoke(site: Site, name: str, yes: bool) -> None:
    """Trust site NAME no longer: its links end at once, and it cannot come back without a token.

    Asks at a terminal; elsewhere it needs --yes.
    """
    confirm(f"Trust the site {name} no longer?", f"revoking the site {name!r}", yes=yes)
    site.call("DELETE", ("sites", name))
    site.done("revoked", "site", name)


@site.command("limit")
@click.argument("name")
@click.argument("rules", nargs=-1, required=True, metavar="RULES...")
@pass_site
def site_limit(site: Site, name: str, rules: tuple[str, ...]) -> None:
    """Bound what is sent to site NAME; "*" is every other, and links without TLS.

    RULES: 08:00-18:00 mon-fri 20MiB/s, else unlimited. The first that holds counts, by the
    controller's wall clock. Cuts go before copies, copies before comparing. "none" takes it away.
    """
    from isochrone.control import render_site, views_site

    text = " ".join(rules)
    body = {"rules": "" if text == "none" else text}
    document = site.call("PUT", ("site", "limits", name), body)
    site.show(document, views_site.LimitView, render_site.limit)
