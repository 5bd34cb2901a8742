"""The backend the other tests use keeps the contract of devices."""

from __future__ import annotations

import pytest

from isochrone.types import MIB
from tests.contract.device import DeviceContract
from tests.nbd.memory import MemoryBackend


class TestMemory(DeviceContract):
    @pytest.fixture
    def device_backend(self) -> MemoryBackend:
        backend = MemoryBackend()
        backend.add("disk", MIB, description="a disk")
        backend.add("frozen", MIB, read_only=True)
        return backend

    def take_copy(self, device_backend: MemoryBackend, name: str) -> None:
        device_backend.take_copy("disk", name)
