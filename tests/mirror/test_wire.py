"""The bytes of every frame are pinned, and no bytes at all can do more than end a connection."""

from __future__ import annotations

import contextlib
import tracemalloc
from array import array
from pathlib import Path
from random import Random

import lz4.block
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import PeerFault
from isochrone.mirror import messages, wire
from isochrone.mirror.link import Link
from isochrone.mirror.messages import AnyMessage, Data
from isochrone.store.format import checksum
from isochrone.types import BLOCK, MIB
from tests.mirror.messages import EXAMPLES, data

GOLDEN = Path(__file__).parents[1] / "golden" / "link-v1"
PACKED = "data-packed"  # written by one version of LZ4; others may pack differently


def frame(message: AnyMessage, sequence: int = 1) -> bytes:
    return b"".join(wire.encode(message, sequence))


def sealed(kind: int, body: bytes, *, flags: int = 0, sequence: int = 1) -> bytes:
    """A frame whose checksum is right, whatever is in it."""
    head = wire._HEAD.pack(wire.MAGIC, wire.VERSION, kind, flags, sequence, len(body))
    return head + checksum(body, checksum(head)).to_bytes(8, "little") + body


def decode(frame: bytes) -> AnyMessage | None:
    link = Link()
    link.receive(frame)
    return link.next()


def same(one: AnyMessage | None, other: AnyMessage) -> bool:
    if isinstance(one, Data) and isinstance(other, Data):
        return (one.volume, one.blocks, one.sums) == (
            other.volume, other.blocks, other.sums,
        ) and bytes(one.payload) == bytes(other.payload)  # fmt: skip
    return one == other


# -- the bytes


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_bytes(name: str) -> None:
    golden = (GOLDEN / f"{name}.bin").read_bytes()
    assert frame(EXAMPLES[name], 7) == golden
    head = wire.decode_head(golden[: wire.HEAD_BYTES])
    assert head.sequence == 7
    assert same(wire.decode_body(head, golden[wire.HEAD_BYTES :]), EXAMPLES[name])


def test_golden_bytes_of_packed_data() -> None:
    golden = (GOLDEN / f"{PACKED}.bin").read_bytes()
    head = wire.decode_head(golden[: wire.HEAD_BYTES])
    assert head.flags == wire.FLAG_LZ4
    assert len(golden) < BLOCK
    message = wire.decode_body(head, golden[wire.HEAD_BYTES :])
    assert same(message, data(3, [0, 1, 7], b"block one " * 1228 + b"12345678"))


def test_every_type_has_its_golden_bytes() -> None:
    assert {type(message) for message in EXAMPLES.values()} == {*messages.TYPES.values(), Data}
    assert {path.stem for path in GOLDEN.iterdir()} == {*EXAMPLES, PACKED}


def test_data_is_packed_where_that_pays() -> None:
    zeros = data(1, list(range(256)), bytes(MIB))
    assert len(frame(zeros)) < 16 * 1024
    assert same(decode(frame(zeros)), zeros)
    noise = data(1, list(range(256)), Random(2).randbytes(MIB))
    assert MIB < len(frame(noise)) < MIB + 5000 < wire.FRAME_BYTES_MAX
    assert same(decode(frame(noise)), noise)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_largest_messages_fit_a_frame(name: str) -> None:
    """What the limits allow can be sent."""
    biggest = {
        "begin": messages.Begin(
            base=1 << 62,
            cut=1 << 62,
            volumes=(messages.RemoteVolume(1 << 32, "n" * 256, 1 << 46),)
            * messages.GROUP_VOLUMES_MAX,
        ),
        "holes": messages.Holes(ranges=((1 << 32, 1 << 34, 1 << 32),) * messages.HOLES_MAX),
        "command": messages.Command(body=bytes(messages.COMMAND_BYTES_MAX)),
        "refuse": messages.Refuse(code="x", message="\U0001f600" * 1000, hint="\U0001f600" * 1000),
    }
    message = biggest.get(name, EXAMPLES[name])
    assert same(decode(frame(message)), message)
    assert len(frame(message)) <= wire.FRAME_BYTES_MAX


# -- anything else is refused


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_truncated_frame_waits_for_the_rest(name: str) -> None:
    whole = frame(EXAMPLES[name])
    steps = range(len(whole)) if len(whole) < 1000 else range(0, len(whole), 97)
    for end in steps:
        assert decode(whole[:end]) is None


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_flipped_bit_is_noticed(name: str) -> None:
    """It is refused, or it promises a longer frame, or it has a sequence number seen before."""
    whole = frame(EXAMPLES[name])
    bits = range(8 * len(whole)) if len(whole) < 400 else range(0, 8 * len(whole), 61)
    for bit in bits:
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            got = decode(bytes(broken))
        except PeerFault:
            continue
        assert got is None
        assert wire.decode_head(bytes(broken[: wire.HEAD_BYTES])).length > len(whole) - 32


def test_foreigners_are_told_apart() -> None:
    for text in (b"GET / HTTP/1.1\r\nHost: isochrone\r\n\r\n", b"NBDMAGICIHAVEOPT" + bytes(16)):
        with pytest.raises(PeerFault, match="does not speak"):
            decode(text)
    newer = bytearray(frame(EXAMPLES["sync"]))
    newer[4] = 2
    with pytest.raises(PeerFault, match="version 2") as e:
        decode(bytes(newer))
    assert "same version" in e.value.hint


def test_an_unknown_type_is_refused() -> None:
    for kind in {*range(256)} - {*messages.TYPES, messages.DATA_TYPE}:
        with pytest.raises(PeerFault, match="unknown type"):
            decode(sealed(kind, b"\x80"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x80",  # a field is missing
        b"\x81\xa5token\xa1x",  # a wrong type
        b"\x81\xa5token\xff",  # -1
        b"\x81\xa5token\xcf" + b"\xff" * 8,  # 2**64 - 1
        b"\x81\xa5token\x01\x00",  # something behind
        b"\x82\xa5token\x01\xa1x" + b"\x91" * 100_000,  # nested without end
        b"\x82\xa5token\x01\xa1x\xdd\xff\xff\xff\xff",
    ],
)
def test_nonsense_in_a_message(body: bytes) -> None:
    with pytest.raises(PeerFault, match="Sync message makes no sense"):
        decode(sealed(12, body))


def test_text_that_is_no_text() -> None:
    with pytest.raises(PeerFault, match="makes no sense"):
        decode(sealed(3, b"\x82\xa4code\xa2\xff\xfe\xa7message\xa0"))


# -- limits hold before anything is allocated


def grows(bytes_max: int, act) -> None:
    tracemalloc.start()
    try:
        act()
        assert tracemalloc.get_traced_memory()[1] < bytes_max
    finally:
        tracemalloc.stop()


def refused(frame: bytes, match: str) -> None:
    with pytest.raises(PeerFault, match=match):
        decode(frame)


def test_a_length_over_the_limit_is_refused_with_the_header() -> None:
    for length in (wire.FRAME_BYTES_MAX + 1, 0xFFFFFFFF):
        head = wire._HEAD.pack(wire.MAGIC, 1, 12, 0, 1, length) + bytes(8)
        grows(100_000, lambda head=head: refused(head, "over the limit"))


def test_counts_over_their_limits() -> None:
    encode = msgspec.msgpack.encode
    holes = encode({"ranges": [(0, 0, 0)] * (messages.HOLES_MAX + 1)})
    grows(300_000, lambda: refused(sealed(8, holes), "length <= 4096"))
    begin = encode(
        {"base": 0, "cut": 1, "volumes": [(1, "v", 1)] * (messages.GROUP_VOLUMES_MAX + 1)}
    )
    grows(300_000, lambda: refused(sealed(6, begin), "length <= 1024"))
    grows(100_000, lambda: refused(sealed(8, b"\x81\xa6ranges\xdd\xff\xff\xff\xff"), "no sense"))
    command = encode({"body": bytes(messages.COMMAND_BYTES_MAX + 1)})
    refused(sealed(9, command), "length <=")
    hello = {"pool": "p", "group": "g" * 257, "lineage": "", "epoch": 0, "cut": 0}
    refused(sealed(1, encode(hello)), "length <= 256")


@pytest.mark.parametrize("count", [0, 257, 0xFFFFFFFF])
@pytest.mark.parametrize("flags", [0, wire.FLAG_LZ4])
def test_a_wrong_number_of_blocks(count: int, flags: int) -> None:
    body = wire._DATA.pack(1, count) + bytes(16 * 300)
    grows(200_000, lambda: refused(sealed(7, body, flags=flags), f"claims {count} blocks"))


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK + 1, 100 * MIB])
def test_a_packed_block_of_another_size(size: int) -> None:
    """Also 100 MiB of zeros in 400 KiB: not more than the promised block is ever unpacked."""
    packed = lz4.block.compress(bytes(size), store_size=False)
    body = wire._DATA.pack(1, 1) + bytes(16) + packed
    grows(2 * MIB, lambda: refused(sealed(7, body, flags=wire.FLAG_LZ4), "DATA frame"))


@pytest.mark.parametrize("body", [b"", b"\x01\x00\x00\x00\x01\x00\x00", bytes(7)])
def test_a_data_frame_that_is_too_short(body: bytes) -> None:
    refused(sealed(7, body), "too short")


# -- fuzz


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(junk: bytes) -> None:
    with contextlib.suppress(PeerFault):
        assert decode(junk) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 20), st.integers(0, 3), st.binary(max_size=200))
def test_any_body_with_a_right_checksum(kind: int, flags: int, body: bytes) -> None:
    try:
        message = decode(sealed(kind, body, flags=flags))
    except PeerFault:
        return
    assert message is not None
    if not isinstance(message, Data):
        assert same(decode(frame(message)), message)


def mutated(random: Random, body: bytes) -> bytes:
    broken = bytearray(body)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(broken) + 1)
        match random.randrange(4):
            case 0 if at < len(broken):
                broken[at] = random.randrange(256)
            case 1:
                del broken[at : at + random.randint(1, 8)]
            case 2:
                broken[at:at] = random.randbytes(random.randint(1, 8))
            case _:
                part = broken[at : at + random.randint(1, 16)]
                broken[at:at] = part
    return bytes(broken)


@pytest.mark.parametrize("resealed", [False, True])
def test_mutated_frames(resealed: bool) -> None:
    """60,000 broken frames of all types each way; nothing but `PeerFault` ever comes out."""
    random = Random(5)
    small = data(3, [5], bytes(BLOCK - 1) + b"x")
    bodies = [
        (wire.decode_head(whole[: wire.HEAD_BYTES]), whole, message)
        for message in [*EXAMPLES.values(), small]
        if len(whole := frame(message)) < BLOCK
    ]
    understood = 0
    for n in range(60_000):
        head, whole, message = bodies[n % len(bodies)]
        if resealed:
            body = mutated(random, whole[wire.HEAD_BYTES :])
            broken = sealed(head.kind, body, flags=head.flags)
        else:
            broken = mutated(random, whole)
        link = Link()
        try:
            link.receive(broken)
            while (got := link.next()) is not None:
                understood += 1
                assert resealed or same(got, message)
        except PeerFault:
            pass
    assert understood > 500  # sealed nonsense that is a message; frames with junk behind them


def test_blocks_and_sums_are_arrays() -> None:
    message = decode(frame(EXAMPLES["data"]))
    assert isinstance(message, Data)
    assert isinstance(message.blocks, array)
    assert isinstance(message.sums, array)
    assert wire.size_of(wire.encode(message, 1)) == len(frame(message))
