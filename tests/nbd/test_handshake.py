"""Options: each one, each way to get it wrong."""

from __future__ import annotations

import pytest

from isochrone.errors import Conflict, NotFound
from isochrone.nbd import handshake, wire
from isochrone.nbd.connection import Ask, Connection, Phase, Question
from isochrone.types import ExportInfo
from tests.nbd.serving import info_data, option

DISK = ExportInfo("disk", 1 << 20, read_only=False, description="a disk")
FLAGS = wire.SEND_HAS_FLAGS | wire.SEND_FLUSH | wire.SEND_FUA | wire.SEND_CACHE
FLAGS |= wire.SEND_CAN_MULTI_CONN
CHANGES = wire.SEND_TRIM | wire.SEND_WRITE_ZEROES | wire.SEND_FAST_ZERO


def begin(flags: int = 3) -> Connection:
    connection = Connection()
    assert b"".join(connection.output()) == wire.greeting()
    connection.receive_data(wire.CLIENT_FLAGS.pack(flags))
    return connection


def replies(connection: Connection) -> list[tuple[int, int, bytes]]:
    """(option, kind, data) of everything to be sent."""
    data = b"".join(connection.output())
    found = []
    while data:
        magic, number, kind, length = wire.OPTION_REPLY.unpack_from(data)
        assert magic == wire.OPTION_REPLY_MAGIC
        found.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def kinds(connection: Connection) -> list[int]:
    return [kind for _, kind, _ in replies(connection)]


# -- flags


@pytest.mark.parametrize("flags", [4, 1 << 31, 7])
def test_unknown_client_flags_end_the_session(flags) -> None:
    connection = begin(flags)
    assert connection.phase is Phase.CLOSED
    assert "flags" in connection.fault


def test_without_fixed_newstyle_only_export_name_is_understood() -> None:
    connection = begin(0)
    connection.receive_data(option(wire.OPT_LIST))
    assert connection.phase is Phase.CLOSED
    connection = begin(0)
    connection.receive_data(option(wire.OPT_EXPORT_NAME, b"disk"))
    assert connection.question == Question(Ask.OPEN, "disk")


# -- export name


@pytest.mark.parametrize(("flags", "zeros"), [(1, 124), (3, 0), (0, 124), (2, 0)])
def test_export_name_with_and_without_zeroes(flags, zeros) -> None:
    connection = begin(flags)
    connection.receive_data(option(wire.OPT_EXPORT_NAME, b"disk"))
    connection.opened(DISK)
    sent = b"".join(connection.output())
    assert wire.EXPORT.unpack(sent[:10]) == (1 << 20, FLAGS | CHANGES)
    assert sent[10:] == bytes(zeros)
    assert connection.phase is Phase.REQUESTS


@pytest.mark.parametrize("name", ["", "two words", "vol@snap", "/a/b", "größe", "x" * 4096])
def test_names(name) -> None:
    for number in (wire.OPT_INFO, wire.OPT_GO):
        connection = begin()
        connection.receive_data(option(number, info_data(name.encode())))
        assert connection.question is not None
        assert connection.question.name == name
    connection = begin()
    connection.receive_data(option(wire.OPT_EXPORT_NAME, name.encode()))
    assert connection.question == Question(Ask.OPEN, name)


@pytest.mark.parametrize("name", [b"x" * 4097, b"\xff", b"a\0b"])
def test_an_impossible_export_name_can_only_end_the_session(name) -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_EXPORT_NAME, name))
    assert connection.phase is Phase.CLOSED
    assert connection.question is None
    assert connection.output() == []


def test_an_export_name_that_is_refused_ends_the_session() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_EXPORT_NAME, b"gone"))
    connection.refuse(NotFound("there is no export 'gone'"))
    assert connection.phase is Phase.CLOSED
    assert "there is no export 'gone'" in connection.fault


# -- list


def test_list() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_LIST))
    assert connection.question == Question(Ask.LIST)
    assert connection.phase is Phase.ASKING
    connection.listing([DISK, ExportInfo("b c", 1, read_only=True, description="")])
    assert replies(connection) == [
        (wire.OPT_LIST, wire.REP_SERVER, b"\0\0\0\4diska disk"),
        (wire.OPT_LIST, wire.REP_SERVER, b"\0\0\0\3b c"),
        (wire.OPT_LIST, wire.REP_ACK, b""),
    ]
    assert connection.phase is Phase.OPTIONS


def test_list_may_be_refused() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_LIST))
    connection.refuse(Conflict("not now"))
    assert replies(connection) == [(wire.OPT_LIST, wire.REP_ERR_POLICY, b"not now")]


@pytest.mark.parametrize("number", [wire.OPT_LIST, wire.OPT_STRUCTURED_REPLY])
def test_options_without_data(number) -> None:
    connection = begin()
    connection.receive_data(option(number, b"x"))
    assert kinds(connection) == [wire.REP_ERR_INVALID]
    assert connection.phase is Phase.OPTIONS


# -- info and go


@pytest.mark.parametrize("number", [wire.OPT_INFO, wire.OPT_GO])
def test_info_and_go_say_what_was_asked(number) -> None:
    connection = begin()
    wanted = (wire.INFO_NAME, wire.INFO_DESCRIPTION, wire.INFO_BLOCK_SIZE, 77)
    connection.receive_data(option(number, info_data(b"", *wanted)))
    if number == wire.OPT_GO:
        connection.opened(DISK)
        assert connection.phase is Phase.REQUESTS
    else:
        connection.describe(DISK)
        assert connection.phase is Phase.OPTIONS
    assert replies(connection) == [
        (number, wire.REP_INFO, wire.info_export(1 << 20, FLAGS | CHANGES)),
        (number, wire.REP_INFO, wire.info_block_size(1, 4096, 1 << 25)),
        (number, wire.REP_INFO, b"\0\1disk"),
        (number, wire.REP_INFO, b"\0\2a disk"),
        (number, wire.REP_ACK, b""),
    ]


def test_what_was_asked_of_one_option_is_forgotten_with_it() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_INFO, info_data(b"", wire.INFO_NAME)))
    connection.describe(DISK)
    assert len(replies(connection)) == 4
    connection.receive_data(option(wire.OPT_INFO, info_data(b"")))
    connection.describe(DISK)
    assert len(replies(connection)) == 3


def test_flags_of_a_read_only_export() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_STRUCTURED_REPLY))
    connection.receive_data(option(wire.OPT_GO, info_data(b"")))
    connection.opened(ExportInfo("s", 512, read_only=True, description=""))
    told = replies(connection)[1][2]
    assert told == wire.info_export(512, FLAGS | wire.SEND_READ_ONLY | wire.SEND_DF)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFound("no such export", hint="look"), wire.REP_ERR_UNKNOWN),
        (Conflict("no such export", hint="look"), wire.REP_ERR_POLICY),
    ],
)
def test_a_refused_go_leaves_the_session_open(error, kind) -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_GO, info_data(b"gone")))
    connection.refuse(error)
    assert replies(connection) == [(wire.OPT_GO, kind, b"no such export; look")]
    assert connection.phase is Phase.OPTIONS


@pytest.mark.parametrize("number", [wire.OPT_INFO, wire.OPT_GO])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", wire.REP_ERR_INVALID),
        (b"\0\0\0\0", wire.REP_ERR_INVALID),
        (b"\0\0\0\4disk\0\1", wire.REP_ERR_INVALID),
        (info_data(b"disk") + b"x", wire.REP_ERR_INVALID),
        (info_data(b"\xff\xfe"), wire.REP_ERR_INVALID),
        (info_data(b"a\0"), wire.REP_ERR_INVALID),
        (b"\xff\xff\xff\xff" + bytes(100), wire.REP_ERR_INVALID),
        (info_data(b"x" * 4097), wire.REP_ERR_TOO_BIG),
    ],
)
def test_cve_2022_26495_and_26496_bad_lengths_and_names(number, data, kind) -> None:
    connection = begin()
    connection.receive_data(option(number, data))
    assert connection.question is None
    assert kinds(connection) == [kind]
    assert connection.phase is Phase.OPTIONS


def test_cve_2017_15118_a_name_of_4096_bytes_and_its_error_text() -> None:
    """Also CVE-2020-10761: the error text names the long name, and must fit all the same."""
    connection = begin()
    connection.receive_data(option(wire.OPT_GO, info_data(b"n" * 4096)))
    connection.refuse(NotFound(f"there is no export {'n' * 4096!r}"))
    ((_, kind, data),) = replies(connection)
    assert kind == wire.REP_ERR_UNKNOWN
    assert len(data) == 4096


# -- the rest


def test_structured_replies() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_STRUCTURED_REPLY) * 2)
    assert kinds(connection) == [wire.REP_ACK] * 2


def test_abort() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_ABORT, b"bye") + b"ignored")
    assert replies(connection) == [(wire.OPT_ABORT, wire.REP_ACK, b"")]
    assert connection.phase is Phase.CLOSED
    assert connection.fault == ""


@pytest.mark.parametrize("number", [0, 4, 5, 9, 10, 11, 4711, 2**32 - 1])
def test_unknown_options_are_skipped_by_their_length(number) -> None:
    connection = begin()
    connection.receive_data(option(number, b"x" * 1000) + option(wire.OPT_LIST))
    ((told, kind, _),) = replies(connection)
    assert (told, kind) == (number, wire.REP_ERR_UNSUP)
    assert connection.question == Question(Ask.LIST)


def test_the_longest_option_is_taken() -> None:
    connection = begin()
    connection.receive_data(option(4711, bytes(handshake.OPTION_BYTES_MAX)))
    assert kinds(connection) == [wire.REP_ERR_UNSUP]


@pytest.mark.parametrize("length", [handshake.OPTION_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_cve_2017_15119_a_huge_option_is_not_drained(length) -> None:
    connection = begin()
    connection.receive_data(wire.OPTION.pack(wire.OPTION_MAGIC, 4711, length))
    assert kinds(connection) == [wire.REP_ERR_TOO_BIG]
    assert connection.phase is Phase.CLOSED
    assert len(connection.get_buffer()) < 1 << 17


@pytest.mark.parametrize("data", [b"\0" * 16, b"IHAVEOPS" + bytes(8), b"GET / HTTP/1.1\r\n"])
def test_cve_2017_7539_unexpected_data_during_negotiation(data) -> None:
    connection = begin()
    connection.receive_data(data)
    assert connection.phase is Phase.CLOSED
    assert connection.fault


def test_a_client_cannot_negotiate_for_ever() -> None:
    connection = begin()
    connection.receive_data(option(4711) * handshake.OPTIONS_MAX)
    assert connection.phase is Phase.OPTIONS
    connection.receive_data(option(4711))
    assert connection.phase is Phase.CLOSED


def test_cve_2019_14851_requests_before_an_export_are_no_options() -> None:
    connection = begin()
    request = wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, wire.READ, bytes(8), 0, 512)
    assert connection.receive_data(request) == []
    assert connection.phase is Phase.CLOSED
