"""The NBD protocol, byte by byte: every constant, every layout, and nothing else.

Source: doc/proto.md of the NetworkBlockDevice/nbd project. All integers are big-endian.

Greeting (server)                          Client flags
  0   8  "NBDMAGIC"                          0   4  flags; a bit we do not know ends the session
  8   8  "IHAVEOPT"
  16  2  handshake flags

Option (client)                            Option reply (server)
  0   8  "IHAVEOPT"                          0   8  0x0003e889045565a9
  8   4  option                              8   4  the option answered
  12  4  length of data                      12  4  kind; bit 31 set = error
  16  .  data                                16  4  length of data
                                             20  .  data; for errors a text
EXPORT_NAME is answered in its own way: 8 size, 2 transmission flags, then 124 zeros unless both
sides said NO_ZEROES. It has no way to report an error but to close.

Data of INFO and GO                        Data of REP_SERVER, one reply an export
  0   4  length n of name                    0   4  length n of name
  4   n  name, UTF-8                         4   n  name
  .   2  count c                             .   .  description, the rest of the data
  .  2c  information wanted

Data of LIST_ and SET_META_CONTEXT         Data of REP_META_CONTEXT, one a context
  0   4  length n of export name             0   4  id, used in status replies; 0 for LIST
  4   n  export name                         4   .  name, the rest
  .   4  count of queries
  .   .  each: 4 length n, n query

Data of REP_INFO: 2 type, then
  EXPORT       8 size, 2 transmission flags
  NAME         canonical name, the rest
  DESCRIPTION  text, the rest
  BLOCK_SIZE   4 minimum, 4 preferred, 4 maximum payload

Request (client)                           Simple reply (server)
  0   4  0x25609513                          0   4  0x67446698
  4   2  command flags                       4   4  error, 0 = done
  6   2  command                             8   8  cookie
  8   8  cookie, returned as it came         16  .  data, only for a READ that worked
  16  8  offset
  24  4  length                            Structured reply chunk (server)
  28  .  payload, only for WRITE             0   4  0x668e33ef
                                             4   2  flags; bit 0 = last chunk
OFFSET_DATA chunk: 8 offset, data            6   2  type
ERROR chunk: 4 error, 2 length n, n text     8   8  cookie
BLOCK_STATUS chunk: 4 context, then          16  4  length of what follows
  extents: 4 length, 4 flags

With EXTENDED_HEADERS agreed there are no other requests and replies than these:

Extended request (client)                  Extended reply chunk (server)
  0   4  0x21e41c71                          0   4  0x6e8a278c
  4   2  command flags                       4   2  flags; bit 0 = last chunk
  6   2  command                             6   2  type; 0 = done, without data
  8   8  cookie                              8   8  cookie
  16  8  offset                              16  8  offset, returned as it came
  24  8  length; of the payload if           24  8  length of what follows
         PAYLOAD_LEN is set
  32  .  payload, only with PAYLOAD_LEN    BLOCK_STATUS_EXT chunk: 4 context, 4 count,
                                             then extents: 8 length, 8 flags
Payload of a BLOCK_STATUS: 8 length of the range, then 4 for each context wanted
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence
from itertools import chain
from struct import Struct
from sys import byteorder
from typing import Final

# --- what the specification fixes -------------------------------------------------------------

GREETING_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
EXTENDED_REQUEST_MAGIC: Final = 0x21E41C71
EXTENDED_REPLY_MAGIC: Final = 0x6E8A278C

FLAG_FIXED_NEWSTYLE: Final = 1 << 0  # the same bits in the server's and the client's flags
FLAG_NO_ZEROES: Final = 1 << 1
CLIENT_FLAGS_KNOWN: Final = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES

OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_LIST: Final = 3
OPT_STARTTLS: Final = 5
OPT_INFO: Final = 6
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10
OPT_EXTENDED_HEADERS: Final = 11

REP_ACK: Final = 1
REP_SERVER: Final = 2
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
REP_ERR_UNSUP: Final = (1 << 31) + 1
REP_ERR_POLICY: Final = (1 << 31) + 2
REP_ERR_INVALID: Final = (1 << 31) + 3
REP_ERR_TLS_REQD: Final = (1 << 31) + 5
REP_ERR_UNKNOWN: Final = (1 << 31) + 6
REP_ERR_TOO_BIG: Final = (1 << 31) + 9
REP_ERR_EXT_HEADER_REQD: Final = (1 << 31) + 10

INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3

SEND_HAS_FLAGS: Final = 1 << 0  # transmission flags
SEND_READ_ONLY: Final = 1 << 1
SEND_FLUSH: Final = 1 << 2
SEND_FUA: Final = 1 << 3
SEND_TRIM: Final = 1 << 5
SEND_WRITE_ZEROES: Final = 1 << 6
SEND_DF: Final = 1 << 7
SEND_CAN_MULTI_CONN: Final = 1 << 8
SEND_CACHE: Final = 1 << 10
SEND_FAST_ZERO: Final = 1 << 11
SEND_BLOCK_STATUS_PAYLOAD: Final = 1 << 12

READ: Final = 0  # commands
WRITE: Final = 1
DISC: Final = 2
FLUSH: Final = 3
TRIM: Final = 4
CACHE: Final = 5
WRITE_ZEROES: Final = 6
BLOCK_STATUS: Final = 7

CMD_FUA: Final = 1 << 0
CMD_NO_HOLE: Final = 1 << 1
CMD_DF: Final = 1 << 2
CMD_REQ_ONE: Final = 1 << 3
CMD_FAST_ZERO: Final = 1 << 4
CMD_PAYLOAD_LEN: Final = 1 << 5

CHUNK_DONE: Final = 1 << 0
CHUNK_NONE: Final = 0
CHUNK_OFFSET_DATA: Final = 1
CHUNK_BLOCK_STATUS: Final = 5
CHUNK_BLOCK_STATUS_EXT: Final = 6
CHUNK_ERROR: Final = (1 << 15) + 1

STRING_BYTES_MAX: Final = 4096  # of any name, description or error text
EXPORT_NAME_ZEROES: Final = bytes(124)

# The only errors the protocol knows. Any other is told as the nearest of them, or as EIO.
ERRNOS: Final = {
    errno.EPERM: errno.EPERM,
    errno.EROFS: errno.EPERM,
    errno.EACCES: errno.EPERM,
    errno.EIO: errno.EIO,
    errno.ENOMEM: errno.ENOMEM,
    errno.EINVAL: errno.EINVAL,
    errno.ENOSPC: errno.ENOSPC,
    errno.EDQUOT: errno.ENOSPC,
    errno.EFBIG: errno.ENOSPC,
    errno.EOVERFLOW: errno.EOVERFLOW,
    errno.EOPNOTSUPP: errno.EOPNOTSUPP,
    errno.ESHUTDOWN: errno.ESHUTDOWN,
}

# --- layouts ----------------------------------------------------------------------------------

GREETING: Final = Struct(">QQH")
CLIENT_FLAGS: Final = Struct(">I")
OPTION: Final = Struct(">QII")
OPTION_REPLY: Final = Struct(">QIII")
EXPORT: Final = Struct(">QH")
LENGTH: Final = Struct(">I")
COUNT: Final = Struct(">H")
INFO_EXPORT_DATA: Final = Struct(">HQH")
INFO_BLOCK_SIZE_DATA: Final = Struct(">HIII")
REQUEST: Final = Struct(">IHH8sQI")  # the cookie is opaque, so it stays bytes
SIMPLE_REPLY: Final = Struct(">II8s")
CHUNK: Final = Struct(">IHH8sI")
OFFSET_DATA: Final = Struct(">IHH8sIQ")
ERROR_CHUNK: Final = Struct(">IHH8sIIH")
STATUS_CHUNK: Final = Struct(">IHH8sII")
EXTENDED_REQUEST: Final = Struct(">IHH16sQ")  # cookie and offset in one: a reply returns both
EXTENDED_CHUNK: Final = Struct(">IHH16sQ")
EXTENDED_OFFSET_DATA: Final = Struct(">IHH16sQQ")
EXTENDED_ERROR_CHUNK: Final = Struct(">IHH16sQIH")
EXTENDED_STATUS_CHUNK: Final = Struct(">IHH16sQII")
STATUS_PAYLOAD: Final = Struct(">Q")

assert GREETING.size == 18
assert OPTION.size == 16
assert OPTION_REPLY.size == 20
assert EXPORT.size == 10
assert REQUEST.size == 28
assert SIMPLE_REPLY.size == 16
assert CHUNK.size == 20
assert EXTENDED_REQUEST.size == EXTENDED_CHUNK.size == 32

REQUEST_BYTES: Final = REQUEST.size
EXTENDED_REQUEST_BYTES: Final = EXTENDED_REQUEST.size
OPTION_BYTES: Final = OPTION.size

# A simple reply "done" is this and the cookie, so many of them are one `join`.
SIMPLE_DONE: Final = LENGTH.pack(SIMPLE_REPLY_MAGIC) + LENGTH.pack(0)

# The same with extended headers: this, cookie and offset, and a length of zero.
EXTENDED_DONE: Final = EXTENDED_CHUNK.pack(
    EXTENDED_REPLY_MAGIC, CHUNK_DONE, CHUNK_NONE, bytes(16), 0
)[:8]
EXTENDED_DONE_END: Final = bytes(8)


def greeting() -> bytes:
    return GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)


def text(words: str) -> bytes:
    """UTF-8 of `words`, cut to what a string of the protocol may hold, never inside a character."""
    data = words.encode("utf-8", "replace")
    if len(data) > STRING_BYTES_MAX:
        data = data[:STRING_BYTES_MAX].decode("utf-8", "ignore").encode()
    return data


def option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return OPTION_REPLY.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def export_reply(size: int, flags: int, *, zeroes: bool) -> bytes:
    """The answer to EXPORT_NAME."""
    return EXPORT.pack(size, flags) + (EXPORT_NAME_ZEROES if zeroes else b"")


def server_data(name: str, description: str) -> bytes:
    """Data of one REP_SERVER."""
    encoded = text(name)
    return LENGTH.pack(len(encoded)) + encoded + text(description)


def info_export(size: int, flags: int) -> bytes:
    return INFO_EXPORT_DATA.pack(INFO_EXPORT, size, flags)


def info_block_size(minimum: int, preferred: int, maximum: int) -> bytes:
    return INFO_BLOCK_SIZE_DATA.pack(INFO_BLOCK_SIZE, minimum, preferred, maximum)


def info_text(kind: int, words: str) -> bytes:
    return COUNT.pack(kind) + text(words)


def split_info_request(data: bytes) -> tuple[bytes, Sequence[int]] | None:
    """Name and wanted information of INFO or GO; None unless the lengths inside fit exactly."""
    if len(data) < LENGTH.size + COUNT.size:
        return None
    (name_length,) = LENGTH.unpack_from(data)
    count_at = LENGTH.size + name_length
    if count_at + COUNT.size > len(data):
        return None
    (count,) = COUNT.unpack_from(data, count_at)
    wanted_at = count_at + COUNT.size
    if wanted_at + COUNT.size * count != len(data):
        return None
    wanted = [item for (item,) in COUNT.iter_unpack(data[wanted_at:])]
    return data[LENGTH.size : count_at], wanted


def split_context_request(data: bytes) -> tuple[bytes, list[bytes]] | None:
    """Export name and queries of a meta context option; None unless the lengths fit exactly."""
    name = _string(data, 0)
    if name is None:
        return None
    at = LENGTH.size + len(name)
    if at + LENGTH.size > len(data):
        return None
    (count,) = LENGTH.unpack_from(data, at)
    at += LENGTH.size
    queries: list[bytes] = []
    for _ in range(count):
        query = _string(data, at)
        if query is None:
            return None
        queries.append(query)
        at += LENGTH.size + len(query)
    return (name, queries) if at == len(data) else None


def _string(data: bytes, at: int) -> bytes | None:
    """Length and string at a place; None if they are not all there."""
    start = at + LENGTH.size
    if start > len(data):
        return None
    (length,) = LENGTH.unpack_from(data, at)
    return data[start : start + length] if start + length <= len(data) else None


def meta_context(id: int, name: str) -> bytes:
    return LENGTH.pack(id) + text(name)


def simple_error(cookie: bytes, number: int) -> bytes:
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, ERRNOS.get(number, errno.EIO), cookie)


def error_chunk(cookie: bytes, number: int, words: str) -> bytes:
    message = text(words)
    head = ERROR_CHUNK.pack(
        STRUCTURED_REPLY_MAGIC,
        CHUNK_DONE,
        CHUNK_ERROR,
        cookie,
        LENGTH.size + COUNT.size + len(message),
        ERRNOS.get(number, errno.EIO),
        len(message),
    )
    return head + message


def data_chunk(cookie: bytes, offset: int, length: int) -> bytes:
    """Head of the one chunk that answers a READ; `length` bytes of data follow it."""
    return OFFSET_DATA.pack(
        STRUCTURED_REPLY_MAGIC, CHUNK_DONE, CHUNK_OFFSET_DATA, cookie, length + 8, offset
    )


def status_chunk(
    cookie: bytes, context: int, extents: Sequence[tuple[int, int]], *, last: bool
) -> bytes:
    """Lengths and flags of one context; each length is below 2^32."""
    head = STATUS_CHUNK.pack(
        STRUCTURED_REPLY_MAGIC,
        CHUNK_DONE if last else 0,
        CHUNK_BLOCK_STATUS,
        cookie,
        4 + 8 * len(extents),
        context,
    )
    return head + _words("I", extents)


def extended_error(cookie: bytes, number: int, words: str) -> bytes:
    message = text(words)
    head = EXTENDED_ERROR_CHUNK.pack(
        EXTENDED_REPLY_MAGIC,
        CHUNK_DONE,
        CHUNK_ERROR,
        cookie,
        LENGTH.size + COUNT.size + len(message),
        ERRNOS.get(number, errno.EIO),
        len(message),
    )
    return head + message


def extended_data(cookie: bytes, offset: int, length: int) -> bytes:
    """Head of the one chunk that answers a READ; `length` bytes of data follow it."""
    return EXTENDED_OFFSET_DATA.pack(
        EXTENDED_REPLY_MAGIC, CHUNK_DONE, CHUNK_OFFSET_DATA, cookie, length + 8, offset
    )


def extended_status(
    cookie: bytes, context: int, extents: Sequence[tuple[int, int]], *, last: bool
) -> bytes:
    head = EXTENDED_STATUS_CHUNK.pack(
        EXTENDED_REPLY_MAGIC,
        CHUNK_DONE if last else 0,
        CHUNK_BLOCK_STATUS_EXT,
        cookie,
        8 + 16 * len(extents),
        context,
        len(extents),
    )
    return head + _words("Q", extents)


def _words(kind: str, extents: Sequence[tuple[int, int]]) -> bytes:
    words = array(kind, chain.from_iterable(extents))
    if byteorder == "little":
        words.byteswap()
    return words.tobytes()


def split_status_payload(data: memoryview) -> tuple[int, tuple[int, ...]] | None:
    """Length of the range, and ids of the contexts; None if that is not what it holds."""
    ids = len(data) - STATUS_PAYLOAD.size
    if ids < 0 or ids % LENGTH.size:
        return None
    (length,) = STATUS_PAYLOAD.unpack_from(data)
    return length, tuple(id for (id,) in LENGTH.iter_unpack(data[STATUS_PAYLOAD.size :]))
