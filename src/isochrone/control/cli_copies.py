"""`isochrone copy …`: what is here, holds, deletion, pruning, differences."""

from __future__ import annotations

from typing import Any

import click

from isochrone.control.cli_matched import requests
from isochrone.control.cli_relations import revert
from isochrone.control.cli_take import take
from isochrone.control.command import Site, SiteGroup, confirm, pass_site
from isochrone.errors import InvalidInput

BLOCK, TRACK = 4096, 65536  # units of a difference; the same as in `types`, which loads more


@click.group(cls=SiteGroup)
def copy() -> None:
    """Point-in-time copies; VOLUME@NAME is the export of a copy."""


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


@copy.command("hold")
@click.argument("name")
@click.option("--until", default="", metavar="DATE", help="2027-01-31, or with a time; UTC.")
@click.option("--for", "span", default="", metavar="SPAN", help="From now: 36h, 30d.")
@click.option("--reason", default="", metavar="TEXT", help="Shown with the copy.")
@pass_site
def hold(site: Site, name: str, until: str, span: str, reason: str) -> None:
    """Let nobody delete a copy before a date. It can be made later, never earlier."""
    _hold(site, name, {"until": until, "for": span, "reason": reason})


@copy.command("pin")
@click.argument("name")
@click.option("--reason", default="", metavar="TEXT", help="Shown with the copy.")
@pass_site
def pin(site: Site, name: str, reason: str) -> None:
    """Let nobody delete a copy until it is unpinned."""
    _hold(site, name, {"pin": True, "reason": reason})


def _hold(site: Site, name: str, body: dict[str, Any]) -> None:
    from isochrone.control import render, views

    site.show(site.call("PUT", ("copies", name, "hold"), body), views.CopyView, render.copy)


@copy.command("unpin")
@click.argument("name")
@pass_site
def unpin(site: Site, name: str) -> None:
    """Take a pin away. A hold with a date stays."""
    from isochrone.control import render, views

    site.show(site.call("DELETE", ("copies", name, "pin")), views.CopyView, render.copy)


@copy.command("delete")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--older-than", default="", metavar="SPAN", help="All of this site from before: 30d.")
@click.option("--dry-run", is_flag=True, help="Only say which would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def delete(site: Site, names: tuple[str, ...], older_than: str, dry_run: bool, yes: bool) -> None:
    """Delete copies of all their volumes: those named, all or none, or those that are old.

    Names are not asked about: scripts rotate copies. With --older-than it asks at a terminal, and
    needs --yes elsewhere; copies that are held, in use, or came through a mirror stay.
    """
    import msgspec

    from isochrone.control import render_schedules, views_schedules

    body = {"names": list(names), "older_than": older_than}
    if older_than and not dry_run:
        plan = site.call("POST", ("deletions",), {**body, "dry_run": True})
        verdicts = msgspec.json.decode(plan, type=views_schedules.VerdictList).verdicts
        count = sum(not verdict.keep for verdict in verdicts)
        act = f"deleting the {count} copies that are older than {older_than}"
        confirm(
            f"Delete {count} copies that are older than {older_than}?", act, yes=yes or not count
        )
    document = site.call("POST", ("deletions",), {**body, "dry_run": dry_run})
    if len(names) == 1 and not dry_run:
        site.done("deleted", "copy", names[0])
    else:
        site.show(document, views_schedules.VerdictList, render_schedules.verdicts)


@copy.command("prune")
@click.option("--schedule", "schedule", default="", metavar="S", help="Only copies of this one.")
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why the rest stays.")
@pass_site
def prune(site: Site, schedule: str, dry_run: bool) -> None:
    """Delete what no rule keeps any more. The controller does the same after each copy."""
    from isochrone.control import render_schedules, views_schedules

    body = {"schedule": schedule, "dry_run": dry_run}
    document = site.call("POST", ("prunings",), body)
    site.show(document, views_schedules.VerdictList, render_schedules.verdicts)


@copy.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option("--volume", default="", metavar="V", help="Only this one of the common volumes.")
@click.option("--ranges", is_flag=True, help="Print each range: volume, offset, bytes.")
@click.option("--tracks", is_flag=True, help="In whole tracks of 64 KiB.")
@pass_site
def diff(site: Site, before: str, after: str, volume: str, ranges: bool, tracks: bool) -> None:
    """What differs between two copies; a volume's name stands for it as it is now.

    Takes time with the difference, not with the size. With JSON output, each page of ranges is a
    document of its own: they follow one another.
    """
    import msgspec

    from isochrone.control import render_schedules, views_schedules

    if before == after:
        raise InvalidInput(f"{before!r} does not differ from itself")
    question = {"before": before, "after": after}
    document = site.call("POST", ("differences",), question)
    common = msgspec.json.decode(document, type=views_schedules.PairList).volumes
    names = [volume] if volume else [pair.volume for pair in common]
    totals = []
    for name in names:
        count = changed = offset = 0
        while True:
            body = {
                **question,
                "volume": name,
                "offset": offset,
                "unit": TRACK if tracks else BLOCK,
            }
            document = site.call("POST", ("differences",), body)
            page = msgspec.json.decode(document, type=views_schedules.DifferenceView)
            if site.output == "json":
                site.show(document, views_schedules.DifferenceView, render_schedules.ranges)
            elif ranges:
                render_schedules.ranges(page)
            count, changed = count + len(page.ranges), changed + page.changed
            offset = page.end
            if page.complete:
                totals.append((page, count, changed))
                break
    if site.output != "json" and not ranges:
        render_schedules.differences(totals)


copy.add_command(take)
copy.add_command(requests)
copy.add_command(revert)
