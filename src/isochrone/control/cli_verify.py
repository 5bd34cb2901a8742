"""`isochrone mirror verify` and `isochrone mirror repair`."""

from __future__ import annotations

from typing import Any, Final

import click

from isochrone.control.command import SIZE, Site, SiteCommand
from isochrone.errors import Damaged, InvalidInput, Unavailable

FOLLOW_S: Final = 20.0  # one question; it is asked until the comparison has ended
REPAIR_S: Final = 60.0


@click.command("verify", cls=SiteCommand)
@click.argument("name", metavar="GROUP")
@click.option("--read", is_flag=True, help="Read the data at both sites, too: finds rot.")
@click.option("--repair", is_flag=True, help="Have the primary send again what differs.")
@click.option("--rate", type=SIZE, default=0, metavar="SIZE", help="Bytes a second, at most.")
@click.option("--every", default="", metavar="SPAN", help="Only say how often: 7d; 0s: never.")
@click.option("--status", is_flag=True, help="Only show how far it is, and what was found.")
@click.option("--stop", is_flag=True, help="Give it up.")
@click.pass_context
def verify(
    context: click.Context, /, name: str, every: str, status: bool, stop: bool, **options: Any
) -> None:
    """At the secondary: compare GROUP with its primary, as of the same cuts, while both serve.

    Waits for the end; it goes on without, and after a restart. Damage is healed from the side that
    is well. Exit code 9 if something was found and is not healed.
    """
    site = context.ensure_object(Site)
    if sum(map(bool, (every, status, stop))) > 1:
        raise InvalidInput("--every, --status and --stop do not go together")
    where = ("mirrors", name, "verify")
    if status or stop:
        document = site.call("DELETE" if stop else "GET", where)
    else:
        document = site.call("POST", where, {**options, "every": every})
    if not (status or stop or every):
        while _decode(document).state == "running":
            document = site.call("POST", (*where, "follow"), {"timeout": FOLLOW_S}, wait=FOLLOW_S)
    _finish(context, site, document, waited=not (status or stop or every))


def _finish(context: click.Context, site: Site, document: bytes, *, waited: bool) -> None:
    from isochrone.control import render_verify
    from isochrone.control.views_verify import VerifyView

    site.show(document, VerifyView, render_verify.verify)
    view = _decode(document)
    if view.unhealed:
        context.exit(Damaged.exit_code)
    if waited and view.state != "done":
        raise Unavailable(f"the comparison is {view.state}: {view.reason or 'somebody stopped it'}")


def _decode(document: bytes) -> Any:
    import msgspec

    from isochrone.control.views_verify import VerifyView

    return msgspec.json.decode(document, type=VerifyView)


@click.command("repair", cls=SiteCommand)
@click.argument("name", metavar="GROUP")
@click.pass_context
def repair(context: click.Context, /, name: str) -> None:
    """At either side: ask the other one, now, for all blocks that are known to be damaged.

    This happens by itself when damage is found. Exit code 9 if something could not be healed.
    """
    import msgspec

    from isochrone.control import render_verify
    from isochrone.control.views_verify import RepairView

    site = context.ensure_object(Site)
    body = {"timeout": REPAIR_S}
    document = site.call("POST", ("mirrors", name, "repair"), body, wait=REPAIR_S)
    site.show(document, RepairView, render_verify.repair)
    if msgspec.json.decode(document, type=RepairView).unhealed:
        context.exit(Damaged.exit_code)
