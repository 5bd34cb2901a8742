"""How old the recovery point was, over the last hour and day: what was promised, as it was kept.

One sample a second is folded into a bucket a minute, and in it into steps of 10 %, so that a day is
a few thousand numbers and not 86,400.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from math import ceil, exp, log
from typing import Final

import msgspec

BUCKET_SECONDS: Final = 60
HOUR_BUCKETS: Final = 60
DAY_BUCKETS: Final = 1440
STEP: Final = 1.1  # a percentile is told a tenth too high at most
LEAST_SECONDS: Final = 0.05  # younger counts as this: no interval is shorter
STEPS_MAX: Final = 200  # LEAST * STEP**200 is four months; older counts as that


class Spread(msgspec.Struct, kw_only=True):
    """The age of the recovery point over a span of time, in seconds; -1 where nothing is known."""

    p50: float = -1.0
    p95: float = -1.0
    max: float = -1.0
    samples: int = 0


@dataclass(slots=True)
class _Bucket:
    minute: int
    oldest: float = 0.0
    steps: Counter[int] = field(default_factory=Counter)


class History:
    """Of one group. Time is an argument: seconds of a clock that is never set back."""

    def __init__(self) -> None:
        self._buckets: deque[_Bucket] = deque(maxlen=DAY_BUCKETS)

    def add(self, age: float, now: float) -> None:
        """A sample: the age of the recovery point, in seconds."""
        minute = int(now // BUCKET_SECONDS)
        if not self._buckets or self._buckets[-1].minute != minute:
            self._buckets.append(_Bucket(minute))
        bucket = self._buckets[-1]
        bucket.oldest = max(bucket.oldest, age)
        bucket.steps[_step(age)] += 1

    def hour(self, now: float) -> Spread:
        return self._spread(now, HOUR_BUCKETS)

    def day(self, now: float) -> Spread:
        return self._spread(now, DAY_BUCKETS)

    def _spread(self, now: float, buckets: int) -> Spread:
        first = int(now // BUCKET_SECONDS) - buckets
        steps: Counter[int] = Counter()
        oldest = 0.0
        for bucket in self._buckets:
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
