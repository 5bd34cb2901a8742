from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isochrone.store.probes import PROBES_MAX, Probe, Probes, Result


def probe(copy: str, result: Result = "good") -> Probe:
    return Probe(copy=copy, cut=1, stamp=2, check="true", began=3, seconds=60, result=result)


def test_what_runs_and_what_ended() -> None:
    known = Probes(group="g", probes=[probe("a"), probe("b", "bad"), probe("c", "")])
    assert known.running is known.probes[2]
    assert known.newest is known.probes[1]
    assert known.good is known.probes[0]
    nothing = Probes(group="g")
    assert (nothing.running, nothing.newest, nothing.good) == (None, None, None)


@given(st.lists(st.sampled_from(["good", "bad", "expired"]), max_size=60), st.booleans())
def test_few_are_kept_and_the_newest_good_one_among_them(results: list[Result], runs: bool) -> None:
    known = Probes(group="g", probes=[])
    good = ""
    for number, result in enumerate(results):
        known.probes.append(probe(str(number), result))
        good = str(number) if result == "good" else good
        known.trim()
    if runs:
        known.probes.append(probe("last", ""))
        known.trim()
        assert known.running is not None
    assert len(known.probes) == min(len(results) + runs, PROBES_MAX)
    assert (known.good.copy if known.good else "") == good
    copies = [probe.copy for probe in known.probes]
    assert copies == sorted(copies, key=lambda copy: 999 if copy == "last" else int(copy))
