"""`isochrone mirror points` and `rewind-window`, and what `copy take --as-of` asks for."""

from __future__ import annotations

from typing import Any

import click

from isochrone.control.command import SIZE, Site, SiteCommand, confirm, pass_site
from isochrone.errors import InvalidInput


@click.command("points", cls=SiteCommand)
@click.argument("name", metavar="GROUP")
@pass_site
def points(site: Site, name: str) -> None:
    """As of which cuts GROUP can be opened: copy take GROUP --as-of TIME."""
    _show(site, site.call("GET", ("groups", name, "points")))


@click.command("rewind-window", cls=SiteCommand)
@click.argument("name", metavar="GROUP")
@click.option("--keep", default="", metavar="SPAN", help="So far back: 24h.")
@click.option("--dense", default="", metavar="SPAN", help="So far back, every cut: 10m.")
@click.option(
    "--bytes", "bytes_max", type=SIZE, metavar="SIZE",
    help="What it may take; 0: a fifth of the pool. The oldest points go first.",
)  # fmt: skip
@click.option("--off", is_flag=True, help="Keep nothing, and drop what was kept.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def rewind_window(
    site: Site, /, name: str, keep: str, dense: str, bytes_max: int | None, off: bool, yes: bool
) -> None:
    """Say how far back GROUP can be opened at this site. Nobody at the primary can change it.

    --off asks at a terminal; elsewhere it needs --yes.
    """
    if off:
        site.call("GET", ("groups", name))
        confirm(f"Drop all points of {name}?", f"dropping the points of {name!r}", yes=yes)
    limit = -1 if bytes_max is None else bytes_max
    body = {"keep": keep, "dense": dense, "bytes_max": limit, "off": off}
    _show(site, site.call("PUT", ("groups", name, "window"), body))


def take_as_of(
    site: Site, as_of: str, volumes: tuple[str, ...], group: str, options: dict[str, Any]
) -> bytes:
    """Open a point; the document of the copy."""
    names = {*volumes, *([group] if group else ())}
    if len(names) != 1:
        raise InvalidInput("one group is opened as of a cut", hint="copy take GROUP --as-of TIME")
    body = {"as_of": as_of, **options}
    return site.call("POST", ("groups", names.pop(), "points", "open"), body)


def _show(site: Site, document: bytes) -> None:
    from isochrone.control import render_points, views_points

    site.show(document, views_points.WindowView, render_points.window)
