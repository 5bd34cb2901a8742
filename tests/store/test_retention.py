"""What is kept: by count, in the order of the log, and never what is held."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from isochrone.store.retention import Taken, Verdict, decide
from isochrone.store.schedule import parse_rules

RULES = parse_rules("every 5m keep 2, hourly keep 1, daily keep 3")
NAMES = [rule.name for rule in RULES]


def test_why() -> None:
    taken = [
        Taken("d", 4, ("every 5m",)),
        Taken("c", 3, ("every 5m", "hourly")),
        Taken("b", 2, ("every 5m",)),
        Taken("a", 1, ("every 5m", "hourly"), held="pinned"),
        Taken("z", 0, ("weekly", "every 5m")),
    ]
    assert decide(RULES, taken) == [
        Verdict("d", True, "every 5m (1 of 2)"),
        Verdict("c", True, "every 5m (2 of 2), hourly (1 of 1)"),
        Verdict("b", False, "every 5m keeps 2 newer ones"),
        Verdict("a", True, "pinned"),
        Verdict("z", False, "`weekly` is no rule any more, every 5m keeps 2 newer ones"),
    ]


def test_one_copy_stays_for_any_of_its_rules() -> None:
    many = [Taken(f"c{n}", n, tuple(NAMES) if n == 0 else ("every 5m",)) for n in range(50)]
    kept = [v.copy for v in decide(RULES, many) if v.keep]
    assert kept == ["c49", "c48", "c0"]


TAKEN = st.lists(
    st.tuples(st.sets(st.sampled_from([*NAMES, "weekly"]), min_size=1), st.booleans()), max_size=60
).map(
    lambda drawn: [
        Taken(f"c{n}", n, tuple(sorted(rules)), "pinned" if held else "")
        for n, (rules, held) in enumerate(drawn)
    ]
)


@given(TAKEN, st.integers(0, 10**9))
def test_each_rule_keeps_the_newest_of_its_own(taken: list[Taken], seed: int) -> None:
    verdicts = {v.copy: v for v in decide(RULES, taken)}
    assert set(verdicts) == {t.name for t in taken}
    for rule in RULES:
        own = [t for t in taken if rule.name in t.rules]
        # min(taken, N), and they are the newest:
        assert all(verdicts[t.name].keep for t in own[len(own) - min(len(own), rule.keep) :])
        counted = [t for t in own if f"{rule.name} (" in verdicts[t.name].why]
        assert len(counted) == min(len(own), rule.keep)
    for t in taken:
        newest = [
            name
            for rule in RULES
            for name in t.rules
            if name == rule.name
            and sum(name in other.rules and other.lsn >= t.lsn for other in taken) <= rule.keep
        ]
        assert verdicts[t.name].keep == bool(newest or t.held)
        assert verdicts[t.name].why
    shuffled = list(taken)
    Random(seed).shuffle(shuffled)
    assert decide(RULES, shuffled) == decide(RULES, taken)


@given(TAKEN)
def test_what_is_doomed_stays_doomed(taken: list[Taken]) -> None:
    """Pruning and one more copy never bring a doomed one back, nor doom more than it pushes out."""
    doomed = {v.copy for v in decide(RULES, taken) if not v.keep}
    left = [t for t in taken if t.name not in doomed]
    assert all(v.keep for v in decide(RULES, left))
    more = [*taken, Taken("new", 1000, tuple(NAMES))]
    now = {v.copy for v in decide(RULES, more) if not v.keep}
    assert doomed <= now
    assert len(now - doomed) <= len(RULES)
