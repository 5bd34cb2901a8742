"""`isochrone schedule …`: copies that are taken and thinned out by themselves."""

from __future__ import annotations

from typing import Any

import click

from isochrone.control.command import Site, SiteGroup, confirm, pass_site


@click.group(cls=SiteGroup)
def schedule() -> None:
    """Take copies by themselves, and keep so many of them."""


@schedule.command("set")
@click.argument("name")
@click.option("--volume", "volumes", multiple=True, metavar="V", help="A volume; again for more.")
@click.option("--group", default="", metavar="G", help="The volumes of a mirrored group.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LABEL",
    help="tier=gold: all with it, new ones too.",
)
@click.option("--dry-run", is_flag=True, help="Only say which copies would go at once.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.argument("rules", nargs=-1, required=True, metavar="RULES...")
@pass_site
def schedule_set(
    site: Site, /, name: str, rules: tuple[str, ...], dry_run: bool, yes: bool, **of: Any
) -> None:
    """Make a schedule, or change one. All its volumes are copied at one instant.

    RULES: every 5m keep 12, hourly keep 24, daily at 02:30 keep 7, weekly on sun keep 8, monthly
    keep 12. Times are UTC. If copies that exist would go at once, asks at a terminal; elsewhere it
    needs --yes.
    """
    import msgspec

    from isochrone.control import render_schedules, views_schedules

    body = {
        "rules": " ".join(rules),
        "volumes": list(of["volumes"]),
        "group": of["group"],
        "labels": list(of["labels"]),
    }
    plan = site.call("PUT", ("schedules", name), {**body, "dry_run": True})
    if dry_run:
        site.show(plan, views_schedules.VerdictList, render_schedules.verdicts)
        return
    verdicts = msgspec.json.decode(plan, type=views_schedules.VerdictList).verdicts
    doomed = sum(not verdict.keep for verdict in verdicts)
    if doomed:
        question = f"These rules keep {doomed} copies fewer: they go at once. Set them?"
        confirm(question, f"setting rules that delete {doomed} copies", yes=yes)
    document = site.call("PUT", ("schedules", name), body)
    site.show(document, views_schedules.ScheduleView, render_schedules.schedule)


@schedule.command("list")
@pass_site
def schedule_list(site: Site) -> None:
    """All schedules: what is next, what was last, what went wrong."""
    from isochrone.control import render_schedules, views_schedules

    document = site.call("GET", ("schedules",))
    site.show(
        document,
        views_schedules.ScheduleList,
        lambda view: render_schedules.schedules(view.schedules),
    )


@schedule.command("show")
@click.argument("name")
@pass_site
def schedule_show(site: Site, name: str) -> None:
    """One schedule, rule by rule."""
    from isochrone.control import render_schedules, views_schedules

    document = site.call("GET", ("schedules", name))
    site.show(document, views_schedules.ScheduleView, render_schedules.schedule)


@schedule.command("delete")
@click.argument("name")
@pass_site
def schedule_delete(site: Site, name: str) -> None:
    """Take nothing more. Its copies stay until somebody deletes them."""
    site.call("DELETE", ("schedules", name))
    site.done("deleted", "schedule", name)


@schedule.command("run")
@click.argument("name")
@pass_site
def schedule_run(site: Site, name: str) -> None:
    """Take a copy now. It counts for the rules that are due, or else for the most frequent one."""
    from isochrone.control import render, views

    site.show(site.call("POST", ("schedules", name, "run")), views.CopyView, render.copy)
