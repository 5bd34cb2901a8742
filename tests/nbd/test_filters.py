"""Filters: each passes the contract of a device, does its one thing, and can be changed live."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from isochrone import errors
from isochrone.nbd import wire
from isochrone.nbd.filters import (
    BURST_S,
    Bucket,
    Chain,
    Delay,
    Error,
    Filter,
    Filters,
    Maker,
    Pause,
    Rate,
    ReadOnly,
    Waiting,
    bare,
)
from isochrone.types import MIB
from isochrone.world.dice import SystemDice
from tests.contract.device import DeviceContract
from tests.nbd.memory import MemoryBackend
from tests.nbd.serving import LOOPS, Serving, raw, request, serve

DICE = SystemDice()


class Fixed:
    """Dice that always fall the same."""

    def __init__(self, value: float) -> None:
        self.value = value

    def identity(self) -> str:
        return "0" * 32

    def between(self, low: float, high: float) -> float:
        return low + self.value * (high - low)


def chain(*makers: Maker, words: tuple[str, ...] = ("some",)) -> Chain:
    return Chain(words, makers)


def rate(bytes_per_s: int) -> Maker:
    bucket = Bucket(bytes_per_s)
    return lambda device: Rate(device, bucket)


MAKERS: dict[str, tuple[Maker, ...]] = {
    "none": (),
    "plain": (Filter,),
    "rate": (rate(1 << 20),),
    "delay": (lambda device: Delay(device, 0.1),),
    "error": (lambda device: Error(device, 1e-12, Fixed(0.5)),),
    "pause": (Pause,),
    "all": (Filter, rate(1), lambda d: Delay(d, 1), lambda d: Error(d, 0.1, Fixed(0.5)), Pause),
}


@pytest.mark.parametrize("kind", list(MAKERS), scope="class")
class TestContractThroughAFilter(DeviceContract):
    @pytest.fixture
    def device_backend(self, kind: str) -> Filters:
        backend = MemoryBackend()
        backend.add("disk", MIB)
        backend.add("frozen", MIB)
        filters = Filters(backend)
        if MAKERS[kind]:
            filters.set("disk", chain(*MAKERS[kind]))
        # Read-only is the filter of the one that must not change.
        filters.set("frozen", chain(ReadOnly, *MAKERS[kind], words=("read-only",)))
        return filters

    def take_copy(self, device_backend: Filters, name: str) -> None:
        device_backend._backend.take_copy("disk", name)


@pytest.fixture
def backend() -> MemoryBackend:
    backend = MemoryBackend()
    backend.add("disk", MIB)
    return backend


# -- each filter


def test_read_only(backend: MemoryBackend) -> None:
    device = ReadOnly(backend.devices["disk"])
    assert device.read_only
    for change in (lambda: device.write(0, memoryview(b"x")), lambda: device.discard(0, 1)):
        with pytest.raises(errors.ReadOnly) as e:
            change()
        assert e.value.errno == errno.EPERM


def test_error_fails_its_share(backend: MemoryBackend) -> None:
    dice = Fixed(0.009)
    device = Error(backend.devices["disk"], 0.01, dice)
    for call in (
        lambda: device.read(0, 1),
        lambda: device.write(0, memoryview(b"x")),
        lambda: device.discard(0, 1),
    ):
        dice.value = 0.009
        with pytest.raises(OSError, match="made by a filter") as e:
            call()
        assert e.value.errno == errno.EIO
        assert not backend.staged
        dice.value = 0.011
        call()
        backend.staged.clear()


def test_rate_is_shared_and_smooth(backend: MemoryBackend) -> None:
    disk, bucket = backend.devices["disk"], Bucket(1000)
    one, other = Rate(disk, bucket), Rate(disk, bucket)
    assert one.due(100.0, 100) == 100.0
    assert other.due(100.0, 500) == pytest.approx(100.0)  # the burst of a tenth of a second
    assert one.due(100.0, 500) == pytest.approx(100.5)
    assert other.due(100.0, 0) == pytest.approx(101.0)
    assert one.due(200.0, 100) == 200.0
    assert BURST_S == 0.1


def test_delays_add_up(backend: MemoryBackend) -> None:
    device = Delay(Filter(Delay(backend.devices["disk"], 2.0)), 0.5)
    assert device.due(10.0, 4096) == 12.5
    assert device.waits
    assert not Filter(backend.devices["disk"]).waits
    assert Filter(device).waits


def test_pause_is_for_ever(backend: MemoryBackend) -> None:
    assert Filter(Pause(backend.devices["disk"])).due(1.0, 0) == inf


# -- chains


def test_the_first_word_is_outermost(backend: MemoryBackend) -> None:
    device = chain(ReadOnly, Pause).dress(backend.devices["disk"])
    assert isinstance(device, ReadOnly)
    assert isinstance(device.inner, Pause)
    assert bare(device) is backend.devices["disk"]


def test_without_filters_nothing_is_wrapped(backend: MemoryBackend) -> None:
    filters = Filters(backend)
    assert filters.attach("disk", "me") is backend.devices["disk"]
    filters.set("disk", chain(ReadOnly, words=("read-only",)))
    assert filters.exports()[0].read_only
    filters.clear("disk")
    assert filters.attach("disk", "me") is backend.devices["disk"]
    assert not filters.exports()[0].read_only


def test_only_exports_that_exist(backend: MemoryBackend) -> None:
    filters = Filters(backend)
    with pytest.raises(errors.NotFound):
        filters.set("nothing", chain(Pause))
    with pytest.raises(errors.NotFound):
        filters.clear("disk")


def test_what_waits_comes_back_in_order(backend: MemoryBackend) -> None:
    waiting, gate = Waiting(), Delay(backend.devices["disk"], 1.0)
    payload = bytearray(b"data")
    requests = [
        (wire.WRITE, b"%08d" % n, 0, 4, 0, memoryview(payload)) for n in range(3)
    ]  # fmt: skip
    assert waiting.sort(requests, gate, 5.0) == []
    payload[:] = b"!!!!"
    assert waiting.cost > 12
    assert waiting.next_due() == 6.0
    assert waiting.ready(5.9) == []
    back = waiting.ready(6.0)
    assert [request[1] for request in back] == [b"00000000", b"00000001", b"00000002"]
    assert all(request[5] == b"data" for request in back)
    assert (waiting.cost, waiting.next_due()) == (0, inf)


# -- live


@pytest.fixture(params=list(LOOPS))
def serving(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    backend = MemoryBackend()
    backend.add("disk", MIB)
    backend.add("other", MIB)
    with serve(backend, tmp_path, request.param) as serving:
        yield serving


def put(serving: Serving, *makers: Maker) -> None:
    async def work() -> None:
        filters = serving.door.backend
        filters.set("disk", chain(*makers)) if makers else filters.clear("disk")

    serving.run(work())


def test_filters_reach_those_who_have_it_open(serving: Serving) -> None:
    with raw(serving.path) as peer:
        peer.open("disk")
        put(serving, ReadOnly)
        peer.send(request(wire.WRITE, 0, payload=b"x"))
        assert peer.error()[0] == errno.EPERM
        put(serving, lambda device: Error(device, 1.0, DICE))
        peer.send(request(wire.READ, 0, 1))
        assert peer.error()[0] == errno.EIO
        put(serving)
        peer.send(request(wire.WRITE, 0, payload=b"x"))
        assert peer.error()[0] == 0


def test_a_delay_does_not_hold_others_up(serving: Serving) -> None:
    put(serving, lambda device: Delay(device, 0.5))
    with raw(serving.path) as slow, raw(serving.path) as quick:
        slow.open("disk")
        quick.open("other")
        began = time.monotonic()
        payload = bytes(100_000)
        slow.send(*(request(wire.WRITE, 0, payload=payload) for _ in range(8)))
        slow.send(request(wire.FLUSH), request(wire.READ, 0, 4096))
        for _ in range(50):
            quick.send(request(wire.READ, 0, 512))
            quick.error()
            quick.receive(512)
        assert time.monotonic() - began < 0.4
        slow.receive(10 * 16 + 4096)  # the data of the read stands somewhere between
        assert 0.5 <= time.monotonic() - began < 1.5  # side by side, not one after the other


def test_a_rate_is_kept(serving: Serving) -> None:
    put(serving, rate(MIB))
    with raw(serving.path) as peer:
        peer.open("disk")
        began = time.monotonic()
        peer.send(*(request(wire.WRITE, 0, payload=bytes(64 * 1024)) for _ in range(12)))
        for _ in range(12):
            assert peer.error()[0] == 0
        assert 0.5 < time.monotonic() - began < 1.5  # 0.75 MiB, less the burst


def test_a_pause_ends_when_it_is_taken_off(serving: Serving) -> None:
    put(serving, Pause)
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=b"kept"), request(wire.READ, 0, 4))
        peer.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            peer.receive(1)
        peer.socket.settimeout(10)
        put(serving)
        assert peer.error()[0] == 0
        assert peer.error()[0] == 0
        assert peer.receive(4) == b"kept"


def test_a_paused_client_cannot_fill_memory(serving: Serving) -> None:
    put(serving, Pause)
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.socket.settimeout(1)

        def pour() -> None:
            for _ in range(64):
                peer.send(request(wire.WRITE, 0, payload=bytes(MIB)))

        with pytest.raises(TimeoutError):
            pour()
        assert serving.door.held_bytes < 24 * MIB


def test_a_paused_client_may_go(serving: Serving) -> None:
    put(serving, Pause)
    with raw(serving.path) as peer:
        peer.open("disk")
        peer.send(request(wire.WRITE, 0, payload=b"lost"))
        serving.until(lambda: serving.door.held_bytes > 0)
    serving.until(lambda: serving.door.connections == 0)
    assert bytes(serving.backend.devices["disk"].content[:4]) == bytes(4)


def test_changing_filters_under_load(serving: Serving) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def load() -> None:
        try:
            with raw(serving.path) as peer:
                peer.open("disk")
                number = 0
                while not stop.is_set():
                    number += 1
                    data = b"%016d" % number * 256
                    peer.send(request(wire.WRITE, 8192, payload=data))
                    assert peer.error()[0] == 0
                    peer.send(request(wire.READ, 8192, len(data)))
                    assert peer.error()[0] == 0
                    assert peer.receive(len(data)) == data
        except BaseException as e:
            failures.append(e)

    thread = threading.Thread(target=load)
    thread.start()
    for makers in ((lambda d: Delay(d, 0.01),), (Pause,), (rate(10 * MIB),), (Filter,)) * 5:
        put(serving, *makers)
        time.sleep(0.02)
    put(serving)
    stop.set()
    thread.join(20)
    assert not failures
