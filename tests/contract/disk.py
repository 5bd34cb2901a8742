"""What any `Disk` must do. A class of tests inherits this and says how a disk is opened."""

from __future__ import annotations

import errno
import random

import apsw
import pytest

from isochrone.errors import Conflict
from isochrone.world.disk import Disk


class DiskContract:
    def open_disk(self) -> Disk:
        """The disk of this test; the same one every time."""
        raise NotImplementedError

    @pytest.fixture
    def disk(self):
        disk = self.open_disk()
        yield disk
        disk.close()

    # -- names

    def test_is_empty_at_first(self, disk: Disk) -> None:
        assert disk.names() == []

    def test_lists_what_was_created_sorted(self, disk: Disk) -> None:
        for name in ("b", "a.log", "c"):
            disk.create(name).close()
        assert disk.names() == ["a.log", "b", "c"]
        disk.remove("b")
        disk.sync_names()
        assert disk.names() == ["a.log", "c"]

    def test_create_is_exclusive(self, disk: Disk) -> None:
        disk.create("a").close()
        with pytest.raises(FileExistsError):
            disk.create("a")

    def test_missing_names(self, disk: Disk) -> None:
        with pytest.raises(FileNotFoundError):
            disk.open("a")
        with pytest.raises(FileNotFoundError):
            disk.remove("a")

    def test_a_removed_name_can_be_created_again_empty(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"old"], 0)
        file.close()
        disk.remove("a")
        file = disk.create("a")
        assert file.size() == 0
        file.close()

    def test_an_open_file_outlives_its_name(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"still here"], 0)
        disk.remove("a")
        assert file.read_at(100, 0) == b"still here"
        file.close()

    # -- bytes

    @pytest.mark.parametrize("synced", [False, True])
    def test_what_is_forgotten_can_still_be_read(self, disk: Disk, synced: bool) -> None:
        file = disk.create("a")
        file.write_at([b"x" * 10_000], 0)
        if synced:
            file.sync()
        file.forget(0, 8192)
        file.forget(8192, 1 << 20)
        assert file.read_at(10_000, 0) == b"x" * 10_000
        file.close()

    def test_reserved_room_is_no_content(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"abc"], 0)
        file.reserve(1 << 20)
        assert file.size() == 3
        assert file.read_at(100, 0) == b"abc"
        file.write_at([b"d"], 10_000)
        assert file.read_at(20_000, 3) == bytes(9997) + b"d"
        file.truncate(2)
        assert file.read_at(100, 0) == b"ab"
        file.close()

    def test_vectored_write_and_read(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3], b""], 0)
        assert file.read_at(6, 0) == b"abcdef"
        assert file.read_at(3, 2) == b"cde"
        assert file.size() == 6
        file.close()

    def test_more_pieces_than_one_system_call_takes(self, disk: Disk) -> None:
        file = disk.create("a")
        pieces = [bytes([n % 251]) * 3 for n in range(3000)]
        file.write_at(pieces, 5)
        assert file.read_at(10_000, 5) == b"".join(pieces)
        file.close()

    @pytest.mark.parametrize(
        ("length", "offset"),
        [(4096, 0), (8192, 4096), (100, 50), (5000, 4000), (3 << 20, 8192), (10, 3 << 20), (1, 9)],
    )
    def test_reading_past_the_cache_gives_the_same_bytes(
        self, disk: Disk, length: int, offset: int
    ) -> None:
        file = disk.create("a")
        content = random.Random(1).randbytes((2 << 20) + 12288)
        file.write_at([content], 0)
        uncached = disk.open_uncached("a")
        assert uncached.read_at(length, offset) == content[offset : offset + length]
        file.write_at([b"later"], offset)
        assert uncached.read_at(5, offset) == b"later"
        uncached.close()
        with pytest.raises(FileNotFoundError):
            disk.open_uncached("b")

    def test_overwrite_in_the_middle_and_over_the_end(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"0123456789"], 0)
        file.write_at([b"AB"], 3)
        file.write_at([b"CDEF"], 8)
        assert file.read_at(100, 0) == b"012AB567CDEF"
        file.close()

    def test_a_hole_reads_as_zeros(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"x"], 5000)
        assert file.read_at(6000, 0) == bytes(5000) + b"x"
        file.close()

    def test_reading_past_the_end_is_short(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"abc"], 0)
        assert file.read_at(10, 1) == b"bc"
        assert file.read_at(10, 3) == b""
        assert file.read_at(10, 300) == b""
        file.close()

    def test_nothing_to_write(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([], 0)
        file.write_at([b""], 100)
        assert file.size() == 0
        file.close()

    def test_truncate_both_ways(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"abcdef"], 0)
        file.truncate(3)
        assert file.size() == 3
        file.truncate(5)
        assert file.read_at(10, 0) == b"abc\0\0"
        file.write_at([b"z"], 6)
        assert file.read_at(10, 0) == b"abc\0\0\0z"
        file.close()

    def test_two_handles_see_the_same_bytes(self, disk: Disk) -> None:
        one = disk.create("a")
        two = disk.open("a")
        one.write_at([b"abc"], 0)
        assert two.read_at(3, 0) == b"abc"
        one.close()
        two.sync()
        two.close()

    def test_a_closed_file_is_closed(self, disk: Disk) -> None:
        file = disk.create("a")
        file.close()
        file.close()
        for call in (
            lambda: file.write_at([b"x"], 0),
            lambda: file.read_at(1, 0),
            file.sync,
            file.size,
            lambda: file.truncate(0),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF

    def test_free_bytes(self, disk: Disk) -> None:
        assert disk.free_bytes() > 0

    # -- one holder, and what the next one finds

    def test_one_holder_at_a_time(self, disk: Disk) -> None:
        with pytest.raises(Conflict):
            self.open_disk()

    def test_everything_is_there_after_reopening(self, disk: Disk) -> None:
        file = disk.create("a")
        file.write_at([b"abc"], 0)
        file.sync()
        file.close()
        disk.sync_names()
        disk.close()
        disk.close()
        again = self.open_disk()
        assert again.names() == ["a"]
        file = again.open("a")
        assert file.read_at(10, 0) == b"abc"
        file.close()
        again.close()

    # -- metadata

    def test_metadata_is_no_file(self, disk: Disk) -> None:
        connection = disk.metadata()
        connection.execute("CREATE TABLE t(x)")
        assert disk.names() == []
        connection.close()

    def test_what_was_committed_survives_reopening(self, disk: Disk) -> None:
        connection = disk.metadata()
        connection.execute("CREATE TABLE t(x)")
        with connection:
            connection.executemany("INSERT INTO t VALUES(?)", [(1,), (2,)])
        connection.execute("BEGIN; INSERT INTO t VALUES(3)")
        connection.close()
        disk.close()
        again = self.open_disk()
        connection = again.metadata()
        assert list(connection.execute("SELECT x FROM t ORDER BY x")) == [(1,), (2,)]
        connection.close()
        again.close()

    def test_a_failed_transaction_leaves_nothing(self, disk: Disk) -> None:
        connection = disk.metadata()
        connection.execute("CREATE TABLE t(x)")
        with pytest.raises(ZeroDivisionError), connection:  # noqa: PT012
            connection.execute("INSERT INTO t VALUES(1)")
            raise ZeroDivisionError
        assert list(connection.cursor().execute("SELECT * FROM t")) == []
        assert connection.pragma("user_version") == 0
        connection.close()

    def test_two_connections_see_what_the_other_committed(self, disk: Disk) -> None:
        one, two = disk.metadata(), disk.metadata()
        one.execute("CREATE TABLE t(x)")
        with one:
            one.execute("INSERT INTO t VALUES(7)")
        assert two.execute("SELECT x FROM t").fetchone() == (7,)
        one.close()
        with pytest.raises(apsw.ConnectionClosedError):
            one.execute("SELECT 1")
        two.close()

    def test_a_copy_of_the_metadata_outlives_its_loss(self, disk: Disk) -> None:
        assert disk.metadata_backup() is None
        store = disk.metadata()
        store.execute("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        disk.back_up_metadata(store)
        store.execute("UPDATE t SET x = 2")
        copy = disk.metadata_backup()
        assert copy is not None
        assert list(copy.execute("SELECT x FROM t")) == [(1,)]
        copy.close()
        disk.back_up_metadata(store)
        store.execute("DROP TABLE t")
        store.close()
        copy = disk.metadata_backup()
        assert copy is not None
        disk.replace_metadata(copy)
        copy.close()
        store = disk.metadata()
        assert list(store.execute("SELECT x FROM t")) == [(2,)]
        store.execute("INSERT INTO t VALUES(3)")
        store.close()
        assert disk.names() == []
