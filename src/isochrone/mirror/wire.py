"""The link between two controllers, byte by byte. Nothing else in the mirror calls `struct`.

A connection carries frames in both directions. All numbers are little-endian.

    offset size  field
         0    4  magic "ILNK"
         4    1  version, 1
         5    1  type, see the messages below
         6    2  flags: bit 0 (DATA only): the blocks are one LZ4 block
         8    8  sequence number: 1, 2, 3, ... in each direction of a connection
        16    4  bytes of payload, at most 2 MiB
        20    4  zero
        24    8  xxh3-64 of the payload, seeded with xxh3-64 of bytes 0..23
        32       payload

A frame with a sequence number seen already is a duplicate and ignored; a gap ends the connection.
The payload of DATA is binary; that of every other type is one MessagePack map.

DATA:

         0    4  volume id at the primary
         4    4  number of blocks n, 1 to 256
         8  8*n  block numbers, ascending
         .  8*n  xxh3-64 of each block
         .       n * 4096 bytes of blocks, or their LZ4 block

A conversation, secondary on the left:

    HELLO  ->             who I am, which group, which lineage and cut I have
           <-  WELCOME    or REFUSE
    PULL   ->             I have hardened this cut; send what follows, up to this credit
           <-  BEGIN      base cut (0: everything), the cut it leads to, the volumes
           <-  DATA, HOLES, COMMAND  ...   in the order in which they are to be applied
    CREDIT ->             send that much more
           <-  CUT        complete: commit it
    PULL   ->             ...
           <-  HEARTBEAT  whenever nothing else was sent for a second, both ways

    FENCE  ->             instead of HELLO: your epoch is over
           <-  FENCED
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final, cast

import lz4.block
import msgspec
from xxhash import xxh3_64

from isochrone.errors import PeerFault
from isochrone.mirror.messages import DATA_TYPE, TYPES, AnyMessage, Data
from isochrone.mirror.packing import Packing
from isochrone.store.format import checksum
from isochrone.types import BLOCK, MIB, Buffer

VERSION: Final = 1
MAGIC: Final = b"ILNK"
DATA_BLOCKS_MAX: Final = 256  # 1 MiB: large enough to forget the header, small enough to interleave
FRAME_BYTES_MAX: Final = 2 * MIB  # the largest DATA frame with its numbers and checksums fits
FLAG_LZ4: Final = 1

_HEAD: Final = Struct("<4sBBHQI4x")
_SUM: Final = Struct("<Q")
_DATA: Final = Struct("<II")
HEAD_BYTES: Final = _HEAD.size + _SUM.size
assert HEAD_BYTES == 32


_NUMBERS: Final[dict[type, int]] = {kind: number for number, kind in TYPES.items()}
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODERS: Final = {number: msgspec.msgpack.Decoder(kind) for number, kind in TYPES.items()}


def number_of(message: AnyMessage) -> int:
    """The type of a message, as it is in its frame."""
    return DATA_TYPE if isinstance(message, Data) else _NUMBERS[type(message)]


def encode(message: AnyMessage, sequence: int, packing: Packing | None = None) -> list[Buffer]:
    """A frame in pieces. `packing` knows what was worth packing lately; without it all is tried."""
    if isinstance(message, Data):
        return _encode_data(message, sequence, packing or Packing())
    body = _ENCODER.encode(message)
    return [_head(_NUMBERS[type(message)], 0, sequence, body), body]


def _encode_data(data: Data, sequence: int, packing: Packing) -> list[Buffer]:
    blocks, flags = data.payload, 0
    packed = data.packed if data.packed is not None else packing.pack(blocks)
    if packed:
        blocks, flags = packed, FLAG_LZ4
    numbers = _DATA.pack(data.volume, len(data.blocks))
    front = b"".join((numbers, data.blocks.tobytes(), data.sums.tobytes()))
    return [_head(DATA_TYPE, flags, sequence, front, blocks), front, blocks]


def _head(kind: int, flags: int, sequence: int, *body: Buffer) -> bytes:
    length = size_of(body)
    assert length <= FRAME_BYTES_MAX
    head = _HEAD.pack(MAGIC, VERSION, kind, flags, sequence, length)
    sum = xxh3_64(seed=checksum(head))
    for piece in body:
        sum.update(piece)
    return head + _SUM.pack(sum.intdigest())


@dataclass(frozen=True, slots=True)
class FrameHead:
    kind: int
    flags: int
    sequence: int
    length: int
    sum: int
    seed: int


def decode_head(head: Buffer) -> FrameHead:
    """The fixed part of a frame. Raises `PeerFault` for anything but a frame of this version."""
    magic, version, kind, flags, sequence, length = _HEAD.unpack_from(head)
    if magic != MAGIC:
        raise PeerFault("the other side does not speak the mirror protocol")
    if version != VERSION:
        raise PeerFault(
            f"the other side speaks version {version} of the mirror protocol; this one {VERSION}",
            hint="run the same version of isochrone at both sites",
        )
    if length > FRAME_BYTES_MAX:
        raise PeerFault(f"a frame of {length} bytes is over the limit of {FRAME_BYTES_MAX}")
    (expected,) = _SUM.unpack_from(head, _HEAD.size)
    return FrameHead(kind, flags, sequence, length, expected, checksum(head[: _HEAD.size]))


def decode_body(head: FrameHead, body: Buffer) -> AnyMessage:
    """The message of a frame. Raises `PeerFault` for damaged, unknown or nonsensical ones.

    The blocks of DATA, where they are not packed, are a view of `body`.
    """
    if checksum(body, head.seed) != head.sum:
        raise PeerFault("a frame was damaged on the way")
    if head.kind == DATA_TYPE:
        return _decode_data(head.flags, body)
    decoder = _DECODERS.get(head.kind)
    if decoder is None:
        raise PeerFault(f"the other side sent a message of unknown type {head.kind}")
    try:
        return cast(AnyMessage, decoder.decode(body))
    except (ValueError, RecursionError) as e:  # text that is none, nesting without end
        raise PeerFault(f"a {TYPES[head.kind].__name__} message makes no sense: {e}") from e


def _decode_data(flags: int, body: Buffer) -> Data:
    if len(body) < _DATA.size:
        raise PeerFault("a DATA frame is too short")
    volume, count = _DATA.unpack_from(body)
    start = _DATA.size + 16 * count
    if not 1 <= count <= DATA_BLOCKS_MAX or len(body) < start:
        raise PeerFault(f"a DATA frame claims {count} blocks")
    view = memoryview(body)
    blocks, sums = array("Q"), array("Q")
    blocks.frombytes(view[_DATA.size : _DATA.size + 8 * count])
    sums.frombytes(view[_DATA.size + 8 * count : start])
    payload: Buffer = view[start:]
    if flags & FLAG_LZ4:
        try:
            payload = lz4.block.decompress(payload, uncompressed_size=count * BLOCK)
        except lz4.block.LZ4BlockError as e:
            raise PeerFault(f"a DATA frame cannot be decompressed: {e}") from e
    if len(payload) != count * BLOCK:
        raise PeerFault(f"a DATA frame of {count} blocks has {len(payload)} bytes")
    return Data(volume, blocks, sums, payload)


def size_of(pieces: Sequence[Buffer]) -> int:
    return sum(map(len, pieces))
