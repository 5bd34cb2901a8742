"""`isochrone volume detach` and `isochrone audit`: who has volumes open, and what that decided."""

from __future__ import annotations

import click

from isochrone.control.command import Site, SiteCommand, confirm, pass_site


@click.command("detach", cls=SiteCommand)
@click.argument("name")
@click.option("--host", required=True, metavar="HOST", help="As `volume show` names it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def detach(site: Site, name: str, host: str, yes: bool) -> None:
    """End a host's connections to a volume, and do not expect it back.

    For a host that is gone for good. One that lives connects again, and may write what it had
    not written yet. Asks at a terminal; elsewhere it needs --yes.
    """
    from isochrone.control import render, views

    site.call("GET", ("volumes", name))
    confirm(
        f"Let {host} go, with all it has not written to {name}?",
        f"detaching {host!r} from {name!r}",
        yes=yes,
    )
    document = site.call("DELETE", ("volumes", name, "attachments", host))
    site.show(document, views.VolumeView, render.volume)


@click.command("audit", cls=SiteCommand)
@click.option(
    "--last",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    metavar="N",
    help="So many of the newest.",
)
@pass_site
def audit(site: Site, last: int) -> None:
    """What was decided about volumes that were to be overlaid, and who had them open."""
    from isochrone.control import render_audit
    from isochrone.control.audit import AuditList

    document = site.call("GET", ("audit",), query={"last": str(last)})
    site.show(document, AuditList, render_audit.entries)
