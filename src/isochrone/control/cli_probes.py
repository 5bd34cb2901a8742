"""`isochrone mirror probe` and `probes`: proof that what is here can be used.

The check runs here, as the user who gave the command; the controller never runs one.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Final

import click

from isochrone.control.command import Site, SiteCommand, pass_site, words_of
from isochrone.errors import HookFailed, InvalidInput, IsochroneError

if TYPE_CHECKING:
    from isochrone.control.views_probes import ProbeView

_GOOD_BYE: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command("probe", cls=SiteCommand)
@click.argument("name", metavar="GROUP")
@click.option("--run", "command", default="", metavar="COMMAND", help="Exits 0 if all is well.")
@click.option(
    "--as-of", default="", metavar="TIME", help="Or `10m ago`, or a cut.  [default: the newest]"
)
@click.option("--deadline", default="10m", show_default=True, metavar="SPAN", help="For COMMAND.")
@click.option("--stop", is_flag=True, help="End one that was left behind.")
@pass_site
def probe(site: Site, /, name: str, command: str, as_of: str, deadline: str, stop: bool) -> None:
    """Run COMMAND on a writable fork of the replica of GROUP, and keep the result.

    COMMAND finds what to open in ISOCHRONE_URI_<VOLUME>, or ISOCHRONE_URI if there is one volume.
    The mirror goes on meanwhile; the fork is deleted at the end.
    """
    from isochrone.control import render_probes, views_probes

    if stop == bool(command):
        raise InvalidInput("run what?", hint="give --run COMMAND, or --stop")
    where = ("groups", name, "probes")
    if stop:
        body = {"good": False, "said": "stopped by a command"}
        document = site.call("POST", (*where, "end"), body)
        site.show(document, views_probes.ProbeView, render_probes.probe)
        return
    document, result = _run(site, where, command, as_of, deadline)
    site.show(document, views_probes.ProbeView, render_probes.probe)
    if result.result != "good":
        raise HookFailed(
            f"the check of group {name!r} as of cut {result.cut} failed: {result.said}",
            hint=f"look yourself: isochrone copy take {name} --as-of {result.cut} --writable",
        )


def _run(
    site: Site, where: tuple[str, ...], command: str, as_of: str, deadline: str
) -> tuple[bytes, ProbeView]:
    """Begin, check, end; the document of the end."""
    import msgspec

    from isochrone.control.checking import run_check
    from isochrone.control.views_probes import ProbeView
    from isochrone.store.schedule import parse_span

    words = words_of(command, "command", "an empty command checks nothing")
    seconds = float(parse_span(deadline))
    for number in _GOOD_BYE:  # a service manager's way to say what ^C says
        signal.signal(number, signal.default_int_handler)
    body = {"check": command, "as_of": as_of, "seconds": seconds}
    begun = msgspec.json.decode(site.call("POST", where, body), type=ProbeView)
    end = {"copy": begun.copy, "good": False, "said": "the command line was interrupted"}
    try:
        wrong, said = run_check(words, _environment(begun), seconds)
        end |= {"good": not wrong, "said": said if not wrong else f"{wrong}: {said}".rstrip(": ")}
    finally:
        document = _end(site, where, end)
    return document, msgspec.json.decode(document, type=ProbeView)


def _end(site: Site, where: tuple[str, ...], end: dict[str, object]) -> bytes:
    try:
        return site.call("POST", (*where, "end"), end)
    except IsochroneError as e:
        what = "well" if end["good"] else f"badly ({end['said']})"
        click.echo(f"isochrone: the check ended {what}, which could not be kept", err=True)
        raise e


def _environment(begun: ProbeView) -> dict[str, str]:
    found = {
        "ISOCHRONE_GROUP": begun.group,
        "ISOCHRONE_CUT": str(begun.cut),
        "ISOCHRONE_TIME": begun.time,
        "ISOCHRONE_COPY": begun.copy,
        # Names that differ in their punctuation alone share a variable below; here they do not.
        "ISOCHRONE_URIS": "".join(f"{volume} {uri}\n" for volume, uri in begun.uris.items()),
    }
    for volume, uri in begun.uris.items():
        found["ISOCHRONE_URI_" + re.sub(r"[^A-Za-z0-9]", "_", volume).upper()] = uri
    if len(begun.uris) == 1:
        (found["ISOCHRONE_URI"],) = begun.uris.values()
    return found


@click.command("probes", cls=SiteCommand)
@click.argument("name", metavar="GROUP")
@pass_site
def probes(site: Site, name: str) -> None:
    """What the last probes of GROUP found, and how long ago one ended well."""
    from isochrone.control import render_probes, views_probes

    document = site.call("GET", ("groups", name, "probes"))
    site.show(document, views_probes.ProbeList, render_probes.probes)
