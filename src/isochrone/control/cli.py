"""The command line: a thin client of a controller's API, and `serve`, which is one.

Imports stay light: what a command needs beyond click it takes when it runs.
"""

from __future__ import annotations

import sys

import click

from isochrone import __version__
from isochrone.control.cli_attachments import audit
from isochrone.control.cli_copies import copy
from isochrone.control.cli_dr import promote, rejoin, repoint, switch
from isochrone.control.cli_mirror import group, mirror
from isochrone.control.cli_points import points, rewind_window
from isochrone.control.cli_pool import pool, scrub
from isochrone.control.cli_probes import probe, probes
from isochrone.control.cli_relations import relation
from isochrone.control.cli_schedules import schedule
from isochrone.control.cli_serve import check, serve
from isochrone.control.cli_site import site
from isochrone.control.cli_take import hook
from isochrone.control.cli_verify import repair, verify
from isochrone.control.cli_volumes import volume
from isochrone.control.command import Site, SiteGroup, pass_site, run


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


for command in (
    serve,
    check,
    volume,
    audit,
    copy,
    hook,
    relation,
    schedule,
    pool,
    scrub,
    group,
    mirror,
    site,
):
    isochrone.add_command(command)
for part in (points, rewind_window, verify, repair, probe, probes):
    mirror.add_command(part)

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


isochrone.add_command(promote)
group.add_command(promote)
group.add_command(switch)
group.add_command(rejoin)
mirror.add_command(repoint)


@isochrone.command()
@pass_site
def status(site: Site) -> None:
    """One screen: volumes, copies, groups, lag, space."""
    from isochrone.control import render, views

    site.show(site.call("GET", ("status",)), views.SiteView, render.site)
