"""Rules of a schedule: when a copy is due, and how many are kept. Pure: time is an argument.

    every 5m keep 12, hourly keep 24, daily at 02:30 keep 7, weekly on sun keep 8, monthly keep 12

Time is UTC, so that no hour is missing or twice. It is divided into slots, by rule: `every 5m` has
one at each multiple of five minutes since 1970, `daily at 02:30` one from each 02:30 to the next. A
rule is due when a slot has begun since its last copy; however many have begun, one copy is taken.

The wall clock may jump. Ahead: the rules are due, once. Back by less than a period: nothing is due
until the clock has passed the last copy again. Back by more: due at once, and from there on as
usual. `Pace` bounds what a clock that jumps to and fro can ask for.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from isochrone.errors import InvalidInput

SECOND: Final = 10**9
MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86400
WEEK_S: Final = 7 * DAY_S
MONTH_S: Final = 28 * DAY_S  # the shortest

KEEP_MAX: Final = 10_000  # copies of one rule
RULES_MAX: Final = 16  # of one schedule
PERIOD_S_MAX: Final = 366 * DAY_S  # of `every`; beyond it the clock's jumps are more likely
BURST: Final = 2  # copies in one period: the one caught up, and the next regular one
MONTH_DAY_MAX: Final = 28  # every month has it

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FIRST_MONDAY_S: Final = 4 * DAY_S  # 1970-01-05
_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS: Final = {"s": 1, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S, "w": WEEK_S}
_HINT: Final = "for example: every 5m keep 12, hourly keep 24, daily at 02:30 keep 7"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `name` is what its copies are marked with: it outlives a change of the rest."""

    name: str  # every 5m, hourly, daily, weekly, monthly
    keep: int
    period: int  # seconds; of a month, those of the shortest
    offset: int = 0  # seconds into the period (the month) at which a slot begins
    when: str = ""  # as it is written: "on sun at 02:30"

    def __str__(self) -> str:
        return f"{self.name}{self.when and ' ' + self.when} keep {self.keep}"

    def slot(self, now: int) -> int:
        """When the slot began that an instant lies in; both in ns since 1970."""
        seconds = now // SECOND - self.offset
        if self.name != "monthly":
            return (seconds - seconds % self.period + self.offset) * SECOND
        return (_month(seconds, 0) + self.offset) * SECOND

    def following(self, now: int) -> int:
        """When the next slot begins."""
        start = self.slot(now)
        if self.name != "monthly":
            return start + self.period * SECOND
        return (_month(start // SECOND - self.offset, 1) + self.offset) * SECOND

    def due(self, last: int | None, now: int) -> bool:
        """Whether a copy is to be taken, after one at `last`, or none yet."""
        if last is None:
            return True
        if now < last:
            return now < last - self.period * SECOND
        return self.slot(now) > last

    def next_due(self, last: int | None, now: int) -> int:
        """The instant at which it is due; `now` if it is."""
        if self.due(last, now):
            return now
        return self.following(max(now, last or 0))


def _month(seconds: int, later: int) -> int:
    """When the month of an instant began, or one so many months later; seconds since 1970."""
    when = datetime.fromtimestamp(seconds, UTC)
    years, month = divmod(when.month - 1 + later, 12)
    return timegm((when.year + years, month + 1, 1, 0, 0, 0))


def due(rules: Iterable[Rule], last: Mapping[str, int], now: int) -> list[Rule]:
    """The rules that are due. One copy satisfies all of them."""
    return [rule for rule in rules if rule.due(last.get(rule.name), now)]


def next_due(rules: Iterable[Rule], last: Mapping[str, int], now: int) -> int:
    """The instant at which the first of them is due."""
    return min(rule.next_due(last.get(rule.name), now) for rule in rules)


class Pace:
    """What a rule may do at most, by a clock that cannot jump: `BURST` copies in one period."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}  # rule -> its newest copies

    def allows(self, rule: Rule, now: float) -> bool:
        times = self._times.get(rule.name, [])
        return len(times) < BURST or now - times[0] >= rule.period

    def taken(self, rules: Iterable[str], now: float) -> None:
        for name in rules:
            self._times[name] = [*self._times.get(name, []), now][-BURST:]


# -- writing


def parse_span(text: str) -> int:
    """Seconds of `90s`, `5m`, `36h`, `30d`, `2w`. Raises `InvalidInput`."""
    found = _SPAN.fullmatch(text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not seconds:
        raise InvalidInput(
            f"{text!r} is not a span of time", hint="write a number and s, m, h, d or w: 30d"
        )
    return seconds


@lru_cache(maxsize=1024)
def parse_rules(text: str) -> tuple[Rule, ...]:
    """Rules, separated by commas. Raises `InvalidInput` with the rule that is wrong."""
    rules = tuple(_rule(part.split()) for part in text.split(","))
    if len(rules) > RULES_MAX:
        raise InvalidInput(f"a schedule has at most {RULES_MAX} rules")
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(
                f"there are two rules `{name}`",
                hint="make one of them `every …`, or a schedule of its own",
            )
    return rules


def write_rules(rules: Sequence[Rule]) -> str:
    """Rules as `parse_rules` reads them."""
    return ", ".join(map(str, rules))


def _rule(words: list[str]) -> Rule:
    text = " ".join(words)
    if not words:
        raise InvalidInput("a rule is missing", hint=_HINT)
    keep = _keep(words, text)
    name, rest = words[0].lower(), words[1:-2]
    if name == "every":
        return _every(rest, keep, text)
    options = _options(rest, text)
    kinds = {
        "hourly": (HOUR_S, {"at"}),
        "daily": (DAY_S, {"at"}),
        "weekly": (WEEK_S, {"on", "at"}),
        "monthly": (MONTH_S, {"on", "at"}),
    }
    if name not in kinds:
        raise InvalidInput(f"`{text}`: {words[0]!r} is no rule", hint=_HINT)
    period, known = kinds[name]
    for word in options:
        if word not in known:
            raise InvalidInput(f"`{text}`: {name} has no {word!r}", hint=_HINT)
    offset = _minute(options["at"], text) if name == "hourly" and "at" in options else 0
    if name != "hourly" and "at" in options:
        offset = _time(options["at"], text)
    if name == "weekly":
        offset += _FIRST_MONDAY_S + _weekday(options.get("on", "mon"), text) * DAY_S
    elif "on" in options:
        offset += (_month_day(options["on"], text) - 1) * DAY_S
    when = " ".join(f"{word} {options[word]}" for word in ("on", "at") if word in options)
    return Rule(name, keep, period, offset, when)


def _every(rest: list[str], keep: int, text: str) -> Rule:
    if len(rest) != 1:
        raise InvalidInput(f"`{text}`: every what?", hint=_HINT)
    try:
        period = parse_span(rest[0])
    except InvalidInput as e:
        raise InvalidInput(f"`{text}`: {e.message}", hint=e.hint) from None
    if period > PERIOD_S_MAX:
        raise InvalidInput(f"`{text}`: a period is at most {PERIOD_S_MAX // DAY_S} days")
    return Rule(f"every {_short(period)}", keep, period)


def _short(seconds: int) -> str:
    """The same span always in the same words, so that `60m` and `1h` are one rule."""
    unit = next(u for u in ("d", "h", "m", "s") if seconds % _UNITS[u] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def _keep(words: list[str], text: str) -> int:
    """The end of every rule: `keep N`."""
    if len(words) < 3 or words[-2].lower() != "keep":
        raise InvalidInput(f"`{text}` does not end with `keep N`", hint=_HINT)
    number = words[-1]
    if not re.fullmatch(r"[0-9]{1,6}", number) or not 1 <= int(number) <= KEEP_MAX:
        raise InvalidInput(f"`{text}`: keep 1 to {KEEP_MAX} copies, not {number!r}")
    return int(number)


def _options(rest: list[str], text: str) -> dict[str, str]:
    """`on` and `at` with their values, each at most once."""
    found: dict[str, str] = {}
    for at in range(0, len(rest), 2):
        word = rest[at].lower()
        if word not in ("on", "at") or word in found or at + 1 == len(rest):
            raise InvalidInput(f"`{text}`: {rest[at]!r} does not fit here", hint=_HINT)
        found[word] = rest[at + 1].lower()
    return found


def _minute(value: str, text: str) -> int:
    found = re.fullmatch(r":?([0-5][0-9])", value)
    if found is None:
        raise InvalidInput(f"`{text}`: {value!r} is no minute", hint="as in: hourly at :15 keep 24")
    return int(found[1]) * MINUTE_S


def _time(value: str, text: str) -> int:
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", value)
    if found is None:
        raise InvalidInput(
            f"`{text}`: {value!r} is no time of a day", hint="as in: daily at 02:30 keep 7 (UTC)"
        )
    return int(found[1]) * HOUR_S + int(found[2]) * MINUTE_S


def _weekday(value: str, text: str) -> int:
    if value[:3] not in _DAYS:
        raise InvalidInput(f"`{text}`: {value!r} is no day of a week", hint="mon, tue, … sun")
    return _DAYS.index(value[:3])


def _month_day(value: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", value) or not 1 <= int(value) <= MONTH_DAY_MAX:
        raise InvalidInput(
            f"`{text}`: {value!r} is not a day that every month has",
            hint=f"1 to {MONTH_DAY_MAX}",
        )
    return int(value)
