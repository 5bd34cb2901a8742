"""Hostile clients: sessions of frames that are almost right, from a seed.

A session that is all noise ends at its first magic number and tests nothing behind it. So most of
what is made here is a good session with one thing wrong: a length, a flag, an order, a number near
2^32 or 2^64, a byte flipped, an end cut off.
"""

from __future__ import annotations

from random import Random
from struct import Struct

from isochrone.errors import IsochroneError
from isochrone.nbd import wire
from isochrone.nbd.connection import Ask, Phase, Question, Request
from isochrone.nbd.inbox import FRAME_BYTES_MAX, RECEIVE_BYTES_MAX
from isochrone.nbd.turn import Seat, take_turn
from isochrone.types import MIB, Device, ExportInfo
from tests.nbd.memory import MemoryBackend

SIZE = MIB  # of the exports that are attacked
EXTENDED = Struct(">IHH8sQQ")
NUMBERS = (
    *(0, 1, 2, 511, 512, 4095, 4096, 4097, 65535, 65536),
    *(SIZE - 1, SIZE, SIZE + 1, 32 * MIB, 64 * MIB, 64 * MIB + 1),
    *(2**31 - 1, 2**31, 2**32 - 4096, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 4096, 2**64 - 1),
)
NAMES = (b"disk", b"", b"frozen", b"nothing", b"x" * 256, b"y" * 4096, b"z" * 4097, b"\0", b"\xff")
QUERIES = (b"base:", b"base:allocation", b"qemu:dirty-bitmap:", b"qemu:allocation-depth", b":", b"")
PAYLOAD = bytes(range(256)) * 64


class Hostile:
    """Makes sessions; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)
        self._parts: list[bytes] = []
        self._extended = False

    def session(self) -> tuple[list[bytes], int]:
        """Bytes in the pieces they are sent in, and how many frames these are."""
        dice, self._parts = self._dice, []
        frames = 2
        flags = 3 if dice.random() < 0.95 else dice.choice((0, 1, 2, 4, 2**32 - 1))
        self._parts.append(wire.CLIENT_FLAGS.pack(flags))
        agreed = dice.choice((0, wire.OPT_STRUCTURED_REPLY, wire.OPT_EXTENDED_HEADERS))
        self._extended = agreed == wire.OPT_EXTENDED_HEADERS
        if agreed:
            self._parts.append(wire.OPTION.pack(wire.OPTION_MAGIC, agreed, 0))
        for _ in range(dice.choice((0, 0, 1, 2, 3, 8))):
            self._option()
            frames += 1
        if agreed and dice.random() < 0.5:
            query = wire.LENGTH.pack(len(QUERIES[1])) + QUERIES[1]
            data = wire.LENGTH.pack(4) + b"disk" + wire.LENGTH.pack(1) + query
            head = wire.OPTION.pack(wire.OPTION_MAGIC, wire.OPT_SET_META_CONTEXT, len(data))
            self._parts.append(head + data)
        self._open()
        for _ in range(dice.choice((1, 4, 16, 32, 64))):
            self._request()
            frames += 1
        return self._pieces(), frames

    def _option(self) -> None:
        dice = self._dice
        number = dice.choice((3, 4, 5, 6, 6, 9, 9, 10, 10, 10, 12, 2**32 - 1))
        chance = dice.random()
        if chance < 0.05:
            number = dice.choice((1, 2, 7, 8, 11))  # these end the options, or change what follows
        if number in (wire.OPT_INFO, wire.OPT_GO) and chance < 0.7:
            data = self._info(dice.choice(NAMES))
        elif number in (wire.OPT_SET_META_CONTEXT, wire.OPT_LIST_META_CONTEXT) and chance < 0.9:
            data = self._queries()
        elif chance < 0.7:
            data = b""
        else:
            data = dice.randbytes(dice.choice((1, 3, 4, 6, 100, 5000)))
        length = len(data) if dice.random() < 0.98 else dice.choice(NUMBERS) & 0xFFFFFFFF
        self._parts.append(wire.OPTION.pack(wire.OPTION_MAGIC, number, length) + data)

    def _info(self, name: bytes) -> bytes:
        dice = self._dice
        wanted = [dice.choice((0, 1, 2, 3, 4, 65535)) for _ in range(dice.choice((0, 0, 2, 9)))]
        length = self._inner(len(name))
        counts = b"".join(wire.COUNT.pack(n) for n in (self._inner(len(wanted)) & 0xFFFF, *wanted))
        return wire.LENGTH.pack(length) + name + counts

    def _queries(self) -> bytes:
        dice = self._dice
        name = dice.choice(NAMES)
        queries = [dice.choice(QUERIES) for _ in range(dice.choice((0, 1, 1, 3, 40)))]
        data = wire.LENGTH.pack(self._inner(len(name))) + name
        data += wire.LENGTH.pack(self._inner(len(queries)))
        return data + b"".join(wire.LENGTH.pack(self._inner(len(q))) + q for q in queries)

    def _inner(self, length: int) -> int:
        """A length inside; seldom the wrong one."""
        if self._dice.random() < 0.97:
            return length
        return self._dice.choice((0, length + 1, 2**31, 2**32 - 1))

    def _open(self) -> None:
        name = self._dice.choice((b"disk",) * 7 + (b"frozen", b"", b"nothing"))
        if self._dice.random() < 0.3 and not self._extended:
            option, data = wire.OPT_EXPORT_NAME, name
        else:
            option, data = wire.OPT_GO, wire.LENGTH.pack(len(name)) + name + wire.COUNT.pack(0)
        self._parts.append(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)) + data)

    def _request(self) -> None:
        dice = self._dice
        chance = dice.random()
        command = dice.choice((0, 1, 1, 3, 4, 5, 6, 7)) if chance < 0.98 else dice.randrange(65536)
        flags = 0 if chance < 0.7 else dice.choice((1, 1, 2, 4, 8, 16, 17))
        if chance > 0.995:
            flags = dice.choice((32, 33, 63, 64, 65535))
        if dice.random() < (0.98 if command == wire.WRITE else 0.8):
            length = dice.choice((0, 1, 512, 512, 4096, 4096, 16384))
            offset = dice.randrange(SIZE)
        else:
            length, offset = dice.choice(NUMBERS), dice.choice(NUMBERS)
        if command == wire.FLUSH and dice.random() < 0.9:
            length = offset = 0
        cookie = dice.randbytes(8)
        payload = PAYLOAD[: min(length, len(PAYLOAD))] if command == wire.WRITE else b""
        if command == wire.WRITE and self._extended and dice.random() < 0.98:
            flags |= wire.CMD_PAYLOAD_LEN
        if self._extended is not (dice.random() < 0.002):
            magic = wire.EXTENDED_REQUEST_MAGIC
            head = EXTENDED.pack(magic, flags, command, cookie, offset, length)
        else:
            magic = wire.REQUEST_MAGIC
            head = wire.REQUEST.pack(magic, flags, command, cookie, offset, length & 0xFFFFFFFF)
        self._parts += (head, payload)

    def _pieces(self) -> list[bytes]:
        """Break something about the whole, and cut it into what one send carries."""
        dice, data = self._dice, bytearray(b"".join(self._parts))
        chance = dice.random()
        if chance < 0.15:
            at = dice.randrange(len(data))
            data[at] ^= 1 << dice.randrange(8)
        elif chance < 0.25:
            del data[dice.randrange(len(data)) :]
        elif chance < 0.3:
            at = dice.randrange(len(data))
            data[at:at] = dice.randbytes(dice.choice((1, 4, 28, 1000)))
        elif chance < 0.35:
            data += data[-dice.randrange(1, len(data) + 1) :]
        if dice.random() < 0.5:
            return [bytes(data)]
        step = dice.choice((1, 7, 28, 1000, 5000)) if len(data) < 5000 else 3000
        return [bytes(data[at : at + step]) for at in range(0, len(data), step)]


class Target:
    """Sessions without sockets, against devices in memory."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.backend.add("disk", SIZE)
        frozen = self.backend.add("frozen", SIZE, read_only=True)
        frozen.content[:] = b"f" * SIZE
        self.frozen = bytes(frozen.content)
        self.faults = 0  # sessions that ended because the peer broke the protocol
        self.sent = 0  # bytes of replies

    def attack(self, pieces: list[bytes]) -> None:
        """One session. Raises `AssertionError` where a promise is broken, or whatever got out."""
        seat = Seat()
        connection = seat.connection
        for piece in pieces:
            seat.requests += connection.receive_data(piece)
            while connection.question is not None:
                seat.requests += self._answer(seat, connection.question)
            self._turns(seat)
            if connection.phase is Phase.CLOSED:
                break
        if connection.fault:
            self.faults += 1
            if len(connection.fault) > 5000:
                raise AssertionError("a peer makes us write long lines")
        if seat.device is not None:
            self.backend.detach(seat.device, "hostile")
        if connection.memory > FRAME_BYTES_MAX + RECEIVE_BYTES_MAX:
            raise AssertionError("a peer makes us hold more than a frame")
        if self.backend.attached:
            raise AssertionError("an export stays open")

    def check(self) -> None:
        if bytes(self.backend.devices["frozen"].content) != self.frozen:
            raise AssertionError("a read-only export was changed")

    def _turns(self, seat: Seat) -> None:
        while True:
            outcome = take_turn(self.backend, [seat])
            if seat.broken is not None:
                raise seat.broken
            for _, cookies in outcome.waiting:
                seat.connection.done(cookies)
            self.sent += sum(map(len, seat.connection.output()))
            if not (seat.requests or seat.reads):
                return

    def _answer(self, seat: Seat, question: Question) -> list[Request]:
        connection = seat.connection
        if question.ask is Ask.SECURE:
            return connection.secured()
        if question.ask is Ask.LIST:
            return connection.listing(self.backend.exports())
        try:
            device = self.backend.attach(question.name, "hostile")
        except IsochroneError as e:
            return connection.refuse(e)
        if question.ask is Ask.OPEN:
            seat.device = device
            return connection.opened(info(device))
        self.backend.detach(device, "hostile")
        if question.ask is Ask.INFO:
            return connection.describe(info(device))
        return connection.offer(device.name, device.copies())


def info(device: Device) -> ExportInfo:
    return ExportInfo(device.name, device.size, device.read_only, device.description)


def attack(frames: int, seed: int) -> Target:
    """Attack with at least so many frames."""
    target, hostile = Target(), Hostile(seed)
    done = 0
    while done < frames:
        pieces, count = hostile.session()
        target.attack(pieces)
        done += count
    target.check()
    return target
