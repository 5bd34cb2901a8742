"""What went over a link, by kind: where the bandwidth goes, and what packing saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from isochrone.types import BLOCK

if TYPE_CHECKING:
    from isochrone.mirror.messages import AnyMessage


class Shipped(msgspec.Struct, kw_only=True):
    """Bytes on the link, both ways, since this controller started."""

    data: int = 0
    holes: int = 0
    commands: int = 0  # copies, resizes and deletes that travelled as records
    other: int = 0  # questions, answers, heartbeats, cuts
    blocks: int = 0  # that were in the data

    def count(self, message: AnyMessage, size: int) -> None:
        """A message of so many bytes went over the link."""
        # Here, because commands that only show the numbers start without messages and store.
        from isochrone.mirror.messages import Command, Data, Holes

        match message:
            case Data(blocks=blocks):
                self.data += size
                self.blocks += len(blocks)
            case Holes():
                self.holes += size
            case Command():
                self.commands += size
            case _:
                self.other += size

    def add(self, more: Shipped) -> None:
        self.data += more.data
        self.holes += more.holes
        self.commands += more.commands
        self.other += more.other
        self.blocks += more.blocks

    @property
    def total(self) -> int:
        return self.data + self.holes + self.commands + self.other

    @property
    def packing(self) -> float:
        """Bytes of blocks for each byte on the link that carried them; 0.0 before there are any."""
        return round(self.blocks * BLOCK / self.data, 3) if self.data else 0.0
