"""`isochrone relation …` and `isochrone copy revert`: copies onto volumes that exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from isochrone.control.command import Site, SiteCommand, SiteGroup, confirm, pass_site
from isochrone.control.relation_words import parse_pairs, parse_range
from isochrone.errors import Conflict, InvalidInput

F = TypeVar("F", bound=Callable[..., Any])


Option = Callable[[F], F]

OVERLAY: tuple[Option[Any], ...] = (  # the last is shown first
    click.option(
        "--force-overlay", is_flag=True, help="Even if it is mirrored and hosts have it open."
    ),
    click.option("--online-ok", is_flag=True, help="Hosts may have it open."),
)


def options(*listed: Option[Any]) -> Option[Any]:
    """Several options as one."""

    def add(command: F) -> F:
        for option in listed:
            command = option(command)
        return command

    return add


# Of what changes a volume at once, and that secondaries cannot refuse.
agreement = options(
    click.option(
        "--mirror",
        type=click.Choice(["none"]),
        default=None,
        help="none: secondaries get the new content as data.",
    ),
    *OVERLAY,
)
# Of what changes a volume at once, and can be asked about at secondaries before.
asked = options(
    click.option(
        "--timeout",
        type=float,
        default=5.0,
        show_default=True,
        metavar="S",
        help="Seconds for secondaries to answer.",
    ),
    click.option(
        "--mirror",
        type=click.Choice(["required", "preferred", "none"]),
        default=None,
        help="required: ask secondaries first, refuse if one cannot do the same; preferred:"
        " ask, do it anyway; none: as data if it is from outside.",
    ),
    *OVERLAY,
)
# Which relations.
choice = options(
    click.option("--target", default="", metavar="VOLUME", help="All of this target."),
    click.option("--source", default="", metavar="VOLUME", help="All of this source."),
    click.argument("numbers", nargs=-1, type=int, metavar="[RELATION]..."),
)


def _agreed(options: dict[str, Any]) -> dict[str, Any]:
    """What the options of `agreement`, and of `choice`, are in a request."""
    body = {**options, "mirror": options["mirror"] or ""}
    if "numbers" in body:
        body["relations"] = list(body.pop("numbers"))
    return body


def _show(site: Site, document: bytes) -> None:
    from isochrone.control import render_relations, views_relations

    site.show(
        document, views_relations.RelationList, lambda x: render_relations.relations(x.relations)
    )


@click.group(cls=SiteGroup)
def relation() -> None:
    """Point-in-time copies onto volumes that exist, whole or in parts."""


@relation.command("establish")
@click.argument("pairs", nargs=-1, required=True, metavar="SOURCE=TARGET...")
@click.option("--once", is_flag=True, help="Only copy; leave no relation on record.")
@click.option("--inhibit", is_flag=True, help="Hosts may not write the targets meanwhile.")
@asked
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def establish(
    site: Site, /, pairs: tuple[str, ...], once: bool, inhibit: bool, yes: bool, **agreed: Any
) -> None:
    """Make each target what its source is at this instant; one instant for all pairs.

    Parts: SOURCE:OFFSET+LENGTH=TARGET:OFFSET, in multiples of 64 KiB. What the targets held there
    is gone. Asks at a terminal; elsewhere it needs --yes.
    """
    wishes = parse_pairs(pairs)
    names = list(dict.fromkeys(wish["target"] for wish in wishes))
    # A wrong name should say so before anybody is asked.
    for name in names:
        site.call("GET", ("volumes", name))
    targets = ", ".join(names)
    confirm(f"Overwrite {targets}?", f"overwriting {targets}", yes=yes)
    body = {"pairs": wishes, "once": once, "inhibit": inhibit, **_agreed(agreed)}
    document = site.call("POST", ("relations",), body, wait=agreed["timeout"])
    if once and site.output != "json":
        site.done("overwritten", "volume", targets)
    else:
        _show(site, document)


@relation.command("check")
@click.argument("pairs", nargs=-1, required=True, metavar="SOURCE=TARGET...")
@click.option("--once", is_flag=True, help="As with --once: no relation stays on record.")
@asked
@pass_site
def check(site: Site, /, pairs: tuple[str, ...], once: bool, **agreed: Any) -> None:
    """Ask what `establish` would: here, what is known of the secondaries, and each of them.

    Nothing is done, and no room is kept. Ends with an error if any of them says no.
    """
    import msgspec

    from isochrone.control import render_matched, views_matched

    body = {"pairs": parse_pairs(pairs), "once": once, **_agreed(agreed)}
    document = site.call("POST", ("relations", "check"), body, wait=agreed["timeout"])
    site.show(document, views_matched.CheckView, render_matched.check)
    found = msgspec.json.decode(document, type=views_matched.CheckView)
    for step in found.steps:
        if not step.ok:
            at = f" at {step.site}" if step.site else ""
            raise Conflict(f"no{at} ({step.reason}): {step.detail}")


@relation.command("list")
@pass_site
def list_relations(site: Site) -> None:
    """All relations, and in how many tracks of 64 KiB each pair differs now."""
    _show(site, site.call("GET", ("relations",)))


@relation.command("show")
@click.argument("number", type=int, metavar="RELATION")
@pass_site
def show(site: Site, number: int) -> None:
    """One relation and its extents."""
    from isochrone.control import render_relations, views_relations

    document = site.call("GET", ("relations", str(number)))
    site.show(document, views_relations.RelationView, render_relations.relation)


@relation.command("refresh")
@choice
@asked
@pass_site
def refresh(site: Site, /, **options: Any) -> None:
    """Make the targets what the sources are now; one instant for all.

    What hosts have written to the targets is gone. Does not ask: scripts refresh.
    """
    body, wait = _agreed(options), options["timeout"]
    _show(site, site.call("POST", ("relations", "refresh"), body, wait=wait))


@relation.command("restore")
@choice
@asked
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def restore(site: Site, /, yes: bool, **options: Any) -> None:
    """The other way round: make the sources what the targets are now. The relations stay.

    Asks at a terminal; elsewhere it needs --yes.
    """
    what = _named(site, options)
    confirm(f"Overwrite the sources of {what}?", f"overwriting the sources of {what}", yes=yes)
    body, wait = _agreed(options), options["timeout"]
    _show(site, site.call("POST", ("relations", "restore"), body, wait=wait))


@relation.command("withdraw")
@choice
@click.option("--keep", is_flag=True, help="The targets keep what they hold.")
@click.option("--discard", is_flag=True, help="Empty all tracks that no host has written since.")
@click.option(
    "--extent",
    "extents",
    multiple=True,
    metavar="OFFSET+LENGTH",
    help="Only this part of a target.",
)
@agreement
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def withdraw(
    site: Site,
    /,
    keep: bool,
    discard: bool,
    extents: tuple[str, ...],
    yes: bool,
    **options: Any,
) -> None:
    """End relations, or parts of them; say what becomes of the targets: --keep or --discard.

    A track of 64 KiB counts as written if any of it was, and was not only trimmed. --discard asks
    at a terminal; elsewhere it needs --yes.
    """
    if keep == discard:
        raise InvalidInput("what becomes of the targets?", hint="give --keep or --discard")
    if discard:
        what = _named(site, options)
        confirm(
            f"Empty what nobody wrote in the targets of {what}?",
            f"discarding the targets of {what}",
            yes=yes,
        )
    ranges = [parse_range(word) for word in extents]
    body = {
        **_agreed(options),
        "discard": discard,
        "extents": [{"offset": offset, "length": length} for offset, length in ranges],
    }
    _show(site, site.call("POST", ("relations", "withdraw"), body))


def _named(site: Site, options: dict[str, Any]) -> str:
    """The relations in words. A wrong number should say so before anybody is asked."""
    numbers, source, target = options["numbers"], options["source"], options["target"]
    for number in numbers:
        site.call("GET", ("relations", str(number)))
    if numbers:
        return f"relation{'s' if numbers[1:] else ''} {', '.join(map(str, numbers))}"
    words = [f"from {source}"] if source else []
    return " ".join(["the relations", *words, *([f"to {target}"] if target else [])])


@click.command("revert", cls=SiteCommand)
@click.argument("name", metavar="COPY")
@click.option("--volume", "volumes", multiple=True, metavar="VOLUME", help="Only this one.")
@click.option("--undo", default="", metavar="NAME", help="Name of the copy that can undo it.")
@agreement
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def revert(
    site: Site, /, name: str, volumes: tuple[str, ...], undo: str, yes: bool, **agreed: Any
) -> None:
    """Make volumes what they were in a copy, size included; newer copies stay.

    What they are is copied first: reverting to that copy undoes it. Asks at a terminal; elsewhere
    it needs --yes.
    """
    from isochrone.control import render, views

    # A wrong name should say so before anybody is asked.
    site.call("GET", ("copies", name))
    what = ", ".join(volumes) or f"all volumes of {name}"
    confirm(f"Revert {what} to {name}?", f"reverting to the copy {name!r}", yes=yes)
    body = {"volumes": list(volumes), "undo": undo, **_agreed(agreed)}
    site.show(site.call("POST", ("copies", name, "revert"), body), views.CopyView, render.copy)
