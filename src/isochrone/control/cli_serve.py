"""`isochrone serve`, which is a controller, and `isochrone check`, which reads a closed pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isochrone.control.command import SIZE
from isochrone.errors import Damaged


@click.command("serve")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--nbd", metavar="HOST:PORT", default="", help="Serve block clients there as well.")
@click.option("--link", metavar="HOST:PORT", default="", help="Serve secondaries there as well.")
@click.option("--api", metavar="HOST:PORT", default="", help="Serve the HTTP API there as well.")
@click.option("--insecure", is_flag=True, help="Let other hosts reach these ports. Trusts all.")
@click.option(
    "--tls",
    metavar="FOLDER",
    default="",
    help="server-cert.pem, server-key.pem, ca-cert.pem: TLS at the block port.",
)
@click.option(
    "--tls-mode",
    type=click.Choice(["off", "required", "per-export"]),
    metavar="MODE",
    help="off, required, or per-export: see exports.toml.  [default: required with --tls]",
)
@click.option("--tls-verify-clients", is_flag=True, help="Block clients need a certificate.")
@click.option(
    "--memory", type=SIZE, metavar="SIZE", help="For tables and clients.  [default: 1GiB]"
)
@click.option(
    "--copy-step",
    type=SIZE,
    metavar="SIZE",
    help="A mirror's copy that broke off goes on from so far back.  [default: 64MiB]",
)
def serve(directory: Path, nbd: str, link: str, api: str, **options: Any) -> None:
    """Be the controller of DIR, which is created if need be.

    DIR/nbd.sock, DIR/api.sock and DIR/link.sock are always there. One line on stdout says "ready";
    logs go to stderr. SIGTERM stops it in order, a second one in a hurry. SIGHUP, like `door
    reload`, reads certificates and DIR/exports.toml again.
    """
    from isochrone.control import entrance, logs, memory, service
    from isochrone.mirror.shipment import PROGRESS_BYTES

    mode = options["tls_mode"]
    tls = entrance.TlsSettings(
        options["tls"],
        entrance.TlsMode(mode) if mode else None,
        options["tls_verify_clients"],
    )
    settings = service.Settings(
        directory,
        nbd=nbd,
        link=link,
        api=api,
        insecure=options["insecure"],
        tls=tls,
        memory=memory.MEMORY_BYTES if options["memory"] is None else options["memory"],
        copy_step=PROGRESS_BYTES if options["copy_step"] is None else options["copy_step"],
    )
    settings.check()
    logs.set_up()
    service.run(settings)


@click.command("check")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--rebuild-metadata", is_flag=True, help="Make a damaged metadata store anew from the log."
)
@click.pass_context
def check(context: click.Context, directory: Path, rebuild_metadata: bool) -> None:
    """Read every block of the closed pool in DIR and say which are damaged, and whose they are.

    Changes nothing but what any start does: an unfinished end of the log is cut off. With
    --rebuild-metadata, a metadata store that is damaged or gone is made anew first, and the old one
    is kept as DIR/metadata.sqlite.damaged.
    """
    from isochrone.control import offline

    if rebuild_metadata:
        click.echo(offline.rebuild_metadata(directory))
    report = offline.check(directory)
    for line in report.lines:
        click.echo(line)
    context.exit(Damaged.exit_code if report.damaged else 0)
