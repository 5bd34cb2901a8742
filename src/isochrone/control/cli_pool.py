"""`isochrone pool` and `isochrone scrub`: the pool as a whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from isochrone.control.command import Site, SiteGroup, pass_site
from isochrone.control.sizes import parse_size
from isochrone.errors import Damaged

if TYPE_CHECKING:
    from isochrone.control.views_pool import ScrubView

FOLLOW_S = 0.5  # between two looks at a scrub that is followed


@click.group(cls=SiteGroup)
def pool() -> None:
    """The pool under all volumes."""


@pool.command("show")
@pass_site
def pool_show(site: Site) -> None:
    """Where the space goes: what volumes and copies share and own, and what holds the rest."""
    from isochrone.control import render_pool, views_pool

    site.show(site.call("GET", ("pool",)), views_pool.PoolView, render_pool.pool)


@click.group(cls=SiteGroup)
def scrub() -> None:
    """Read every living block while the pool is in use, and say which are damaged."""


@scrub.command("start")
@click.option("--rate", metavar="SIZE", default="", help="Bytes a second, such as 200MiB.")
@click.option("--follow", is_flag=True, help="Show how far it is, until it ends.")
@click.pass_context
def scrub_start(context: click.Context, rate: str, follow: bool) -> None:
    """Begin a scrub, or go on with a paused one.

    While one is running, only its rate is changed. Exit code 9 if a followed one found damage.
    """
    site = context.ensure_object(Site)
    document = site.call("POST", ("scrub",), {"rate": _rate(rate)})
    _finish(context, site, _follow(site) if follow else document, judge=follow)


@scrub.command("status")
@click.pass_context
def scrub_status(context: click.Context) -> None:
    """How far it is, and what was found. Exit code 9 if there is damage."""
    site = context.ensure_object(Site)
    _finish(context, site, site.call("GET", ("scrub",)), judge=True)


@scrub.command("pause")
@click.pass_context
def scrub_pause(context: click.Context) -> None:
    """Hold it; `scrub start` goes on from there, also after a restart."""
    site = context.ensure_object(Site)
    _finish(context, site, site.call("POST", ("scrub", "pause")), judge=False)


@scrub.command("stop")
@click.pass_context
def scrub_stop(context: click.Context) -> None:
    """Give it up; the next one begins anew."""
    site = context.ensure_object(Site)
    _finish(context, site, site.call("DELETE", ("scrub",)), judge=False)


def _rate(text: str) -> int:
    return parse_size(text.removesuffix("/s")) if text else 0


def _finish(context: click.Context, site: Site, document: bytes, *, judge: bool) -> None:
    from isochrone.control import render_pool
    from isochrone.control.views_pool import ScrubView

    site.show(document, ScrubView, render_pool.scrub)
    if judge and _decode(document).damaged:
        context.exit(Damaged.exit_code)


def _decode(document: bytes) -> ScrubView:
    import msgspec

    from isochrone.control import views_pool

    return msgspec.json.decode(document, type=views_pool.ScrubView)


def _follow(site: Site) -> bytes:
    """Draw a bar on stderr until the scrub runs no more; the last document."""
    document = site.call("GET", ("scrub",))
    view = _decode(document)
    with click.progressbar(range(1000), label="scrub", file=sys.stderr) as bar:
        while view.state == "running":
            document = site.call("POST", ("scrub", "follow"), {"timeout": FOLLOW_S}, wait=FOLLOW_S)
            view = _decode(document)
            bar.update(_share(view) - bar.pos)
    return document


def _share(view: ScrubView) -> int:
    """Thousandths."""
    if view.state == "done":
        return 1000
    return view.verified * 1000 // view.living if view.living else 0
