"""`isochrone copy take --at` and `isochrone copy requests`: copies at several sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from isochrone.control.command import Site, SiteCommand, pass_site
from isochrone.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = ("timeout", "wait", "wait_duplex", "keep_late", "request")
WAIT_S_MAX = 3600.0  # of one call of the API; the same as in `api_matched`, which loads more


def several_sites(command: F) -> F:
    """Options of a copy that is to exist at several sites."""
    for option in (
        click.option(
            "--request", default="", metavar="ID", help="With the same ID it is not done twice."
        ),
        click.option(
            "--keep-late", is_flag=True, help="A copy that comes after the timeout may stay."
        ),
        click.option(
            "--wait-duplex", is_flag=True, help="Take it once the mirror is DUPLEX, not now or not."
        ),
        click.option(
            "--wait", is_flag=True, help="Return when all sites have it; fail if one will not."
        ),
        click.option(
            "--timeout",
            type=float,
            metavar="S",
            help="Seconds for the sites, then it is given up.  [default: 300]",
        ),
        click.option(
            "--at",
            default="",
            metavar="SITES",
            help="Here and at these secondaries, as of one instant: `both` for all, or SITE,SITE.",
        ),
    ):
        command = option(command)
    return command


def only_with_at(options: dict[str, Any]) -> None:
    """Raises `InvalidInput` for an option that means nothing for a copy at this site alone."""
    for name in OPTIONS:
        if options[name]:
            raise InvalidInput(f"--{name.replace('_', '-')} is for copies --at several sites")


def take_at(
    site: Site, at: str, volumes: tuple[str, ...], group: str, options: dict[str, Any]
) -> None:
    from isochrone.control import render_matched, views_matched

    if options.pop("expendable"):
        raise InvalidInput("a copy at several sites is not given up at one of them")
    wait, timeout = options.pop("wait"), options.pop("timeout") or 300.0
    body = {
        **{name: value for name, value in options.items() if value is not None},
        "group": group,
        "volumes": list(volumes),
        "at": [] if at == "both" else at.split(","),
        "timeout": timeout,
    }
    document = site.call("POST", ("requests",), body)
    if wait:
        import msgspec

        id = msgspec.json.decode(document, type=views_matched.RequestView).request
        patience = min(timeout, WAIT_S_MAX)
        document = site.call("POST", ("requests", id, "wait"), {"timeout": patience}, wait=patience)
    site.show(document, views_matched.RequestView, render_matched.request)


@click.command("requests", cls=SiteCommand)
@pass_site
def requests(site: Site) -> None:
    """Copies at several sites, and how far they have come at each: SENT, DONE, EXPIRED, …"""
    from isochrone.control import render_matched, views_matched

    document = site.call("GET", ("requests",))
    site.show(
        document, views_matched.RequestList, lambda view: render_matched.requests(view.requests)
    )
