"""Options: each one, each way to get it wrong."""

from __future__ import annotations

import pytest

from isochrone.errors import Conflict, NotFound, TlsNeeded
from isochrone.nbd import handshake, wire
from isochrone.nbd.connection import Ask, Connection, Phase, Question, Tls
from isochrone.nbd.extended import ExtendedTransmission
from isochrone.types import ExportInfo
from tests.nbd.serving import context_data, info_data, option

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


@pytest.mark.parametrize(
    "number", [wire.OPT_LIST, wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS]
)
def test_options_without_data(number) -> None:
    connection = begin()
    connection.receive_data(option(number, b"x"))
    assert kinds(connection) == [wire.REP_ERR_INVALID]
    assert connection.phase is Phase.OPTIONS


# -- contexts

BOTH = pytest.mark.parametrize("number", [wire.OPT_LIST_META_CONTEXT, wire.OPT_SET_META_CONTEXT])
SET = wire.OPT_SET_META_CONTEXT


def agree(connection: Connection, *options: int) -> Connection:
    for number in options:
        connection.receive_data(option(number))
    assert set(kinds(connection)) == {wire.REP_ACK}
    return connection


def structured() -> Connection:
    return agree(begin(), wire.OPT_STRUCTURED_REPLY)


def set_contexts(connection: Connection, *queries: bytes, export: str = "disk") -> list[int]:
    connection.receive_data(option(SET, context_data(export.encode(), *queries)))
    connection.offer(export, {"copy": 77})
    return kinds(connection)


def go(connection: Connection, export: str = "disk") -> list[str]:
    """Open an export; names of the contexts that are then in use."""
    connection.receive_data(option(wire.OPT_GO, info_data(export.encode())))
    connection.opened(ExportInfo(export, 1 << 20, read_only=False, description=""))
    return [context.name for context in connection.contexts]


def test_list_meta_context() -> None:
    connection = begin()
    connection.receive_data(option(wire.OPT_LIST_META_CONTEXT, context_data(b"d")))
    assert connection.question == Question(Ask.CONTEXTS, "d")
    connection.offer("d", {"c": 77})
    number = wire.OPT_LIST_META_CONTEXT
    assert replies(connection) == [
        (number, wire.REP_META_CONTEXT, b"\0\0\0\0base:allocation"),
        (number, wire.REP_META_CONTEXT, b"\0\0\0\0qemu:allocation-depth"),
        (number, wire.REP_META_CONTEXT, b"\0\0\0\0qemu:dirty-bitmap:c"),
        (number, wire.REP_ACK, b""),
    ]
    assert connection.phase is Phase.OPTIONS


def test_set_meta_context() -> None:
    connection = structured()
    queries = (b"x-unknown:thing", b"qemu:dirty-bitmap:copy", b"\xff", b"base:allocation")
    connection.receive_data(option(SET, context_data(b"disk", *queries)))
    connection.offer("disk", {"copy": 77})
    assert replies(connection) == [
        (SET, wire.REP_META_CONTEXT, b"\0\0\0\0base:allocation"),
        (SET, wire.REP_META_CONTEXT, b"\0\0\0\2qemu:dirty-bitmap:copy"),
        (SET, wire.REP_ACK, b""),
    ]
    assert go(connection) == ["base:allocation", "qemu:dirty-bitmap:copy"]
    assert connection.contexts[1].copy == 77


def test_unknown_contexts_are_no_error_and_no_context() -> None:
    connection = structured()
    assert set_contexts(connection, b"x-a:b", b"base:", b"", b"x" * 5000) == [wire.REP_ACK]
    assert go(connection) == []


def test_set_without_structured_replies_is_refused_and_list_is_not() -> None:
    connection = begin()
    connection.receive_data(option(SET, context_data(b"disk", b"base:allocation")))
    assert connection.question is None
    assert kinds(connection) == [wire.REP_ERR_INVALID]
    connection.receive_data(option(wire.OPT_LIST_META_CONTEXT, context_data(b"disk")))
    assert connection.question == Question(Ask.CONTEXTS, "disk")


def test_contexts_of_another_export_do_not_count() -> None:
    connection = structured()
    set_contexts(connection, b"base:allocation", export="other")
    assert go(connection, "disk") == []


def test_contexts_count_for_the_default_export_by_its_own_name() -> None:
    connection = structured()
    connection.receive_data(option(SET, context_data(b"", b"base:allocation")))
    connection.offer("disk", {})
    connection.output()
    assert go(connection, "disk") == ["base:allocation"]


@pytest.mark.parametrize("how", ["nothing", "unknown export", "bad data", "bad name"])
def test_a_later_set_forgets_the_earlier_one_even_if_it_fails(how) -> None:
    connection = structured()
    set_contexts(connection, b"base:allocation")
    if how == "nothing":
        assert set_contexts(connection) == [wire.REP_ACK]
    elif how == "unknown export":
        connection.receive_data(option(SET, context_data(b"gone", b"base:allocation")))
        connection.refuse(NotFound("gone"))
        assert kinds(connection) == [wire.REP_ERR_UNKNOWN]
    else:
        data = b"?" if how == "bad data" else context_data(b"\xff")
        connection.receive_data(option(SET, data))
        assert kinds(connection) == [wire.REP_ERR_INVALID]
    assert go(connection) == []


def test_too_many_contexts_at_once() -> None:
    connection = structured()
    copies = {f"c{i}": i for i in range(100)}
    queries = [f"qemu:dirty-bitmap:{name}".encode() for name in copies]
    connection.receive_data(option(SET, context_data(b"disk", *queries)))
    connection.offer("disk", copies)
    assert kinds(connection) == [wire.REP_ERR_TOO_BIG]
    assert go(connection) == []


@BOTH
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\4disk",
        b"\0\0\0\4disk\0\0\0\1",
        b"\0\0\0\4disk\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\0\0\0\0",
        b"\0\0\0\4disk\0\0\0\1\0\0\0\3ab",
        b"\0\0\0\4disk\0\0\0\0x",
    ],
)
def test_cve_2022_26496_lengths_inside_context_options(number, data) -> None:
    connection = structured()
    connection.receive_data(option(number, data))
    assert connection.question is None
    assert kinds(connection) == [wire.REP_ERR_INVALID]


# -- extended headers


def test_extended_headers_imply_structured_replies() -> None:
    connection = agree(begin(), wire.OPT_EXTENDED_HEADERS)
    connection.receive_data(option(wire.OPT_STRUCTURED_REPLY))
    assert kinds(connection) == [wire.REP_ERR_EXT_HEADER_REQD]
    assert set_contexts(connection, b"base:allocation")[-1] == wire.REP_ACK
    connection.receive_data(option(wire.OPT_GO, info_data(b"disk")))
    connection.opened(DISK)
    _, flags = wire.EXPORT.unpack(replies(connection)[0][2][2:])
    assert flags == FLAGS | CHANGES | wire.SEND_DF | wire.SEND_BLOCK_STATUS_PAYLOAD
    assert isinstance(connection._transmission, ExtendedTransmission)


def test_status_payload_is_offered_only_with_contexts() -> None:
    connection = agree(begin(), wire.OPT_EXTENDED_HEADERS)
    connection.receive_data(option(wire.OPT_GO, info_data(b"disk")))
    connection.opened(DISK)
    _, flags = wire.EXPORT.unpack(replies(connection)[0][2][2:])
    assert not flags & wire.SEND_BLOCK_STATUS_PAYLOAD


def test_export_name_after_extended_headers_ends_the_session() -> None:
    connection = agree(begin(), wire.OPT_EXTENDED_HEADERS)
    connection.receive_data(option(wire.OPT_EXPORT_NAME, b"disk"))
    assert connection.phase is Phase.CLOSED


# -- TLS

STARTTLS = option(wire.OPT_STARTTLS)


def with_tls(tls: Tls) -> Connection:
    connection = Connection(tls)
    connection.receive_data(wire.CLIENT_FLAGS.pack(3))
    connection.output()
    return connection


def test_starttls_where_it_is_not_offered() -> None:
    connection = begin()
    connection.receive_data(STARTTLS)
    assert kinds(connection) == [wire.REP_ERR_UNSUP]


@pytest.mark.parametrize("number", [3, 6, 7, 8, 9, 10, 11, 4711])
def test_forced_tls_answers_nothing_else_before_it(number) -> None:
    connection = with_tls(Tls.FORCED)
    connection.receive_data(option(number, info_data(b"disk")))
    assert connection.question is None
    assert kinds(connection) == [wire.REP_ERR_TLS_REQD]
    connection.receive_data(STARTTLS)
    assert connection.question == Question(Ask.SECURE)


def test_forced_tls_ends_the_session_at_export_name() -> None:
    connection = with_tls(Tls.FORCED)
    connection.receive_data(option(wire.OPT_EXPORT_NAME, b"disk"))
    assert connection.phase is Phase.CLOSED
    assert connection.question is None
    assert connection.output() == []


def test_forced_tls_lets_a_client_say_goodbye() -> None:
    connection = with_tls(Tls.FORCED)
    connection.receive_data(option(wire.OPT_ABORT))
    assert kinds(connection) == [wire.REP_ACK]
    assert connection.phase is Phase.CLOSED


@pytest.mark.parametrize("tls", [Tls.FORCED, Tls.OFFERED])
def test_after_starttls_everything_is_answered_and_a_second_one_refused(tls) -> None:
    connection = with_tls(tls)
    connection.receive_data(option(wire.OPT_STARTTLS, b"data"))
    assert kinds(connection) == [wire.REP_ERR_INVALID]
    connection.receive_data(STARTTLS)
    assert kinds(connection) == [wire.REP_ACK]
    connection.secured()
    assert connection.secure
    connection.receive_data(STARTTLS)
    assert kinds(connection) == [wire.REP_ERR_INVALID]
    connection.receive_data(option(wire.OPT_LIST))
    assert connection.question == Question(Ask.LIST)


@pytest.mark.parametrize("number", [wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS])
def test_cve_2021_3716_starttls_forgets_what_was_agreed_in_the_clear(number) -> None:
    connection = agree(with_tls(Tls.OFFERED), number)
    set_contexts(connection, b"base:allocation")
    connection.receive_data(option(wire.OPT_INFO, info_data(b"disk", wire.INFO_NAME)))
    connection.describe(DISK)
    connection.receive_data(STARTTLS)
    connection.secured()
    connection.output()
    connection.receive_data(option(SET, context_data(b"disk", b"base:allocation")))
    assert kinds(connection) == [wire.REP_ERR_INVALID]
    connection.receive_data(option(wire.OPT_GO, info_data(b"disk")))
    connection.opened(DISK)
    assert connection.contexts == []
    assert not isinstance(connection._transmission, ExtendedTransmission)
    assert replies(connection)[0][2] == wire.info_export(1 << 20, FLAGS | CHANGES)


@pytest.mark.parametrize("behind", [b"\x16\x03\x01", option(wire.OPT_LIST), b"x"])
def test_cve_2021_3716_bytes_behind_starttls_end_the_session(behind) -> None:
    connection = with_tls(Tls.OFFERED)
    connection.receive_data(STARTTLS + behind)
    connection.secured()
    assert connection.phase is Phase.CLOSED
    assert not connection.secure
    assert connection.fault


def test_an_export_that_needs_tls() -> None:
    connection = with_tls(Tls.OFFERED)
    connection.receive_data(option(wire.OPT_GO, info_data(b"disk")))
    connection.refuse(TlsNeeded("'disk' is served over TLS only"))
    assert kinds(connection) == [wire.REP_ERR_TLS_REQD]
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


@pytest.mark.parametrize("number", [0, 4, 5, 12, 13, 4711, 2**32 - 1])
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
