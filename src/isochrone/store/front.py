"""What the block front door sees of a pool: its exports, and who has them open."""

from __future__ import annotations

from collections.abc import Sequence

from isochrone.errors import NotFound
from isochrone.store.pool import Pool
from isochrone.store.volume import VolumeDevice
from isochrone.types import Device, ExportInfo


class PoolBackend:
    """A pool as a `Backend`."""

    def __init__(self, pool: Pool, *, default: str = "") -> None:
        self._pool = pool
        self.default = default  # what the empty export name means; empty: the only volume
        self.commit = pool.commit
        self.flush = pool.flush

    def exports(self) -> Sequence[ExportInfo]:
        return list(self._pool.state.exports())

    def attach(self, name: str, client: str) -> Device:
        """Open an export. The empty name opens the default, or the only volume."""
        state = self._pool.state
        name = name or self.default
        if not name:
            plain = [volume for volume in state.volumes.values() if volume.kind == "volume"]
            if len(plain) != 1:
                raise NotFound("there is no default export: the pool has not exactly one volume")
            name = plain[0].name
        if name not in state.names:
            raise NotFound(f"there is no export {name!r}")
        id = state.names[name]
        clients = self._pool.attached.setdefault(id, {})
        clients[client] = clients.get(client, 0) + 1
        return _Attached(self._pool, id)

    def detach(self, device: Device, client: str) -> None:
        assert isinstance(device, _Attached)
        clients = self._pool.attached.get(device.id, {})
        left = clients.get(client, 0) - 1
        if left > 0:
            clients[client] = left
            return
        clients.pop(client, None)
        if not clients:
            self._pool.attached.pop(device.id, None)


class _Attached(VolumeDevice):
    def __init__(self, pool: Pool, id: int) -> None:
        super().__init__(pool, id)
        self.id = id
