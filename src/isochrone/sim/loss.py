"""The loss of a metadata store, on top of whatever else a crash has done, and its rebuild."""

from __future__ import annotations

from isochrone.sim.disk import Platter
from isochrone.store.log import segments
from isochrone.store.metadata import Metadata
from isochrone.store.rebuild import rebuild
from isochrone.world.disk import Disk


def lose_store(platter: Platter, disk: Disk) -> str:
    """Between two lives: the store is gone and made anew; from what. Empty if it must not be lost.

    That is so before there is a log, and while a full disk has made the pool give up a rebuild.
    `disk` is the hold of the next life.
    """
    metadata = Metadata(disk)
    try:
        possible = metadata.setting("pool") is not None and metadata.kept_from is not None
    finally:
        metadata.close()
    if not possible or not segments(disk):
        return ""
    platter.forget_store()
    return rebuild(disk).source
