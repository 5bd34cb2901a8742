"""How much may be sent to a peer, and when. Pure: time is an argument.

    08:00-18:00 mon-fri 20MiB/s, 22:00-06:00 1GiB/s, else unlimited

The first rule that holds now counts; where none does, nothing is limited. Times are those on the
wall where the controller runs, because working days are. A window is a part of a day by the wall:
when the clock is put forward or back, it is an hour shorter or longer, and nothing else happens.

Who waits, waits in order of urgency. Tokens are seconds of a clock that never jumps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from enum import IntEnum
from functools import lru_cache
from typing import Final

from isochrone.errors import InvalidInput
from isochrone.types import GIB, KIB, MIB, TIB

RATE_BYTES_MIN: Final = 64 * KIB  # a second; a frame of a megabyte takes 16 s at that
LIMIT_RULES_MAX: Final = 16
BURST_S: Final = 0.25  # what an idle time may save up; more would be felt beside other traffic
TURN_S: Final = 0.002  # for another to take its turn first
AGE_S_MAX: Final = 5.0  # after it the least urgent goes before all others: nobody starves
DAY_MINUTES: Final = 24 * 60
UNLIMITED: Final = 0

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS: Final = {"": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_WINDOW: Final = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)")
_RATE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(KiB|MiB|GiB|TiB|)/s")
_HINT: Final = "for example: 08:00-18:00 mon-fri 20MiB/s, else unlimited"


class Urgency(IntEnum):
    """What goes first."""

    CUT = 0  # what a failover would lose
    COPY = 1  # a first copy, or a resend: long, and the old image stands meanwhile
    BACKGROUND = 2  # comparing, repairing, seeding


@dataclass(frozen=True, slots=True)
class LimitRule:
    """A rate, and when it holds. A window that ends before it begins goes past midnight."""

    rate: int  # bytes a second; 0: unlimited
    begin: int = 0  # minute of the day
    end: int = DAY_MINUTES
    days: frozenset[int] = frozenset(range(7))  # Monday is 0; on which the window begins

    def holds(self, weekday: int, minute: int) -> bool:
        if self.begin < self.end:
            return weekday in self.days and self.begin <= minute < self.end
        if minute >= self.begin:
            return weekday in self.days
        return minute < self.end and (weekday - 1) % 7 in self.days


Limit = tuple[LimitRule, ...]


def rate_at(rules: Limit, wall_ns: int, zone: tzinfo | None = None) -> int:
    """Bytes a second at an instant; 0: unlimited. `zone` None: that of the host."""
    here = datetime.fromtimestamp(wall_ns // 10**9, zone)
    weekday, minute = here.weekday(), here.hour * 60 + here.minute
    return next((rule.rate for rule in rules if rule.holds(weekday, minute)), UNLIMITED)


@lru_cache(maxsize=256)
def parse_limit(text: str) -> Limit:
    """Rules, separated by commas. Raises `InvalidInput` with the rule that is wrong."""
    parts = [part.split() for part in text.split(",")]
    if len(parts) > LIMIT_RULES_MAX:
        raise InvalidInput(f"a limit has at most {LIMIT_RULES_MAX} rules")
    rules = tuple(_rule(words) for words in parts)
    for before, words in zip(rules, parts[:-1], strict=False):
        if (before.begin, before.end, len(before.days)) == (0, DAY_MINUTES, 7):
            raise InvalidInput(f"nothing after {' '.join(words)!r} ever counts", hint=_HINT)
    return rules


def _rule(words: Sequence[str]) -> LimitRule:
    text = " ".join(words)
    if not words:
        raise InvalidInput("an empty rule", hint=_HINT)
    rate = _rate(words[-1], text)
    begin, end, days = 0, DAY_MINUTES, frozenset(range(7))
    rest = list(words[:-1])
    if rest == ["else"]:
        rest = []
    if rest and (window := _WINDOW.fullmatch(rest[0])):
        hours = [int(number) for number in window.groups()]
        begin, end = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if max(hours[1], hours[3]) > 59 or begin >= DAY_MINUTES or end > DAY_MINUTES:
            raise InvalidInput(f"{rest[0]!r} is no part of a day", hint=_HINT)
        if begin == end:
            raise InvalidInput(f"{rest[0]!r} is empty; leave it out for the whole day", hint=_HINT)
        rest = rest[1:]
    if rest:
        days = _weekdays(rest.pop(0), text)
    if rest:
        raise InvalidInput(f"{text!r} is no rule: {rest[0]!r} is too much", hint=_HINT)
    return LimitRule(rate, begin, end, days)


def _rate(word: str, text: str) -> int:
    if word == "unlimited":
        return UNLIMITED
    found = _RATE.fullmatch(word)
    if found is None:
        raise InvalidInput(f"{text!r} does not end with a rate", hint=_HINT)
    rate = int(float(found[1]) * _UNITS[found[2]])
    if rate < RATE_BYTES_MIN:
        raise InvalidInput(f"{word} is below {RATE_BYTES_MIN // KIB}KiB/s: nothing would arrive")
    return rate


def _weekdays(word: str, text: str) -> frozenset[int]:
    """`mon-fri`, `sat`, `fri-mon`."""
    first, _, last = word.partition("-")
    if first not in _DAYS or (last or first) not in _DAYS:
        raise InvalidInput(f"{text!r} is no rule: {word!r} are no days", hint=_HINT)
    begin, end = _DAYS.index(first), _DAYS.index(last or first)
    return frozenset((begin + n) % 7 for n in range((end - begin) % 7 + 1))


@dataclass(slots=True, eq=False)
class Ticket:
    """One frame that wants to go."""

    urgency: Urgency
    since: float
    number: int


class Budget:
    """A token bucket with a queue. What was sent may exceed the tokens; then all wait for them."""

    def __init__(self, now: float) -> None:
        self._tokens = 0.0  # bytes; below zero: owed
        self._filled_at = now
        self._waiting: list[Ticket] = []  # at most one of each connection, as each waits for it
        self._number = 0
        self.rate = UNLIMITED  # bytes a second
        self.passed = 0  # bytes, ever

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def set_rate(self, rate: int, now: float) -> None:
        """From now on; what was saved up or is owed at the old rate stays, within the new burst."""
        self._fill(now)
        self.rate = rate
        self._tokens = min(self._tokens, self._burst) if rate else self._burst

    def ask(self, urgency: Urgency, now: float) -> Ticket:
        self._number += 1
        ticket = Ticket(urgency, now, self._number)
        self._waiting.append(ticket)
        return ticket

    def wait(self, ticket: Ticket, now: float) -> float:
        """Seconds until to ask again; 0: go, and pay. Once that was said the ticket is used up."""
        self._fill(now)
        if self.rate:
            if self._tokens <= 0:
                return max(-self._tokens / self.rate, TURN_S)
            if min(self._waiting, key=lambda other: self._order(other, now)) is not ticket:
                return TURN_S
        self._waiting.remove(ticket)
        return 0.0

    def give_up(self, ticket: Ticket) -> None:
        """The connection of a ticket that still waits is gone."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)

    def pay(self, size: int) -> None:
        """So much went. Heartbeats did not ask, or the link would seem dead."""
        self.passed += size
        if self.rate:
            self._tokens -= size

    @property
    def _burst(self) -> float:
        return self.rate * BURST_S

    def _order(self, ticket: Ticket, now: float) -> tuple[int, int]:
        old = now - ticket.since > AGE_S_MAX
        return (-1 if old else ticket.urgency, ticket.number)

    def _fill(self, now: float) -> None:
        passed, self._filled_at = max(0.0, now - self._filled_at), max(now, self._filled_at)
        if self.rate:
            self._tokens = min(self._tokens + passed * self.rate, self._burst)
