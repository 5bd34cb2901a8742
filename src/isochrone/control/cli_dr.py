"""`isochrone promote`, `group switch`, `group rejoin`, `mirror repoint`: who is the primary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isochrone.control.command import Site, SiteCommand, confirm, pass_site

SWITCH_S = 60.0  # default of `group switch`, as the API has it


def _address(text: str) -> str:
    """A path is meant from where it was typed, not from where the controller runs."""
    return str(Path(text).absolute()) if "/" in text else text


@click.command("promote", cls=SiteCommand)
@click.argument("group_name", metavar="GROUP")
@click.option("--check", is_flag=True, help="Only say what it would bring back and give up.")
@click.option("--force", is_flag=True, help="Even if the primary is alive and connected.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def promote(site: Site, group_name: str, check: bool, force: bool, yes: bool) -> None:
    """Take GROUP over: make it writable here, at its last complete cut.

    What the primary wrote after that cut is given up here, and the primary's epoch ends. Says
    first what that is. Asks at a terminal; elsewhere it needs --yes.
    """
    import msgspec

    from isochrone.control import render, render_dr, views, views_dr

    document = site.call("GET", ("groups", group_name, "loss"))
    if check:
        site.show(document, views_dr.LossView, render_dr.loss)
        return
    if not yes and site.output != "json":
        render_dr.loss(msgspec.json.decode(document, type=views_dr.LossView))
    confirm(
        f"Take {group_name} over at this cut? What came later is given up.",
        f"taking the group {group_name!r} over",
        yes=yes,
    )
    document = site.call("POST", ("groups", group_name, "promote"), {"force": force})
    site.show(document, views.PromoteView, render.promoted)


@click.command("switch", cls=SiteCommand)
@click.argument("group_name", metavar="GROUP")
@click.option(
    "--address", default="", metavar="ADDRESS", help="Where the old primary will find this site."
)
@click.option("--force", is_flag=True, help="Even if hosts have volumes open for writing there.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=3600),
    default=SWITCH_S,
    show_default=True,
    metavar="S",
    help="Seconds; then the old primary goes on.",
)
@click.option("--cancel", is_flag=True, help="At the primary: let its hosts write again.")
@pass_site
def switch(
    site: Site, group_name: str, address: str, force: bool, timeout: float, cancel: bool
) -> None:
    """Take GROUP over from its primary as planned: nothing is lost, nothing is copied.

    Run it at the secondary that is to take over. The old primary stops its hosts, sends the last
    cut, and follows this site from then on. If it is broken off, run it again.
    """
    from isochrone.control import render_dr, render_mirror, views_dr, views_mirror

    if cancel:
        document = site.call("POST", ("groups", group_name, "switch", "cancel"))
        site.show(document, views_mirror.GroupView, render_mirror.group)
        return
    body = {"address": _address(address), "force": force, "timeout": timeout}
    document = site.call("POST", ("groups", group_name, "switch"), body, wait=timeout)
    site.show(document, views_dr.SwitchView, render_dr.switched)


def _come_back(site: Site, name: str, body: dict[str, Any], *, dry_run: bool, yes: bool) -> None:
    import msgspec

    from isochrone.control import render_dr, views_dr

    size = site.call("POST", ("groups", name, "rejoin"), {**body, "dry_run": True})
    if dry_run:
        site.show(size, views_dr.RejoinView, render_dr.rejoined)
        return
    if not yes and site.output != "json":
        render_dr.rejoined(msgspec.json.decode(size, type=views_dr.RejoinView))
    confirm(f"Let {name} follow it?", f"making {name!r} follow another primary", yes=yes)
    document = site.call("POST", ("groups", name, "rejoin"), body)
    site.show(document, views_dr.RejoinView, render_dr.rejoined)


@click.command("rejoin", cls=SiteCommand)
@click.argument("group_name", metavar="GROUP")
@click.option("--from", "source", default="", metavar="ADDRESS", help="The new primary's link.")
@click.option("--dry-run", is_flag=True, help="Only say how much would be moved and kept.")
@click.option("--force", is_flag=True, help="Even if this site is a primary: it gives way.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def rejoin(site: Site, group_name: str, source: str, dry_run: bool, force: bool, yes: bool) -> None:
    """Let an old primary follow the site that took GROUP over, by delta where that can be.

    What was written here and never sent is kept first, as a pinned copy. Asks at a terminal;
    elsewhere it needs --yes.
    """
    body = {"source": _address(source), "force": force}
    _come_back(site, group_name, body, dry_run=dry_run, yes=yes)


@click.command("repoint", cls=SiteCommand)
@click.argument("group_name", metavar="GROUP")
@click.argument("source", metavar="ADDRESS")
@click.option("--dry-run", is_flag=True, help="Only say how much would be moved and kept.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def repoint(site: Site, group_name: str, source: str, dry_run: bool, yes: bool) -> None:
    """Let a secondary follow GROUP from another site, on from the cut that both have.

    For the others after a failover, or to follow a secondary. Asks at a terminal; elsewhere it
    needs --yes.
    """
    _come_back(site, group_name, {"source": _address(source)}, dry_run=dry_run, yes=yes)
