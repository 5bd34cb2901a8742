"""The command line: a thin client of a controller's API, and `serve`, which is one.

Imports stay light: what a command needs beyond click it takes when it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from isochrone import __version__
from isochrone.control.command import Site, SiteGroup, confirm, pass_site, run
from isochrone.control.sizes import parse_size
from isochrone.errors import Damaged

WAIT_S: float = 60.0  # default of `mirror wait`: a first copy of a few GiB over a LAN


class Size(click.ParamType[int]):
    """Bytes, or 64MiB, 10GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return value if isinstance(value, int) else parse_size(value)


SIZE = Size()


@click.group(
    cls=SiteGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="isochrone", message="%(prog)s %(version)s")
def isochrone() -> None:
    """Block storage whose copies and mirrors all stop at the same instant.

    Exit codes: 0 done, 1 failure, 2 usage, 3 not found, 4 conflict, 5 unavailable, 6 no space,
    7 taken over elsewhere, 8 the other site's fault, 9 damage, 10 not in time.
    """


def main() -> None:
    """The console script."""
    sys.exit(run(isochrone))


# -- serve


@isochrone.command(cls=click.Command)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--nbd", metavar="HOST:PORT", default="", help="Serve block clients there as well.")
@click.option("--link", metavar="HOST:PORT", default="", help="Serve secondaries there as well.")
@click.option("--api", metavar="HOST:PORT", default="", help="Serve the HTTP API there as well.")
@click.option("--insecure", is_flag=True, help="Let other hosts reach these ports. Trusts all.")
def serve(directory: Path, nbd: str, link: str, api: str, insecure: bool) -> None:
    """Be the controller of DIR, which is created if need be.

    DIR/nbd.sock, DIR/api.sock and DIR/link.sock are always there. One line on stdout says "ready";
    logs go to stderr. SIGTERM stops it in order, a second one in a hurry.
    """
    from isochrone.control import logs, service

    settings = service.Settings(directory, nbd=nbd, link=link, api=api, insecure=insecure)
    settings.check()
    logs.set_up()
    service.run(settings)


@isochrone.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_context
def check(context: click.Context, directory: Path) -> None:
    """Read every block of the closed pool in DIR and say which are damaged, and whose they are.

    Changes nothing but what any start does: an unfinished end of the log is cut off.
    """
    from isochrone.control import offline

    report = offline.check(directory)
    for line in report.lines:
        click.echo(line)
    context.exit(Damaged.exit_code if report.damaged else 0)


# -- volume


@isochrone.group(cls=SiteGroup)
def volume() -> None:
    """Thin virtual disks."""


@volume.command("create")
@click.argument("name")
@click.argument("size", type=SIZE)
@pass_site
def volume_create(site: Site, name: str, size: int) -> None:
    """Make a volume; it takes no space until it is written."""
    from isochrone.control import render, views

    document = site.call("POST", ("volumes",), {"name": name, "size": size})
    site.show(document, views.VolumeView, render.volume)


@volume.command("list")
@pass_site
def volume_list(site: Site) -> None:
    """All volumes."""
    from isochrone.control import render, views

    document = site.call("GET", ("volumes",))
    site.show(document, views.VolumeList, lambda view: render.volumes(view.volumes))


@volume.command("show")
@click.argument("name")
@pass_site
def volume_show(site: Site, name: str) -> None:
    """One volume, or VOLUME@COPY."""
    from isochrone.control import render, views

    site.show(site.call("GET", ("volumes", name)), views.VolumeView, render.volume)


@volume.command("resize")
@click.argument("name")
@click.argument("size", type=SIZE)
@click.option("--shrink", is_flag=True, help="Cutting off the end is meant.")
@pass_site
def volume_resize(site: Site, name: str, size: int, shrink: bool) -> None:
    """Give a volume another size."""
    from isochrone.control import render, views

    document = site.call("PATCH", ("volumes", name), {"size": size, "shrink": shrink})
    site.show(document, views.VolumeView, render.volume)


@volume.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def volume_delete(site: Site, name: str, yes: bool) -> None:
    """Delete a volume with its content; its copies stay.

    Asks at a terminal; elsewhere it needs --yes.
    """
    # A wrong name should say so before anybody is asked.
    site.call("GET", ("volumes", name))
    confirm(f"Delete {name} and all it holds?", f"deleting the volume {name!r}", yes=yes)
    site.call("DELETE", ("volumes", name))
    site.done("deleted", "volume", name)


# -- copy


@isochrone.group(cls=SiteGroup)
def copy() -> None:
    """Point-in-time copies; VOLUME@NAME is the export of a copy."""


@copy.command("take")
@click.option("--name", default="", help="Default: the time, as in 20260131T120000Z.")
@click.option("--writable", is_flag=True, help="A clone, not a snapshot.")
@click.argument("volumes", nargs=-1, required=True, metavar="VOLUME...")
@pass_site
def copy_take(site: Site, name: str, writable: bool, volumes: tuple[str, ...]) -> None:
    """Copy volumes at one instant. Nothing is moved; all or none are copied."""
    from isochrone.control import render, views

    body = {"volumes": list(volumes), "name": name, "writable": writable}
    site.show(site.call("POST", ("copies",), body), views.CopyView, render.copy)


@copy.command("list")
@pass_site
def copy_list(site: Site) -> None:
    """All copies, oldest first."""
    from isochrone.control import render, views

    document = site.call("GET", ("copies",))
    site.show(document, views.CopyList, lambda view: render.copies(view.copies))


@copy.command("show")
@click.argument("name")
@pass_site
def copy_show(site: Site, name: str) -> None:
    """One copy and its exports."""
    from isochrone.control import render, views

    site.show(site.call("GET", ("copies", name)), views.CopyView, render.copy)


@copy.command("delete")
@click.argument("name")
@pass_site
def copy_delete(site: Site, name: str) -> None:
    """Delete a copy of all its volumes. Does not ask: scripts rotate copies."""
    site.call("DELETE", ("copies", name))
    site.done("deleted", "copy", name)


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
