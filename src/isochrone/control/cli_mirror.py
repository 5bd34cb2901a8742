"""`isochrone group …` and `isochrone mirror …`: what is mirrored, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isochrone.control.command import SIZE, Site, SiteGroup, confirm, pass_site

WAIT_S: float = 60.0  # default of `mirror wait`: a first copy of a few GiB over a LAN

one_peer = click.option(
    "--peer", default="", metavar="P", help="One secondary: its site or identity."
)


@click.group(cls=SiteGroup)
def group() -> None:
    """Volumes that are mirrored and recovered together."""


@group.command("create")
@click.argument("name", metavar="GROUP")
@click.argument("volumes", nargs=-1, required=True, metavar="VOLUME...")
@pass_site
def group_create(site: Site, name: str, volumes: tuple[str, ...]) -> None:
    """Make a group of volumes; this site is its primary."""
    from isochrone.control import render_mirror, views_mirror

    body = {"name": name, "volumes": list(volumes)}
    site.show(site.call("POST", ("groups",), body), views_mirror.GroupView, render_mirror.group)


@group.command("add")
@click.argument("name", metavar="GROUP")
@click.argument("volumes", nargs=-1, required=True, metavar="VOLUME...")
@pass_site
def group_add(site: Site, name: str, volumes: tuple[str, ...]) -> None:
    """Put more volumes into GROUP, at its primary; mirrors go on, and get them with the next cut.

    Copies that were taken before do not have them.
    """
    _change(site, name, {"add": list(volumes)})


@group.command("remove")
@click.argument("name", metavar="GROUP")
@click.argument("volumes", nargs=-1, required=True, metavar="VOLUME...")
@pass_site
def group_remove(site: Site, name: str, volumes: tuple[str, ...]) -> None:
    """Take volumes out of GROUP, at its primary; they stay, here and at the secondaries.

    There they are plain volumes from the next cut on, as they were at the one before.
    """
    _change(site, name, {"remove": list(volumes)})


def _change(site: Site, name: str, body: dict[str, list[str]]) -> None:
    from isochrone.control import render_mirror, views_mirror

    document = site.call("PATCH", ("groups", name, "volumes"), body)
    site.show(document, views_mirror.GroupView, render_mirror.group)


@group.command("list")
@pass_site
def group_list(site: Site) -> None:
    """All groups."""
    _show_groups(site)


@group.command("show")
@click.argument("name", metavar="GROUP")
@pass_site
def group_show(site: Site, name: str) -> None:
    """One group: its role, state, cut and partners."""
    _show_group(site, name)


@group.command("delete")
@click.argument("name", metavar="GROUP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def group_delete(site: Site, name: str, yes: bool) -> None:
    """Forget a group; its volumes stay, as plain volumes that can be written to.

    Secondaries that follow it get nothing more. Asks at a terminal; elsewhere it needs --yes.
    """
    site.call("GET", ("groups", name))
    confirm(f"Forget the group {name}?", f"forgetting the group {name!r}", yes=yes)
    site.call("DELETE", ("groups", name))
    site.done("deleted", "group", name)


def _show_groups(site: Site) -> None:
    from isochrone.control import render_mirror, views_mirror

    document = site.call("GET", ("groups",))
    site.show(document, views_mirror.GroupList, lambda view: render_mirror.groups(view.groups))


def _show_group(site: Site, name: str) -> None:
    from isochrone.control import render_mirror, views_mirror

    site.show(site.call("GET", ("groups", name)), views_mirror.GroupView, render_mirror.group)


# -- mirror


@click.group(cls=SiteGroup)
def mirror() -> None:
    """Follow a group of another controller, and say on what terms it is served."""


@mirror.command("add")
@click.argument("group_name", metavar="GROUP")
@click.option("--source", required=True, metavar="ADDRESS", help="The primary's link.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    metavar="SEED",
    help="VOLUME=LOCAL: start VOLUME's copy from a volume here.",
)
@pass_site
def mirror_add(site: Site, group_name: str, source: str, seeds: tuple[str, ...]) -> None:
    """Begin to mirror GROUP from the controller whose link is at ADDRESS."""
    from isochrone.control import render_mirror, views_mirror

    # A path is meant from where it was typed, not from where the controller runs.
    address = str(Path(source).absolute()) if "/" in source else source
    document = site.call("POST", ("mirrors",), {
        "group": group_name, "source": address, "seeds": dict(map(_seed, seeds)),
    })  # fmt: skip
    site.show(document, views_mirror.GroupView, render_mirror.group)


def _seed(words: str) -> tuple[str, str]:
    volume, sign, local = words.partition("=")
    if not (volume and sign and local):
        raise click.UsageError(f"a seed is VOLUME=LOCAL, not {words!r}")
    return volume, local


@mirror.command("status")
@click.argument("group_name", metavar="[GROUP]", required=False)
@pass_site
def mirror_status(site: Site, group_name: str | None) -> None:
    """Whether GROUP can be recovered here, how old it would be, and what holds it up."""
    from isochrone.control import render_mirror, views_mirror

    if group_name is None:
        _show_groups(site)
        return
    document = site.call("GET", ("groups", group_name))
    site.show(document, views_mirror.GroupView, render_mirror.status)


@mirror.command("set")
@click.argument("group_name", metavar="GROUP")
@one_peer
@click.option(
    "--policy",
    type=click.Choice(["suspend", "fall-behind", "pace"]),
    metavar="POLICY",
    help="At the limit: suspend, fall-behind (resend tracks), pace (delay writers).",
)
@click.option("--limit-bytes", type=SIZE, metavar="SIZE", help="Of the side file; 0: none.")
@click.option("--limit-age", type=float, metavar="S", help="Of the side file; 0: none.")
@click.option(
    "--resync",
    type=click.Choice(["auto", "manual"]),
    metavar="HOW",
    help="After a suspension: auto, or manual by `mirror resume`.",
)
@click.option("--interval", type=float, metavar="S", help="Between cuts of GROUP; 0: the usual.")
@pass_site
def mirror_set(
    site: Site, /, group_name: str, peer: str, limit_age: float | None, **terms: Any
) -> None:
    """At the primary: limits of the side file, what happens at them, and how often it cuts.

    Holds from now on; what is not given stays as it is.
    """
    from isochrone.control import render_mirror, views_mirror

    terms["limit_seconds"] = limit_age
    body = {name: value for name, value in terms.items() if value is not None}
    document = site.call("PATCH", ("mirrors", group_name), {"peer": peer, **body})
    site.show(document, views_mirror.GroupView, render_mirror.status)


@mirror.command("suspend")
@click.argument("group_name", metavar="GROUP")
@one_peer
@pass_site
def mirror_suspend(site: Site, group_name: str, peer: str) -> None:
    """At the primary: send nothing more until `mirror resume`; changed tracks are recorded."""
    _tell(site, group_name, "suspend", peer)


@mirror.command("resume")
@click.argument("group_name", metavar="GROUP")
@one_peer
@pass_site
def mirror_resume(site: Site, group_name: str, peer: str) -> None:
    """At the primary: serve the secondary again; it gets what has changed since its cut."""
    _tell(site, group_name, "resume", peer)


def _tell(site: Site, group_name: str, act: str, peer: str) -> None:
    from isochrone.control import render_mirror, views_mirror

    document = site.call("POST", ("mirrors", group_name, act), {"peer": peer})
    site.show(document, views_mirror.GroupView, render_mirror.status)


@mirror.command("forget")
@click.argument("group_name", metavar="GROUP")
@click.argument("peer")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def mirror_forget(site: Site, group_name: str, peer: str, yes: bool) -> None:
    """At the primary: keep nothing for a secondary that does not come back.

    If it does, it needs a first copy. Asks at a terminal; elsewhere it needs --yes.
    """
    confirm(f"Keep nothing for {peer} any more?", f"forgetting the secondary {peer!r}", yes=yes)
    site.call("DELETE", ("mirrors", group_name, "peers", peer))
    site.done("forgotten", "secondary", peer)


@mirror.command("wait")
@click.argument("group_name", metavar="GROUP")
@click.option("--copy", "copy_name", default="", metavar="NAME", help="Until this copy is here.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    default=WAIT_S,
    show_default=True,
    metavar="S",
    help="Seconds; then exit code 10.",
)
@pass_site
def mirror_wait(site: Site, group_name: str, copy_name: str, timeout: float) -> None:
    """Wait until all that the primary has now is here."""
    from isochrone.control import render_mirror, views_mirror

    body = {"copy": copy_name, "timeout": timeout}
    document = site.call("POST", ("mirrors", group_name, "wait"), body, wait=timeout)
    site.show(document, views_mirror.GroupView, render_mirror.group)


@mirror.command("remove")
@click.argument("group_name", metavar="GROUP")
@pass_site
def mirror_remove(site: Site, group_name: str) -> None:
    """Stop mirroring GROUP; its volumes stay here, at their last cut, as plain volumes."""
    site.call("DELETE", ("mirrors", group_name))
    site.done("removed", "mirror", group_name)
