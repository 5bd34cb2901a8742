from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.store.attachments import LEASE_S, Attachments, hosts_of
from isochrone.types import Caller, Proof

WEST = Caller(Proof.CERTIFICATE, "west", "192.0.2.1:1000")
WEST_2 = Caller(Proof.CERTIFICATE, "west", "192.0.2.1:1001")
EAST = Caller(Proof.ADDRESS, "192.0.2.2", "192.0.2.2:1000")
LIAR = Caller(Proof.ADDRESS, "west", "192.0.2.3:1000")  # calls itself so, and proves nothing


class StoppedClock:
    def __init__(self) -> None:
        self.now = 100.0

    def wall_ns(self) -> int:
        return int(self.now * 1e9)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        raise AssertionError


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def table(clock: StoppedClock) -> Attachments:
    return Attachments(clock)


def hosts(table: Attachments, volume: int = 1) -> list[str]:
    return [attachment.host for attachment in table.of(volume)]


def test_a_host_is_attached_until_its_last_connection_ends(table: Attachments) -> None:
    table.attach(1, WEST)
    table.attach(1, WEST_2)
    table.attach(1, WEST_2)
    (west,) = table.of(1)
    assert west.addresses == {WEST.address: 1, WEST_2.address: 2}
    for caller in (WEST, WEST_2):
        table.detach(1, caller)
        assert hosts(table) == ["west"]
    table.detach(1, WEST_2)
    assert (hosts(table), list(table.volumes())) == ([], [])


def test_who_proves_nothing_is_another_host(table: Attachments) -> None:
    table.attach(1, WEST)
    table.attach(1, LIAR)
    assert [a.proof for a in table.of(1)] == [Proof.ADDRESS, Proof.CERTIFICATE]
    table.detach(1, LIAR)
    assert [a.proof for a in table.of(1)] == [Proof.CERTIFICATE]


def test_a_lost_host_counts_until_its_lease_ends(table: Attachments, clock: StoppedClock) -> None:
    table.attach(1, EAST)
    table.detach(1, EAST, lost=True)
    clock.now += LEASE_S - 1
    (east,) = table.of(1)
    assert table.lease_left(east) == pytest.approx(1)
    assert str(east) == EAST.host, "it has no connection to name"
    clock.now += 1
    assert table.of(1) == []
    assert list(table.volumes()) == []


def test_a_lost_host_that_comes_back_is_itself_again(
    table: Attachments, clock: StoppedClock
) -> None:
    table.attach(1, EAST)
    since = table.of(1)[0].since
    table.detach(1, EAST, lost=True)
    clock.now += LEASE_S / 2
    table.attach(1, EAST)
    clock.now += LEASE_S
    (east,) = table.of(1)
    assert (east.since, table.lease_left(east)) == (since, 0)
    table.detach(1, EAST)
    assert table.of(1) == []


def test_a_lost_connection_beside_a_living_one_starts_no_lease(
    table: Attachments, clock: StoppedClock
) -> None:
    table.attach(1, WEST)
    table.attach(1, WEST_2)
    table.detach(1, WEST, lost=True)
    clock.now += 10 * LEASE_S
    assert hosts(table) == ["west"]
    table.detach(1, WEST_2)
    assert table.of(1) == []


def test_who_only_read_has_nothing_to_come_back_with(table: Attachments) -> None:
    table.attach(1, EAST, read_only=True)
    table.detach(1, EAST, lost=True)
    assert table.of(1) == []
    table.attach(1, EAST, read_only=True)
    table.attach(1, EAST)  # and writes on another connection
    table.detach(1, EAST)
    table.detach(1, EAST, lost=True)
    assert hosts(table) == [EAST.host]


def test_evicting(table: Attachments) -> None:
    table.attach(1, EAST)
    table.attach(2, EAST)
    table.attach(1, WEST)
    assert [a.host for a in table.evict(1, EAST.host)] == [EAST.host]
    assert (hosts(table, 1), hosts(table, 2)) == (["west"], [EAST.host])
    assert table.evict(1, EAST.host) == []
    # Its connection ends after that, as it must.
    table.detach(1, EAST, lost=True)
    assert hosts(table, 1) == ["west"]


def test_a_connection_of_an_evicted_host_does_not_end_a_new_one(table: Attachments) -> None:
    table.attach(1, EAST)
    table.evict(1, EAST.host)
    again = Caller(EAST.kind, EAST.host, "192.0.2.2:2000")
    table.attach(1, again)
    table.detach(1, EAST, lost=True)
    assert hosts(table) == [EAST.host]


def test_a_mover_and_an_application_of_one_name_are_two(table: Attachments) -> None:
    table.attach(1, WEST, role="mover")
    table.attach(1, WEST)
    assert [a.role for a in table.of(1)] == ["app", "mover"]
    table.detach(1, WEST)
    assert [a.role for a in table.of(1)] == ["mover"]


def test_names_for_a_message(table: Attachments) -> None:
    for n in range(5):
        table.attach(1, Caller(Proof.ADDRESS, f"192.0.2.{n}", f"192.0.2.{n}:7"))
    assert hosts_of(table.of(1)) == "192.0.2.0:7, 192.0.2.1:7, 192.0.2.2:7 and 2 more"


CALLERS = (WEST, WEST_2, EAST, LIAR)
STEPS = st.lists(
    st.tuples(st.sampled_from(["attach", "detach", "lose"]), st.sampled_from(CALLERS)), max_size=40
)


@given(STEPS)
def test_nobody_is_attached_for_ever_and_nobody_too_short(
    steps: list[tuple[str, Caller]],
) -> None:
    """Against a count of connections: a host with one is there, and after a lease no other is."""
    clock = StoppedClock()
    table = Attachments(clock)
    open_: Counter[Caller] = Counter()
    for act, caller in steps:
        if act == "attach":
            table.attach(1, caller)
            open_[caller] += 1
        elif open_[caller]:
            table.detach(1, caller, lost=act == "lose")
            open_[caller] -= 1
        assert connected_of(open_) <= {(a.proof, a.host) for a in table.of(1)}
    clock.now += LEASE_S
    assert connected_of(open_) == {(a.proof, a.host) for a in table.of(1)}


def connected_of(open_: Counter[Caller]) -> set[tuple[Proof, str]]:
    return {(c.kind, c.host) for c, n in open_.items() if n}
