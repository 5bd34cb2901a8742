from __future__ import annotations

from array import array

from isochrone.mirror.messages import Command, Data, Heartbeat, Holes
from isochrone.mirror.tally import Shipped
from isochrone.types import BLOCK


def test_each_message_counts_as_its_kind() -> None:
    shipped = Shipped()
    assert shipped.packing == 0.0
    blocks = array("Q", [1, 2])
    shipped.count(Data(1, blocks, blocks, bytes(2 * BLOCK)), BLOCK)
    shipped.count(Holes(ranges=()), 10)
    shipped.count(Command(body=b""), 20)
    shipped.count(Heartbeat(stamp=1), 30)
    assert (shipped.data, shipped.holes, shipped.commands, shipped.other) == (BLOCK, 10, 20, 30)
    assert (shipped.blocks, shipped.packing, shipped.total) == (2, 2.0, BLOCK + 60)
    both = Shipped()
    both.add(shipped)
    both.add(shipped)
    assert (both.total, both.blocks) == (2 * shipped.total, 4)
