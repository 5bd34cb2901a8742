"""The command line: a thin client of a controller's API, and `serve`, which is one.

Imports stay light: what a command needs beyond click it takes when it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from isochrone import __version__
from isochrone.control.cli_attachments import audit
from isochrone.control.cli_copies import copy
from isochrone.control.cli_pool import pool, scrub
from isochrone.control.cli_relations import relation
from isochrone.control.cli_schedules import schedule
from isochrone.control.cli_serve import check, serve
from isochrone.control.cli_take import hook
from isochrone.control.cli_volumes import volume
from isochrone.control.command import Site, SiteGroup, confirm, pass_site, run

WAIT_S: float = 60.0  # default of `mirror wait`: a first copy of a few GiB over a LAN


@click.group(
    cls=SiteGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="isochrone", message="%(prog)s %(version)s")
def isochrone() -> None:
    """Block storage whose copies and mirrors all stop at the same instant.

    Exit codes: 0 done, 1 failure, 2 usage, 3 not found, 4 conflict, 5 unavailable, 6 no space,
    7 taken over elsewhere, 8 the other site's fault, 9 damage, 10 not in time, 11 a hook failed.
    """


def main() -> None:
    """The console script."""
    sys.exit(run(isochrone))


for command in (serve, check, volume, audit, copy, hook, relation, schedule, pool, scrub):
    isochrone.add_command(command)

# -- group


@isochrone.group(cls=SiteGroup)
def group() -> None:
    """Volumes that are mirrored and recovered together."""


@group.command("create")
@click.argument("name", metavar="GROUP")
@click.argument("volumes", nargs=-1, required=True, metavar="VOLUME...")
@pass_site
def group_create(site: Site, name: str, volumes: tuple[str, ...]) -> None:
    """Make a group of volumes; this site is its primary."""
    from isochrone.control import render, views

    body = {"name": name, "volumes": list(volumes)}
    site.show(site.call("POST", ("groups",), body), views.GroupView, render.group)


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
    from isochrone.control import render, views

    document = site.call("GET", ("groups",))
    site.show(document, views.GroupList, lambda view: render.groups(view.groups))


def _show_group(site: Site, name: str) -> None:
    from isochrone.control import render, views

    site.show(site.call("GET", ("groups", name)), views.GroupView, render.group)


# -- mirror


@isochrone.group(cls=SiteGroup)
def mirror() -> None:
    """Follow a group of another controller. Run these at the secondary."""


@mirror.command("add")
@click.argument("group_name", metavar="GROUP")
@click.option("--source", required=True, metavar="ADDRESS", help="The primary's link.")
@pass_site
def mirror_add(site: Site, group_name: str, source: str) -> None:
    """Begin to mirror GROUP from the controller whose link is at ADDRESS."""
    from isochrone.control import render, views

    # A path is meant from where it was typed, not from where the controller runs.
    address = str(Path(source).absolute()) if "/" in source else source
    document = site.call("POST", ("mirrors",), {"group": group_name, "source": address})
    site.show(document, views.GroupView, render.group)


@mirror.command("status")
@click.argument("group_name", metavar="[GROUP]", required=False)
@pass_site
def mirror_status(site: Site, group_name: str | None) -> None:
    """State, cut and age of the recovery point."""
    if group_name is None:
        _show_groups(site)
    else:
        _show_group(site, group_name)


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
    from isochrone.control import render, views

    body = {"copy": copy_name, "timeout": timeout}
    document = site.call("POST", ("mirrors", group_name, "wait"), body, wait=timeout)
    site.show(document, views.GroupView, render.group)


@mirror.command("remove")
@click.argument("group_name", metavar="GROUP")
@pass_site
def mirror_remove(site: Site, group_name: str) -> None:
    """Stop mirroring GROUP; its volumes stay here, at their last cut, as plain volumes."""
    site.call("DELETE", ("mirrors", group_name))
    site.done("removed", "mirror", group_name)


# -- filter


@isochrone.group(cls=SiteGroup, name="filter")
def filter_() -> None:
    """Drills: make an export read-only, slow, faulty or silent, while it is in use."""


@filter_.command("set")
@click.argument("export")
@click.argument("filters", nargs=-1, required=True, metavar="FILTER...")
@pass_site
def filter_set(site: Site, export: str, filters: tuple[str, ...]) -> None:
    """Give EXPORT these filters instead of those it has. They end with the controller.

    read-only, rate=10MiB/s, delay=5ms, error=1%, pause.
    """
    from isochrone.control import render, views

    document = site.call("PUT", ("filters", export), {"filters": list(filters)})
    site.show(document, views.FilterView, lambda view: render.filters([view]))


@filter_.command("clear")
@click.argument("export")
@pass_site
def filter_clear(site: Site, export: str) -> None:
    """Take all filters off EXPORT."""
    site.call("DELETE", ("filters", export))
    site.done("cleared", "filters of", export)


@filter_.command("list")
@pass_site
def filter_list(site: Site) -> None:
    """Exports that have filters."""
    from isochrone.control import render, views

    document = site.call("GET", ("filters",))
    site.show(document, views.FilterList, lambda view: render.filters(view.filters))


# -- door


@isochrone.group(cls=SiteGroup)
def door() -> None:
    """The block ports: TLS, who may open what, and who has."""


@door.command("show")
@pass_site
def door_show(site: Site) -> None:
    """What the block ports ask of clients, and who is here."""
    from isochrone.control import render, views

    site.show(site.call("GET", ("door",)), views.DoorView, render.door)


@door.command("reload")
@pass_site
def door_reload(site: Site) -> None:
    """Read certificates and DIR/exports.toml again; if anything is wrong, keep the old ones.

    Clients that have an export open which the new rules deny them are let go.
    """
    from isochrone.control import render, views

    site.show(site.call("POST", ("door", "reload")), views.ReloadView, render.reloaded)


# -- disaster


@isochrone.command()
@click.argument("group_name", metavar="GROUP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def promote(site: Site, group_name: str, yes: bool) -> None:
    """Take GROUP over: make it writable here, at its last complete cut.

    What the primary wrote after that cut is lost here, and the primary's epoch ends. Asks at a
    terminal; elsewhere it needs --yes.
    """
    import msgspec

    from isochrone.control import render, views
    from isochrone.control.times import format_span

    known = msgspec.json.decode(site.call("GET", ("groups", group_name)), type=views.GroupView)
    point = known.recovery_point_time or known.cut_time or "no complete cut"
    age = format_span(known.recovery_point_age)
    confirm(
        f"Take {group_name} over at {point} ({age} ago)? Later writes are given up.",
        f"taking the group {group_name!r} over",
        yes=yes,
    )
    document = site.call("POST", ("groups", group_name, "promote"))
    site.show(document, views.PromoteView, render.promoted)


@isochrone.command()
@pass_site
def status(site: Site) -> None:
    """One screen: volumes, copies, groups, lag, space."""
    from isochrone.control import render, views

    site.show(site.call("GET", ("status",)), views.SiteView, render.site)
