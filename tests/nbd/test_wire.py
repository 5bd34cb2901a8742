"""The bytes of the protocol, spelled out."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isochrone.nbd import wire
from tests.nbd.serving import info_data


def test_greeting() -> None:
    assert wire.greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


def test_option_reply() -> None:
    assert wire.option_reply(7, wire.REP_ERR_UNSUP, b"no") == bytes.fromhex(
        "0003e889045565a9 00000007 80000001 00000002 6e6f"
    )


def test_export_reply() -> None:
    assert wire.export_reply(512, 3, zeroes=False) == bytes.fromhex("0000000000000200 0003")
    assert wire.export_reply(512, 3, zeroes=True) == wire.export_reply(
        512, 3, zeroes=False
    ) + bytes(124)


def test_infos() -> None:
    assert wire.info_export(2**40, 0x101) == bytes.fromhex("0000 0000010000000000 0101")
    assert wire.info_block_size(1, 4096, 2**25) == bytes.fromhex("0003 00000001 00001000 02000000")
    assert wire.info_text(wire.INFO_DESCRIPTION, "é") == b"\x00\x02\xc3\xa9"


def test_server_data() -> None:
    assert wire.server_data("a b", "text") == b"\x00\x00\x00\x03a btext"


def test_request() -> None:
    data = bytes.fromhex("25609513 0001 0004 0102030405060708 0000000000001000 00000200")
    assert wire.REQUEST.unpack(data) == (
        wire.REQUEST_MAGIC,
        wire.CMD_FUA,
        wire.TRIM,
        bytes(range(1, 9)),
        4096,
        512,
    )


def test_simple_replies() -> None:
    assert wire.SIMPLE_DONE + b"cookie01" == bytes.fromhex("67446698 00000000") + b"cookie01"
    assert wire.simple_error(b"cookie01", errno.ENOSPC) == bytes.fromhex("67446698 0000001c") + (
        b"cookie01"
    )


def test_chunks() -> None:
    assert wire.data_chunk(b"cookie01", 4096, 512) == (
        bytes.fromhex("668e33ef 0001 0001")
        + b"cookie01"
        + bytes.fromhex("00000208 0000000000001000")
    )
    assert wire.error_chunk(b"cookie01", errno.EPERM, "no") == (
        bytes.fromhex("668e33ef 0001 8001")
        + b"cookie01"
        + bytes.fromhex("00000008 00000001 0002")
        + b"no"
    )


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EPERM, 1),
        (errno.EIO, 5),
        (errno.ENOMEM, 12),
        (errno.EINVAL, 22),
        (errno.ENOSPC, 28),
        (errno.EOVERFLOW, 75),
        (errno.ENOTSUP, 95),
        (errno.ESHUTDOWN, 108),
        (errno.EROFS, 1),
        (errno.EDQUOT, 28),
        (errno.ENOENT, 5),
        (0, 5),
        (-1, 5),
    ],
)
def test_errors_are_told_in_the_protocols_numbers(number, told) -> None:
    assert wire.simple_error(bytes(8), number)[4:8] == bytes([0, 0, 0, told])


def test_cve_2020_10761_texts_are_cut_to_fit() -> None:
    assert wire.text("é" * 5000) == "é".encode() * 2048
    assert wire.text("xé" + "é" * 5000) == b"x" + "é".encode() * 2047
    assert len(wire.error_chunk(bytes(8), errno.EIO, "x" * 70000)) == 20 + 6 + 4096


def test_split_info_request() -> None:
    assert wire.split_info_request(info_data(b"disk", 1, 3)) == (b"disk", [1, 3])
    assert wire.split_info_request(info_data(b"")) == (b"", [])


@pytest.mark.parametrize("length", [0, 3, 5, 6, 2**16, 2**31, 2**32 - 1])
def test_cve_2022_26496_inner_lengths_must_fit_exactly(length) -> None:
    data = wire.LENGTH.pack(length) + b"disk" + wire.COUNT.pack(0)
    assert wire.split_info_request(data) is None


@given(st.binary(max_size=64))
def test_any_info_request_is_taken_whole_or_not_at_all(data: bytes) -> None:
    parts = wire.split_info_request(data)
    assert parts is None or info_data(parts[0], *parts[1]) == data
