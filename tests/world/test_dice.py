"""The real dice."""

from __future__ import annotations

from isochrone.world.dice import SystemDice


def test_identities_are_128_bits_and_differ() -> None:
    dice = SystemDice()
    identities = {dice.identity() for _ in range(100)}
    assert len(identities) == 100
    assert all(len(bytes.fromhex(identity)) == 16 for identity in identities)


def test_between() -> None:
    dice = SystemDice()
    assert all(2 <= dice.between(2, 3) <= 3 for _ in range(100))
