"""What every run has: what it finds comes out, whoever swallowed it inside."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import pytest

from isochrone.sim.checkers import Violation
from isochrone.sim.story import Story, tell


@dataclass(frozen=True)
class Drawn:
    latency_max: float = 0.25
    duplicate: float = 0.5


class Tale(Story):
    """It finds something, and goes on."""

    def __init__(self, found: list[str], end: Exception | None = None) -> None:
        self.said: list[str] = []
        super().__init__(3, self.said.append)
        self._found, self._end = found, end
        self.over = False

    async def _run(self) -> None:
        self._set_out(Drawn())
        assert self._fabric.weather.latency == (0.0, 0.25)
        assert self._fabric.weather.duplicate == 0.5
        for what in self._found:
            with suppress(Violation), self._inside():
                raise Violation(what)
        self.over = True
        if self._end is not None:
            raise self._end


def test_a_run_without_findings_is_returned() -> None:
    tale = Tale([])
    assert tell(tale, 10.0) is tale
    assert tale.over
    assert tale.said == ["    0.0000  seed 3: {'latency_max': 0.25, 'duplicate': 0.5}"]


@pytest.mark.parametrize("end", [None, OSError("what the fault broke besides")])
def test_the_first_finding_is_raised_at_the_end(end: Exception | None) -> None:
    tale = Tale(["first", "second"], end)
    with pytest.raises(Violation, match="first"):
        tell(tale, 10.0)
    assert tale.over


def test_other_errors_come_out_too() -> None:
    with pytest.raises(OSError, match="disk"):
        tell(Tale([], OSError("disk")), 10.0)
