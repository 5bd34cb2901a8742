"""`isochrone volume …`: thin virtual disks."""

from __future__ import annotations

import click

from isochrone.control.cli_attachments import detach
from isochrone.control.command import SIZE, Site, SiteGroup, confirm, pass_site


@click.group(cls=SiteGroup)
def volume() -> None:
    """Thin virtual disks."""


@volume.command("create")
@click.argument("name")
@click.argument("size", type=SIZE)
@click.option("--label", "labels", multiple=True, metavar="LABEL", help="tier=gold: for schedules.")
@pass_site
def volume_create(site: Site, name: str, size: int, labels: tuple[str, ...]) -> None:
    """Make a volume; it takes no space until it is written."""
    from isochrone.control import render, views

    body = {"name": name, "size": size, "labels": list(labels)}
    document = site.call("POST", ("volumes",), body)
    site.show(document, views.VolumeView, render.volume)


@volume.command("list")
@pass_site
def volume_list(site: Site) -> None:
    """All volumes."""
    from isochrone.control import render, views

    document = site.call("GET", ("volumes",))
    site.show(document, views.VolumeList, lambda view: render.volumes(view.volumes))


@volume.command("show")
@click.argument("name")
@pass_site
def volume_show(site: Site, name: str) -> None:
    """One volume, or VOLUME@COPY."""
    from isochrone.control import render, views

    site.show(site.call("GET", ("volumes", name)), views.VolumeView, render.volume)


@volume.command("resize")
@click.argument("name")
@click.argument("size", type=SIZE)
@click.option("--shrink", is_flag=True, help="Cutting off the end is meant.")
@click.option("--force-overlay", is_flag=True, help="Even under hosts that have it open.")
@pass_site
def volume_resize(site: Site, name: str, size: int, shrink: bool, force_overlay: bool) -> None:
    """Give a volume another size."""
    from isochrone.control import render, views

    body = {"size": size, "shrink": shrink, "force_overlay": force_overlay}
    document = site.call("PATCH", ("volumes", name), body)
    site.show(document, views.VolumeView, render.volume)


@volume.command("delete")
@click.argument("name")
@click.option("--force-overlay", is_flag=True, help="Even under hosts that have it open.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_site
def volume_delete(site: Site, name: str, force_overlay: bool, yes: bool) -> None:
    """Delete a volume with its content; its copies stay, and what secondaries have of it.

    Asks at a terminal; elsewhere it needs --yes.
    """
    # A wrong name should say so before anybody is asked.
    site.call("GET", ("volumes", name))
    confirm(f"Delete {name} and all it holds?", f"deleting the volume {name!r}", yes=yes)
    query = {"force_overlay": "true"} if force_overlay else {}
    site.call("DELETE", ("volumes", name), query=query)
    site.done("deleted", "volume", name)


@volume.command("label")
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL...")
@pass_site
def volume_label(site: Site, name: str, labels: tuple[str, ...]) -> None:
    """Give a volume labels, KEY=VALUE, or take them away, KEY- (with a minus at the end)."""
    from isochrone.control import render, views

    remove = [word.removesuffix("-") for word in labels if "=" not in word and word[-1:] == "-"]
    put = [word for word in labels if "=" in word or word[-1:] != "-"]
    document = site.call("PATCH", ("volumes", name, "labels"), {"put": put, "remove": remove})
    site.show(document, views.VolumeView, render.volume)


volume.add_command(detach)
