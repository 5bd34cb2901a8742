"""How old the recovery point was, over the last hour and day: what was promised, as it was kept.

One sample a second is folded into a bucket a minute, after an hour into one a quarter of an hour,
and in it into steps of 10 %: a day is a hundred and fifty buckets and not 86,400 samples.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil, exp, log
from typing import Annotated, Final

import msgspec
from msgspec import Meta

BUCKET_SECONDS: Final = 60
HOUR_BUCKETS: Final = 60
DAY_BUCKETS: Final = 1440
OLDER_BUCKETS: Final = 15  # minutes in a bucket that is older than an hour
STEP: Final = 1.1  # a percentile is told a tenth too high at most
LEAST_SECONDS: Final = 0.05  # younger counts as this: no interval is shorter
STEPS_MAX: Final = 200  # LEAST * STEP**200 is four months; older counts as that


class Spread(msgspec.Struct, kw_only=True):
    """The age of the recovery point over a span of time, in seconds; -1 where nothing is known."""

    p50: float = -1.0
    p95: float = -1.0
    max: float = -1.0
    samples: int = 0


Step = Annotated[int, Meta(ge=0, le=STEPS_MAX)]
Samples = Annotated[int, Meta(ge=1, le=DAY_BUCKETS * BUCKET_SECONDS)]


class Bucket(msgspec.Struct, array_like=True):
    """Samples of a minute, or of some. Minutes are those of whichever clock goes with it."""

    minute: int  # the newest of them
    oldest: Annotated[float, Meta(ge=0)]
    steps: dict[Step, Samples]


@dataclass(slots=True)
class _Bucket:
    minute: int
    oldest: float = 0.0
    steps: Counter[int] = field(default_factory=Counter)


class History:
    """Of one group. Time is an argument: seconds of a clock that is never set back."""

    def __init__(self) -> None:
        self._minutes: deque[_Bucket] = deque()  # of the last hour
        self._older: deque[_Bucket] = deque()

    def add(self, age: float, now: float) -> None:
        """A sample: the age of the recovery point, in seconds."""
        minute = int(now // BUCKET_SECONDS)
        if not self._minutes or self._minutes[-1].minute != minute:
            self._minutes.append(_Bucket(minute))
            self._fold(minute)
        bucket = self._minutes[-1]
        bucket.oldest = max(bucket.oldest, age)
        bucket.steps[_step(age)] += 1

    def _fold(self, minute: int) -> None:
        """Join what is older than an hour, and forget what is older than a day."""
        while self._minutes and self._minutes[0].minute <= minute - HOUR_BUCKETS:
            bucket = self._minutes.popleft()
            last = self._older[-1] if self._older else None
            if last is None or last.minute // OLDER_BUCKETS != bucket.minute // OLDER_BUCKETS:
                self._older.append(bucket)
                continue
            last.minute = bucket.minute
            last.oldest = max(last.oldest, bucket.oldest)
            last.steps.update(bucket.steps)
        while self._older and self._older[0].minute <= minute - DAY_BUCKETS:
            self._older.popleft()

    def hour(self, now: float) -> Spread:
        return _spread(self._minutes, int(now // BUCKET_SECONDS) - HOUR_BUCKETS)

    def day(self, now: float) -> Spread:
        """To a quarter of an hour."""
        return _spread([*self._older, *self._minutes], int(now // BUCKET_SECONDS) - DAY_BUCKETS)

    # -- beyond the life of the process

    def saved(self, ahead: int) -> list[Bucket]:
        """All of it, by a clock that is so many minutes ahead of the one here."""
        return [
            Bucket(bucket.minute + ahead, bucket.oldest, dict(bucket.steps))
            for bucket in (*self._older, *self._minutes)
        ]

    def restore(self, buckets: Iterable[Bucket], ahead: int, now: float) -> None:
        """Take up what was saved. What is not of the last day by that clock is left out."""
        minute = int(now // BUCKET_SECONDS)
        for bucket in sorted(buckets, key=lambda bucket: bucket.minute):
            at = bucket.minute - ahead
            if minute - DAY_BUCKETS < at <= minute:
                self._minutes.append(_Bucket(at, bucket.oldest, Counter(bucket.steps)))
        self._fold(minute)


def _spread(buckets: Iterable[_Bucket], first: int) -> Spread:
    """Of those behind a minute."""
    steps: Counter[int] = Counter()
    oldest = 0.0
    for bucket in buckets:
        if bucket.minute > first:
            steps.update(bucket.steps)
            oldest = max(oldest, bucket.oldest)
    count = steps.total()
    if not count:
        return Spread()
    return Spread(
        p50=min(oldest, _percentile(steps, count, 0.50)),
        p95=min(oldest, _percentile(steps, count, 0.95)),
        max=round(oldest, 3),
        samples=count,
    )


class Rate:
    """How fast a count grows, by a mean that forgets. Time is an argument."""

    def __init__(self, memory_seconds: float) -> None:
        self._memory = memory_seconds
        self._count = 0
        self._at: float | None = None
        self.value = 0.0  # a second

    def add(self, count: int, now: float) -> None:
        """The count as it is now. A count that went down has begun anew."""
        if self._at is not None and now > self._at:
            passed = now - self._at
            speed = max(0, count - self._count) / passed
            weight = 1.0 - exp(-passed / self._memory)
            self.value += (speed - self.value) * weight
        self._count, self._at = count, now


def _step(age: float) -> int:
    return min(STEPS_MAX, max(0, ceil(log(max(age, LEAST_SECONDS) / LEAST_SECONDS, STEP))))


def _percentile(steps: Counter[int], count: int, share: float) -> float:
    """The least step that so much of the samples do not exceed."""
    left = ceil(count * share)
    for step in sorted(steps):
        left -= steps[step]
        if left <= 0:
            return float(round(LEAST_SECONDS * STEP**step, 3))
    raise AssertionError("the counts add up to the whole")
