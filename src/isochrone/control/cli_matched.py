"""`isochrone copy take --at` and `isochrone copy requests`: copies at several sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from isochrone.control.cli_still import take_still
from isochrone.control.command import Site, SiteCommand, pass_site
from isochrone.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from isochrone.control.hooks import Quiet
    from isochrone.control.views_matched import CheckView, RequestView
    from isochrone.store.catalogue import Consistency

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = ("timeout", "wait", "wait_duplex", "keep_late", "request", "mirror")
ASK_S = 5.0  # for the answers of the sites; the same as `negotiation.ANSWER_S`, which loads more
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
            "--mirror",
            type=click.Choice(["required", "preferred", "none"]),
            help="Ask the sites first, before anything is held still; `required`: all must agree.",
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
    site: Site,
    at: str,
    volumes: tuple[str, ...],
    group: str,
    options: dict[str, Any],
    quiet: Quiet,
    at_least: Consistency,
) -> None:
    """Ask the sites if that is wanted, hold still for the copy here alone, and wait if wanted."""
    from isochrone.control import render_matched, views_matched

    if options.pop("expendable"):
        raise InvalidInput("a copy at several sites is not given up at one of them")
    wait, timeout = options.pop("wait"), options.pop("timeout") or 300.0
    mirror = options.pop("mirror") or "none"
    if options["wait_duplex"] and (quiet.hooks or mirror != "none"):
        raise InvalidInput(
            "what waits for its mirror is neither held still nor asked about",
            hint="leave out --wait-duplex, or the hooks and --mirror",
        )
    where = {
        "group": group,
        "volumes": list(volumes),
        "at": [] if at == "both" else at.split(","),
    }
    body = {
        **{name: value for name, value in options.items() if value is not None},
        **where,
        "timeout": timeout,
    }
    if _known(site, options["request"]):
        document = site.call("POST", ("requests",), body)  # refused if it is of another group
        _check_known(document, at_least)
    else:
        if mirror != "none":
            _ask_first(site, {**where, "timeout": ASK_S}, required=mirror == "required")
        document = _take(site, body, quiet, at_least)
    if wait:
        patience = min(timeout, WAIT_S_MAX)
        words = ("requests", _request(document).request, "wait")
        document = site.call("POST", words, {"timeout": patience}, wait=patience)
    site.show(document, views_matched.RequestView, render_matched.request)


def _request(document: bytes) -> RequestView:
    import msgspec

    from isochrone.control import views_matched

    return msgspec.json.decode(document, type=views_matched.RequestView)


def _known(site: Site, id: str) -> bool:
    """Whether a request was made before: nothing is held still for it again."""
    try:
        return bool(id and site.call("GET", ("requests", id)))
    except NotFound:
        return False


def _check_known(document: bytes, at_least: Consistency) -> None:
    """Raises `Conflict` if the copy of a request is less than is asked for this time."""
    from isochrone.control.hooks import CLASSES

    made = _request(document)
    if CLASSES.index(made.consistency) < CLASSES.index(at_least):
        raise Conflict(
            f"the request {made.request!r} was made before, and its copy is"
            f" {made.consistency}-consistent only, or gone",
            hint="choose another ID for a new copy; see: isochrone copy requests",
        )


def _ask_first(site: Site, body: dict[str, Any], *, required: bool) -> None:
    """Raises `Conflict` for the first no, if all must agree."""
    import msgspec

    from isochrone.control import views_matched

    document = site.call("POST", ("requests", "check"), body, wait=ASK_S)
    view: CheckView = msgspec.json.decode(document, type=views_matched.CheckView)
    no = next((step for step in view.steps if not step.ok), None)
    if no is None:
        return
    words = f"{no.site or 'this site'} says no ({no.reason}): {no.detail}"
    if required:
        raise Conflict(f"{words}; nothing was taken", hint="--mirror preferred takes it anyway")
    click.echo(f"isochrone: {words}", err=True)


def _take(site: Site, body: dict[str, Any], quiet: Quiet, at_least: Consistency) -> bytes:
    """The request. Hooks are let go once the copy is here: no site is waited for."""
    if not quiet.hooks:
        return site.call("POST", ("requests",), body)

    def undo(document: bytes) -> None:
        made = _request(document)
        site.call("DELETE", ("requests", made.request))
        site.call("DELETE", ("copies", made.copy))

    document, got = take_still(
        quiet,
        at_least,
        lambda seconds: site.call("POST", ("requests",), body, patience=seconds),
        undo,
    )
    made = _request(document)
    if got == "crash":
        return document
    site.call("PATCH", ("copies", made.copy), {"consistency": got})
    return site.call("GET", ("requests", made.request))


@click.command("requests", cls=SiteCommand)
@click.option(
    "--cancel", metavar="ID", help="Give one up where it is not done; the copy here stays."
)
@pass_site
def requests(site: Site, cancel: str | None) -> None:
    """Copies at several sites, and how far they have come at each: ARMED, DONE, EXPIRED, …"""
    from isochrone.control import render_matched, views_matched

    if cancel is not None:
        document = site.call("DELETE", ("requests", cancel))
        site.show(document, views_matched.RequestView, render_matched.request)
        return
    document = site.call("GET", ("requests",))
    site.show(
        document, views_matched.RequestList, lambda view: render_matched.requests(view.requests)
    )
