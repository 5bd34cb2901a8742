"""What the block front door sees of a pool: its exports, and who has them open."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.errors import NotFound
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import Caller, Device, ExportInfo


class PoolBackend:
    """A pool as a `Backend`."""

    def __init__(self, pool: Pool, *, default: str = "") -> None:
        self._pool = pool
        self.default = default  # what the empty export name means; empty: the only volume
        self.commit = pool.commit
        self.when_durable = pool.when_durable

    def exports(self) -> Sequence[ExportInfo]:
        return list(self._pool.state.exports())

    def look(self, name: str) -> Device:
        return _Attached(self._pool, self._find(name))

    def attach(self, name: str, client: Caller) -> Device:
        id, state = self._find(name), self._pool.state
        read_only = state.read_only(state.volumes[id])
        self._pool.attached.attach(id, client, read_only=read_only)
        return _Attached(self._pool, id)

    def _find(self, name: str) -> int:
        """The empty name is the default, or the only volume."""
        state = self._pool.state
        name = name or self.default
        if not name:
            plain = [volume for volume in state.volumes.values() if volume.kind == "volume"]
            if len(plain) != 1:
                raise NotFound("there is no default export: the pool has not exactly one volume")
            name = plain[0].name
        if name not in state.names:
            raise NotFound(f"there is no export {name!r}")
        return state.names[name]

    def detach(self, device: Device, client: Caller, *, lost: bool = False) -> None:
        assert isinstance(device, _Attached)
        self._pool.attached.detach(device.id, client, lost=lost)


class _Attached(VolumeDevice):
    def __init__(self, pool: Pool, id: int) -> None:
        super().__init__(pool, id)
        self.id = id
        self._name = self.volume.name

    @property
    def name(self) -> str:
        """As it was opened: who let the volume be deleted under it still has to be found."""
        return self._name
