"""The first half of a session: the client's flags, then options, until one opens an export.

What needs the exports becomes a `Question`; the session stands still until it is answered, so
options that a client sent ahead wait in the buffer. Everything else is answered here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from isochrone.errors import IsochroneError, NotFound, PeerFault, TlsNeeded
from isochrone.nbd import wire
from isochrone.nbd.contexts import CONTEXTS_MAX, Context, matching, offered
from isochrone.nbd.inbox import Inbox
from isochrone.nbd.transmission import (
    BLOCK_BYTES_MAX,
    BLOCK_BYTES_MIN,
    BLOCK_BYTES_PREFERRED,
    export_flags,
)
from isochrone.types import KIB, Buffer, ExportInfo

OPTION_BYTES_MAX: Final = 64 * KIB  # a 4 KiB name, and every information there could ever be
OPTIONS_MAX: Final = 256  # a client needs a handful; a listing client two for each export it shows

WITHOUT_DATA: Final = frozenset(
    {wire.OPT_LIST, wire.OPT_STARTTLS, wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS}
)
MISFIT: Final = "the lengths inside do not fit the outer one"


class Ask(Enum):
    """What the client wants to know or have."""

    LIST = "list the exports"
    INFO = "describe an export, without opening it"
    CONTEXTS = "say which copies an export can be compared with"
    SECURE = "begin TLS; everything from here on belongs to it"
    OPEN = "open an export; from here on requests follow"


@dataclass(frozen=True, slots=True)
class Question:
    ask: Ask
    name: str = ""


class Tls(Enum):
    """What TLS is to a connection. It keeps one of the three all its life."""

    OFF = "not offered"
    OFFERED = "some exports need it"
    FORCED = "nothing else is answered before it"


@dataclass(slots=True)
class Agreed:
    """What was negotiated so far. Nothing of it survives STARTTLS."""

    structured: bool = False
    extended: bool = False  # implies structured
    contexts: list[Context] = field(default_factory=list)
    export: str = ""  # the contexts are of this one; for any other they do not count

    def contexts_of(self, export: str) -> list[Context]:
        return self.contexts if export == self.export else []


class Handshake:
    __slots__ = (
        "_fixed",
        "_option",
        "_options_seen",
        "_out",
        "_queries",
        "_tls",
        "_wanted",
        "_zeroes",
        "agreed",
        "secure",
    )

    def __init__(self, out: list[Buffer], tls: Tls = Tls.OFF) -> None:
        self._out = out
        self._tls = tls
        self.secure = False
        self._fixed = False
        self._zeroes = True
        self._option = 0  # the one that waits for an answer
        self._options_seen = 0
        self._wanted: frozenset[int] = frozenset()
        self._queries: list[str] = []
        self.agreed = Agreed()
        out.append(wire.greeting())

    def parse_flags(self, inbox: Inbox) -> bool:
        """Take the client's flags; False if they are not complete yet."""
        if inbox.end - inbox.start < wire.CLIENT_FLAGS.size:
            return False
        (flags,) = wire.CLIENT_FLAGS.unpack_from(inbox.view, inbox.start)
        inbox.start += wire.CLIENT_FLAGS.size
        if flags & ~wire.CLIENT_FLAGS_KNOWN:
            raise PeerFault(f"client flags {flags:#x} are not known here")
        self._fixed = bool(flags & wire.FLAG_FIXED_NEWSTYLE)
        self._zeroes = not flags & wire.FLAG_NO_ZEROES
        return True

    def parse_option(self, inbox: Inbox) -> tuple[int, bytes] | None:
        """The next option and its data; None if it is not complete yet."""
        inbox.frame = 0
        have = inbox.end - inbox.start
        if have < wire.OPTION_BYTES:
            return None
        magic, option, length = wire.OPTION.unpack_from(inbox.view, inbox.start)
        if magic != wire.OPTION_MAGIC:
            raise PeerFault(f"an option begins with {magic:#018x}")
        if not self._fixed and option != wire.OPT_EXPORT_NAME:
            raise PeerFault(f"option {option} from a client that did not agree to fixed newstyle")
        if length > OPTION_BYTES_MAX:
            # It would have to be read to be skipped, and 4 GiB of it are one header away.
            self._error(option, wire.REP_ERR_TOO_BIG, f"limit: {OPTION_BYTES_MAX} bytes of data")
            raise PeerFault(f"option {option} with {length} bytes; the limit is {OPTION_BYTES_MAX}")
        frame = wire.OPTION_BYTES + length
        if have < frame:
            inbox.frame = frame
            return None
        self._options_seen += 1
        if self._options_seen > OPTIONS_MAX:
            raise PeerFault(f"more than {OPTIONS_MAX} options")
        data = bytes(inbox.view[inbox.start + wire.OPTION_BYTES : inbox.start + frame])
        inbox.start += frame
        return option, data

    def take(self, option: int, data: bytes) -> Question | None:
        """Answer an option, or ask what is needed to answer it."""
        self._option = option
        if self._tls is Tls.FORCED and not self.secure and not self._before_tls(option):
            return None
        match option:
            case wire.OPT_EXPORT_NAME:
                if self.agreed.extended:
                    raise PeerFault("EXPORT_NAME after extended headers were agreed on")
                return Question(Ask.OPEN, self._only_name(data))
            case wire.OPT_INFO | wire.OPT_GO:
                return self._info_or_go(option, data)
            case wire.OPT_LIST_META_CONTEXT | wire.OPT_SET_META_CONTEXT:
                return self._contexts(option, data)
            case wire.OPT_ABORT:
                self._acknowledge()
            case wire.OPT_STARTTLS if self._tls is Tls.OFF:
                self._unknown(option)
            case _ if data and option in WITHOUT_DATA:
                self._error(option, wire.REP_ERR_INVALID, "this option has no data")
            case wire.OPT_LIST:
                return Question(Ask.LIST)
            case wire.OPT_STARTTLS if self.secure:
                self._error(option, wire.REP_ERR_INVALID, "TLS is in use already")
            case wire.OPT_STARTTLS:
                self._acknowledge()
                return Question(Ask.SECURE)
            case wire.OPT_STRUCTURED_REPLY if self.agreed.extended:
                words = "extended headers are agreed on already"
                self._error(option, wire.REP_ERR_EXT_HEADER_REQD, words)
            case wire.OPT_STRUCTURED_REPLY:
                self.agreed.structured = True
                self._acknowledge()
            case wire.OPT_EXTENDED_HEADERS:
                self.agreed.structured = self.agreed.extended = True
                self._acknowledge()
            case _:
                self._unknown(option)
        return None

    def _unknown(self, option: int) -> None:
        self._error(option, wire.REP_ERR_UNSUP, f"option {option} is not known here")

    def _before_tls(self, option: int) -> bool:
        """Whether an option may be taken in the clear where TLS is forced; if not, say so."""
        if option == wire.OPT_EXPORT_NAME:
            raise PeerFault("EXPORT_NAME without TLS, which this port requires")
        if option in (wire.OPT_STARTTLS, wire.OPT_ABORT):
            return True
        self._error(option, wire.REP_ERR_TLS_REQD, "this port requires TLS")
        return False

    def secured(self) -> None:
        """TLS begins. Whatever a middle man may have agreed to for us in the clear is forgotten."""
        self.agreed = Agreed()
        self.secure = True

    def _only_name(self, data: bytes) -> str:
        # No reply but the end of the connection can say no to this option.
        if len(data) > wire.STRING_BYTES_MAX:
            raise PeerFault(f"an export name of {len(data)} bytes")
        try:
            return _name(data)
        except ValueError as e:
            raise PeerFault(f"an export name that is not text: {data[:64]!r}") from e

    def _info_or_go(self, option: int, data: bytes) -> Question | None:
        parts = wire.split_info_request(data)
        if parts is None:
            self._error(option, wire.REP_ERR_INVALID, MISFIT)
            return None
        name = self._name_inside(option, parts[0])
        if name is None:
            return None
        self._wanted = frozenset(parts[1])
        return Question(Ask.INFO if option == wire.OPT_INFO else Ask.OPEN, name)

    def _contexts(self, option: int, data: bytes) -> Question | None:
        if option == wire.OPT_SET_META_CONTEXT:
            self.agreed.contexts = []  # also if this one is refused
            if not self.agreed.structured:
                words = "structured replies must be agreed on first"
                self._error(option, wire.REP_ERR_INVALID, words)
                return None
        parts = wire.split_context_request(data)
        if parts is None:
            self._error(option, wire.REP_ERR_INVALID, MISFIT)
            return None
        name = self._name_inside(option, parts[0])
        if name is None:
            return None
        # What cannot be a context's name is no error: it is none that we know.
        self._queries = [query.decode("utf-8", "replace") for query in parts[1]]
        return Question(Ask.CONTEXTS, name)

    def _name_inside(self, option: int, encoded: bytes) -> str | None:
        """The name in an option's data; None if it cannot be one, and that has been said."""
        if len(encoded) > wire.STRING_BYTES_MAX:
            limit = f"a name has at most {wire.STRING_BYTES_MAX} bytes"
            self._error(option, wire.REP_ERR_TOO_BIG, limit)
            return None
        try:
            return _name(encoded)
        except ValueError:
            self._error(option, wire.REP_ERR_INVALID, "a name is UTF-8 without NUL")
            return None

    def listing(self, exports: Iterable[ExportInfo]) -> None:
        """Answer LIST."""
        for export in exports:
            data = wire.server_data(export.name, export.description)
            self._out.append(wire.option_reply(self._option, wire.REP_SERVER, data))
        self._acknowledge()

    def describe(self, export: ExportInfo) -> None:
        """Answer INFO, GO or EXPORT_NAME with what the export is."""
        agreed = self.agreed
        flags = export_flags(
            read_only=export.read_only,
            structured=agreed.structured,
            status_payload=agreed.extended
            and (self._option == wire.OPT_INFO or bool(agreed.contexts_of(export.name))),
        )
        if self._option == wire.OPT_EXPORT_NAME:
            self._out.append(wire.export_reply(export.size, flags, zeroes=self._zeroes))
            return
        self._info(wire.info_export(export.size, flags))
        # Unasked too: a client that assumes 512 or 1024 works worse, and must ignore what it
        # does not know.
        self._info(wire.info_block_size(BLOCK_BYTES_MIN, BLOCK_BYTES_PREFERRED, BLOCK_BYTES_MAX))
        if wire.INFO_NAME in self._wanted:
            self._info(wire.info_text(wire.INFO_NAME, export.name))
        if wire.INFO_DESCRIPTION in self._wanted and export.description:
            self._info(wire.info_text(wire.INFO_DESCRIPTION, export.description))
        self._acknowledge()

    def offer(self, export: str, copies: Mapping[str, int]) -> None:
        """Answer LIST_ or SET_META_CONTEXT for an export, by the name it has here."""
        listing = self._option == wire.OPT_LIST_META_CONTEXT
        found = matching(offered(copies), self._queries, listing=listing)
        if not listing:
            if len(found) > CONTEXTS_MAX:
                words = f"limit: {CONTEXTS_MAX} contexts at a time"
                self._error(self._option, wire.REP_ERR_TOO_BIG, words)
                return
            self.agreed.contexts, self.agreed.export = found, export
        for context in found:
            data = wire.meta_context(0 if listing else context.id, context.name)
            self._out.append(wire.option_reply(self._option, wire.REP_META_CONTEXT, data))
        self._acknowledge()

    def refuse(self, error: IsochroneError) -> None:
        """Say no to the option that waits for an answer."""
        words = f"{error.message}; {error.hint}" if error.hint else error.message
        if self._option == wire.OPT_EXPORT_NAME:
            raise PeerFault(f"cannot be told over EXPORT_NAME: {words}")
        kind = wire.REP_ERR_POLICY
        if isinstance(error, NotFound):
            kind = wire.REP_ERR_UNKNOWN
        elif isinstance(error, TlsNeeded):
            kind = wire.REP_ERR_TLS_REQD
        self._error(self._option, kind, words)

    def _info(self, data: bytes) -> None:
        self._out.append(wire.option_reply(self._option, wire.REP_INFO, data))

    def _acknowledge(self) -> None:
        self._out.append(wire.option_reply(self._option, wire.REP_ACK))

    def _error(self, option: int, kind: int, words: str) -> None:
        self._out.append(wire.option_reply(option, kind, wire.text(words)))


def _name(data: bytes) -> str:
    """Raises `ValueError` for what cannot be a name."""
    if b"\0" in data:
        raise ValueError("NUL in a name")
    return data.decode("utf-8")
