"""Schedules and holds in the simulation: seeds, and proof that its checkers see what they must."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isochrone.sim.checkers import Violation
from isochrone.sim.keeping import Keeping, Ledger, keep_seed
from isochrone.store import holds, retention, schedules
from isochrone.store import records as r
from isochrone.store.schedule import Pace
from tests.sim.seeds import digest, found, totals

SEEDS, CHUNK = 30, 10


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_seeds(first: int) -> None:
    did = totals("keeping", range(first, first + CHUNK))
    # A run in which nothing happens proves nothing.
    assert did["crashes"] > CHUNK / 2
    assert did["taken"] > 20 * CHUNK
    assert did["pruned"] > 10 * CHUNK
    assert did["held"] > CHUNK / 2
    assert did["jumps"] > CHUNK
    assert did["kept"] > 0


def test_a_seed_replays_everything() -> None:
    first = [digest("keeping", seed) for seed in (1, 2, 3)]
    assert [digest("keeping", seed) for seed in (1, 2, 3)] == first
    assert len(set(first)) == 3


# -- planted faults: each must be found by some of the first seeds


def keep_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    real = retention.decide

    def decide(rules, taken):
        verdicts = real(rules, taken)
        kept = [v for v in verdicts if v.keep and "held" not in v.why]
        worst = kept[-1] if len(kept) > 1 else None
        return [retention.Verdict(v.copy, v.keep and v is not worst, v.why) for v in verdicts]

    monkeypatch.setattr(schedules, "decide", decide)


def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "prune", lambda *_: ([], {}))


def hold_nothing_at_the_secondary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "kept_here", lambda pool, group: ())


def trust_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds.HoldClock, "now", lambda self: self._clock.wall_ns())


def have_no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "allows", lambda *_: True)
    monkeypatch.setattr("isochrone.store.scheduler.due", lambda rules, last, now: list(rules))


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (keep_too_few, "(f)"),
        (keep_everything, "is doomed and still there"),
        (hold_nothing_at_the_secondary, "is held at the secondary, and is gone"),
        (trust_the_wall_clock, "(f)"),
        (have_no_pace, "(g)"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert found("keeping", message, 14)


# -- the ledger itself


def taken(name: str, *rules: str) -> r.CopyTaken:
    return r.CopyTaken(
        name=name, writable=False, stamp=1, members=(), schedule="s", rules=rules or ("every 1s",)
    )


def test_the_ledger_knows_what_may_go() -> None:
    ledger = Ledger({"every 1s": 2})
    for n in range(4):
        ledger.take(n + 1, taken(f"c{n}"), n, float(n))
    ledger.delete(5, "c0")
    with pytest.raises(Violation, match="only 1 newer"):
        ledger.delete(6, "c2")
    ledger.find("c1").held = 6
    with pytest.raises(Violation, match="is held"):
        ledger.delete(7, "c1")
    ledger.check_counts()
    ledger.find("c1").held = 0
    with pytest.raises(Violation, match="c1 is doomed"):
        ledger.check_counts()


def test_the_ledger_forgets_what_was_lost() -> None:
    ledger = Ledger({"every 1s": 1})
    ledger.take(1, taken("c0"), 0, 0.0)
    ledger.take(2, taken("c1"), 1, 1.0)
    ledger.delete(3, "c0")
    ledger.recovered(2)
    assert [e.name for e in ledger.living()] == ["c0", "c1"]
    ledger.recovered(1)
    assert [e.name for e in ledger.living()] == ["c0"]
    ledger.take(2, taken("c0"), 5, 1.5)  # a name may come again


def test_the_ledger_sees_a_burst() -> None:
    ledger = Ledger({"every 5s": 9})
    for n in range(2):
        ledger.take(n + 1, taken(f"c{n}", "every 5s"), n, 0.1 * n)
    with pytest.raises(Violation, match=r"\(g\)"):
        ledger.take(3, taken("c2", "every 5s"), 2, 4.9)


def test_it_is_a_scenario_of_its_own() -> None:
    lines: list[str] = []
    run = keep_seed(5, lines.append)
    assert isinstance(run, Keeping)
    assert run.options.mix.copy == run.options.mix.delete_copy == 0
    assert "keeping: " in "\n".join(lines)
    assert not any("promoted" in line for line in lines)
