"""`isochrone copy take`, with everything that may have to hold still for it, and `isochrone hook`.

The copy itself takes a moment of the controller's time, whatever it is a copy of. What takes longer
is to make applications and file systems quiet, and to be sure that they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from isochrone.control.cli_matched import OPTIONS, only_with_at, several_sites, take_at
from isochrone.control.cli_points import take_as_of
from isochrone.control.cli_still import take_still
from isochrone.control.command import Site, SiteCommand, SiteGroup, pass_site, words_of
from isochrone.errors import InvalidInput

if TYPE_CHECKING:
    from isochrone.control.hooks import Hook, Quiet
    from isochrone.store.catalogue import Consistency


@click.command("take", cls=SiteCommand)
@click.option("--name", default="", help="Default: the time, as in 20260131T120000Z.")
@click.option("--writable", is_flag=True, help="A clone, not a snapshot.")
@click.option("--expendable", is_flag=True, help="Give it up when space runs short.")
@click.option("--group", default="", metavar="GROUP", help="All volumes of this group.")
@click.option(
    "--as-of",
    default="",
    metavar="TIME",
    help="GROUP as it was at its primary at that time, or `10m ago`, or a cut.",
)
@click.option(
    "--hook",
    "commands",
    multiple=True,
    metavar="COMMAND",
    help="Holds an application still: it prints `ready`, waits for the end of its input, exits 0.",
)
@click.option(
    "--freeze",
    "mounts",
    multiple=True,
    metavar="MOUNT",
    help="Freeze the file system mounted here; after the hooks, and thawed before them.",
)
@click.option(
    "--deadline",
    type=float,
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds in which all of this is over; then everything is let go.",
)
@click.option(
    "--at-least",
    type=click.Choice(["crash", "filesystem", "application"]),
    help="Keep no copy that is less.  [default: what the hooks promise]",
)
@several_sites
@click.argument("volumes", nargs=-1, metavar="[VOLUME]...")
@pass_site
def take(
    site: Site,
    /,
    volumes: tuple[str, ...],
    group: str,
    as_of: str,
    commands: tuple[str, ...],
    mounts: tuple[str, ...],
    deadline: float,
    at_least: Consistency | None,
    **options: Any,
) -> None:
    """Copy volumes at one instant. Nothing is moved; all or none are copied."""
    from isochrone.control import render, views
    from isochrone.control.hooks import Quiet

    at, sites = options.pop("at"), {name: options.pop(name) for name in OPTIONS}
    if at and as_of:
        raise InvalidInput("earlier instants are for copies at this site alone")
    if as_of and (commands or mounts or at_least not in (None, "crash")):
        raise InvalidInput("what has been cannot be held still", hint="leave the hooks out")
    if not at:
        only_with_at(sites)
    if as_of:
        document = take_as_of(site, as_of, volumes, group, options)
        site.show(document, views.CopyView, render.copy)
        return
    if not volumes and not group:
        raise InvalidInput("which volumes?", hint="name them, or give --group")
    quiet = Quiet(_hooks(commands, mounts), deadline)
    if not quiet.hooks and at_least not in (None, "crash"):
        raise InvalidInput(
            f"nothing makes this copy consistent for the {at_least}", hint="give --hook or --freeze"
        )
    least = at_least or quiet.gives
    if at:
        take_at(site, at, volumes, group, {**options, **sites}, quiet, least)
        return
    body = {"volumes": list(volumes), "group": group, **options}
    if quiet.hooks:
        document = _take_quietly(site, body, quiet, least)
    else:
        document = site.call("POST", ("copies",), body)
    site.show(document, views.CopyView, render.copy)


def _hooks(commands: tuple[str, ...], mounts: tuple[str, ...]) -> list[Hook]:
    import sys

    from isochrone.control.hooks import Hook

    hooks = []
    for command in commands:
        words = words_of(command, "hook", "an empty hook holds nothing still")
        hooks.append(Hook(tuple(words), "application"))
    # This very program, wherever it is installed.
    freeze = (sys.executable, "-m", "isochrone", "hook", "freeze")
    return hooks + [Hook((*freeze, mount), "filesystem") for mount in mounts]


def _take_quietly(site: Site, body: dict[str, Any], quiet: Quiet, at_least: Consistency) -> bytes:
    """Take the copy while the hooks hold; its document, which says what it became."""
    import msgspec

    from isochrone.control import views

    def name_in(document: bytes) -> str:
        return msgspec.json.decode(document, type=views.CopyView).name

    def undo(document: bytes) -> None:
        site.call("DELETE", ("copies", name_in(document)))

    document, got = take_still(
        quiet,
        at_least,
        lambda seconds: site.call("POST", ("copies",), body, patience=seconds),
        undo,
    )
    if got == "crash":
        return document
    return site.call("PATCH", ("copies", name_in(document)), {"consistency": got})


@click.group(cls=SiteGroup)
def hook() -> None:
    """Programs that hold something still while a copy is taken; see `copy take --hook`."""


@hook.command("freeze")
@click.argument("mount", metavar="MOUNT")
def hook_freeze(mount: str) -> None:
    """Freeze a file system until standard input ends. `copy take --freeze` runs this."""
    from isochrone.control.freeze import freeze

    freeze(mount)
