"""What every device behind the front door does, whatever it is made of.

Subclass `DeviceContract` and give it a fixture:

    class TestMemory(DeviceContract):
        @pytest.fixture
        def device_backend(self):
            backend = MemoryBackend()
            backend.add("disk", 1 << 20)
            backend.add("frozen", 1 << 20, read_only=True)
            return backend

        def take_copy(self, device_backend, name):
            device_backend.take_copy("disk", name)

`disk` is writable, holds at least 256 KiB, and is unwritten when the test begins; `frozen` is
read-only. Other names: override `WRITABLE` and `FROZEN`.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isochrone.errors import IsochroneError, NotFound, OutOfRange, ReadOnly
from isochrone.types import BLOCK, KIB, TRACK, Backend, Caller, Device, Extent, Proof

CLIENT = Caller(Proof.ADDRESS, "client", "client:1")
ANOTHER = Caller(Proof.ADDRESS, "another", "another:1")
SPAN = 256 * KIB  # what these tests use of a device

CHANGES = st.lists(
    st.tuples(
        st.booleans(),  # write, or discard
        st.integers(0, SPAN - 1),
        st.integers(1, 3 * BLOCK),
        st.integers(1, 255),  # the byte written
        st.booleans(),  # commit afterwards
    ),
    max_size=12,
)


async def durable(backend: Backend) -> None:
    """Wait until everything committed so far is durable."""
    told: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    backend.when_durable(told.set_result)
    if (failure := await told) is not None:
        raise failure


def content(device: Device, offset: int, length: int) -> bytes:
    return b"".join(device.read(offset, length))


def marked(extents: Sequence[Extent], offset: int) -> list[bool]:
    """A list of bytes would be long: one entry for each block that an extent touches."""
    found: list[bool] = []
    for length, mark in extents:
        end = offset + length
        assert length > 0
        assert offset % BLOCK == 0 or not found
        found += [mark] * (-(-end // BLOCK) - offset // BLOCK)
        offset = end
    return found


class DeviceContract:
    WRITABLE = "disk"
    FROZEN = "frozen"

    def take_copy(self, device_backend: Backend, name: str) -> None:
        """Take a read-only copy of `disk`."""
        raise NotImplementedError

    @pytest.fixture
    def device(self, device_backend: Backend) -> Iterator[Device]:
        device = device_backend.attach(self.WRITABLE, CLIENT)
        yield device
        device_backend.detach(device, CLIENT)

    @pytest.fixture
    def frozen(self, device_backend: Backend) -> Iterator[Device]:
        device = device_backend.attach(self.FROZEN, CLIENT)
        yield device
        device_backend.detach(device, CLIENT)

    # --- exports

    def test_listing_agrees_with_devices(self, device_backend, device, frozen) -> None:
        listed = {e.name: e for e in device_backend.exports()}
        for each, name in ((device, self.WRITABLE), (frozen, self.FROZEN)):
            assert each.name == name
            assert listed[name].size == each.size >= SPAN
            assert listed[name].read_only == each.read_only == (each is frozen)
            assert listed[name].description == each.description

    def test_unknown_export_is_not_found(self, device_backend) -> None:
        with pytest.raises(NotFound) as e:
            device_backend.attach("no such export", CLIENT)
        assert e.value.errno == errno.ENOENT

    def test_two_clients_share_a_device(self, device_backend, device) -> None:
        other = device_backend.attach(self.WRITABLE, ANOTHER)
        device.write(0, memoryview(b"seen by both"))
        device_backend.commit()
        assert content(other, 0, 12) == b"seen by both"
        device_backend.detach(other, ANOTHER)
        assert content(device, 0, 12) == b"seen by both"

    # --- reading and writing

    def test_unwritten_reads_zeros(self, device) -> None:
        assert content(device, 0, SPAN) == bytes(SPAN)
        assert content(device, device.size - 5, 5) == bytes(5)
        assert content(device, 3, 1) == b"\0"

    @pytest.mark.parametrize("offset", [0, 1, BLOCK - 1, BLOCK, BLOCK + 7, TRACK - 3])
    @pytest.mark.parametrize("length", [1, 511, BLOCK - 1, BLOCK, BLOCK + 1, TRACK + 9])
    def test_write_of_any_alignment(self, device_backend, device, offset, length) -> None:
        data = bytes(1 + i % 251 for i in range(length))
        device.write(offset, memoryview(data))
        device_backend.commit()
        assert content(device, offset, length) == data
        whole = content(device, 0, SPAN)
        assert whole == bytes(offset) + data + bytes(SPAN - offset - length)

    def test_write_up_to_the_end(self, device_backend, device) -> None:
        device.write(device.size - 3, memoryview(b"end"))
        device_backend.commit()
        assert content(device, device.size - 3, 3) == b"end"

    def test_later_changes_of_one_commit_win(self, device_backend, device) -> None:
        device.write(0, memoryview(b"a" * 3 * BLOCK))
        device.write(BLOCK - 1, memoryview(b"b" * (BLOCK + 2)))
        device.discard(BLOCK, 10)
        device.write(BLOCK + 5, memoryview(b"c"))
        device_backend.commit()
        wanted = bytearray(b"a" * 3 * BLOCK)
        wanted[BLOCK - 1 : 2 * BLOCK + 1] = b"b" * (BLOCK + 2)
        wanted[BLOCK : BLOCK + 10] = bytes(10)
        wanted[BLOCK + 5 : BLOCK + 6] = b"c"
        assert content(device, 0, 3 * BLOCK) == wanted

    @pytest.mark.parametrize(("offset", "length"), [(0, SPAN), (BLOCK, BLOCK), (1, 1), (100, 9000)])
    def test_discard_reads_zeros(self, device_backend, device, offset, length) -> None:
        device.write(0, memoryview(b"x" * SPAN))
        device_backend.commit()
        device.discard(offset, length)
        device_backend.commit()
        rest = SPAN - offset - length
        assert content(device, 0, SPAN) == b"x" * offset + bytes(length) + b"x" * rest

    def test_data_may_be_reused_after_commit(self, device_backend, device) -> None:
        data = bytearray(b"n" * BLOCK)
        device.write(0, memoryview(data))
        device_backend.commit()
        data[:] = b"!" * BLOCK
        assert content(device, 0, BLOCK) == b"n" * BLOCK

    def test_what_was_read_does_not_change(self, device_backend, device) -> None:
        """A reply may be sent long after later writes."""
        device.write(0, memoryview(b"old" * BLOCK))
        device_backend.commit()
        pieces = device.read(0, 3 * BLOCK)
        device.write(0, memoryview(b"new" * BLOCK))
        device_backend.commit()
        assert b"".join(pieces) == b"old" * BLOCK

    def test_pieces_add_up(self, device_backend, device) -> None:
        device.write(5 * BLOCK, memoryview(b"island"))
        device_backend.commit()
        assert sum(len(piece) for piece in device.read(1, SPAN - 1)) == SPAN - 1

    def test_an_empty_commit_is_nothing(self, device_backend, device) -> None:
        device_backend.commit()
        assert content(device, 0, BLOCK) == bytes(BLOCK)

    def test_flush_returns(self, device_backend, device) -> None:
        device.write(0, memoryview(b"kept"))
        device_backend.commit()
        asyncio.run(durable(device_backend))
        assert content(device, 0, 4) == b"kept"

    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(changes=CHANGES)
    def test_any_history_reads_like_a_byte_array(self, device_backend, device, changes) -> None:
        device.discard(0, SPAN)
        device_backend.commit()
        model = bytearray(SPAN)
        for write, offset, length, byte, commit in changes:
            length = min(length, SPAN - offset)
            if write:
                device.write(offset, memoryview(bytes([byte]) * length))
                model[offset : offset + length] = bytes([byte]) * length
            else:
                device.discard(offset, length)
                model[offset : offset + length] = bytes(length)
            if commit:
                device_backend.commit()
                assert content(device, 0, SPAN) == model
        device_backend.commit()
        assert content(device, 0, SPAN) == model

    # --- what is known about a range

    def test_what_is_mapped(self, device_backend, device) -> None:
        assert device.mapped(0, SPAN, 9) == [(SPAN, False)]
        device.write(2 * BLOCK, memoryview(b"x" * 3 * BLOCK))
        device.write(9 * BLOCK + 5, memoryview(b"y"))
        device_backend.commit()
        runs = [(2, False), (3, True), (4, False), (1, True)]
        rest = SPAN // BLOCK - 10
        whole = [(n * BLOCK, mark) for n, mark in [*runs, (rest, False)]]
        assert list(device.mapped(0, SPAN, 9)) == whole
        for limit in (1, 2, 3):
            assert list(device.mapped(0, SPAN, limit)) == whole[:limit]
        device.discard(3 * BLOCK, BLOCK)
        device_backend.commit()
        assert marked(device.mapped(0, 5 * BLOCK, 9), 0) == [False, False, True, False, True]

    def test_extents_begin_and_end_where_asked(self, device_backend, device) -> None:
        device.write(BLOCK, memoryview(b"x" * BLOCK))
        device_backend.commit()
        assert list(device.mapped(BLOCK + 3, 5, 9)) == [(5, True)]
        assert list(device.mapped(7, 2 * BLOCK, 9)) == [
            (BLOCK - 7, False),
            (BLOCK, True),
            (7, False),
        ]
        assert list(device.mapped(device.size - 1, 1, 9)) == [(1, False)]

    def test_what_changed_since_a_copy(self, device_backend, device) -> None:
        device.write(0, memoryview(b"x" * 8 * BLOCK))
        device_backend.commit()
        assert "base" not in device.copies()
        self.take_copy(device_backend, "base")
        copy = device.copies()["base"]
        assert list(device.changed(copy, 0, SPAN, 9)) == [(SPAN, False)]
        device.write(BLOCK + 9, memoryview(b"new"))
        device.discard(5 * BLOCK, BLOCK)
        device.write(10 * BLOCK, memoryview(b"new"))
        device_backend.commit()
        want = [block in (1, 5, 10) for block in range(SPAN // BLOCK)]
        assert marked(device.changed(copy, 0, SPAN, 99), 0) == want
        assert len(device.changed(copy, 0, SPAN, 3)) == 3
        assert list(device.changed(copy, BLOCK + 1, 2, 9)) == [(2, True)]
        self.take_copy(device_backend, "later")
        later = device.copies()["later"]
        assert list(device.changed(later, 0, SPAN, 9)) == [(SPAN, False)]
        assert marked(device.changed(copy, 0, SPAN, 99), 0) == want

    def test_a_frozen_device_knows_its_extents_too(self, frozen) -> None:
        assert sum(n for n, _ in frozen.mapped(0, SPAN, 99)) == SPAN
        for copy in frozen.copies().values():
            assert frozen.changed(copy, 0, SPAN, 1)

    # --- refusals

    @pytest.mark.parametrize("beyond", [1, BLOCK, 2**32, 2**63, 2**64 - 1])
    def test_past_the_end_is_out_of_range(self, device_backend, device, beyond) -> None:
        size = device.size
        for offset in (size - 1, size, size + beyond):
            for call in (
                lambda at=offset: device.read(at, 2),
                lambda at=offset: device.write(at, memoryview(b"xx")),
                lambda at=offset: device.discard(at, 1 + beyond),
                lambda at=offset: device.mapped(at, 2, 1),
            ):
                with pytest.raises(OutOfRange) as e:
                    call()
                assert e.value.errno == errno.EINVAL
        device_backend.commit()
        assert content(device, size - 1, 1) == b"\0"

    def test_read_only_refuses_changes(self, device_backend, frozen) -> None:
        before = content(frozen, 0, SPAN)
        for call in (lambda: frozen.write(0, memoryview(b"x")), lambda: frozen.discard(0, BLOCK)):
            with pytest.raises(ReadOnly) as e:
                call()
            assert e.value.errno == errno.EPERM
        device_backend.commit()
        assert content(frozen, 0, SPAN) == before

    def test_refusals_are_of_the_error_tree(self, device) -> None:
        with pytest.raises(IsochroneError):
            device.read(device.size, 1)
