"""Seeds of a scenario: what they did, whether they find a planted fault, and what they logged."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

from isochrone.sim.__main__ import run_kind
from isochrone.sim.checkers import Violation


def quiet(line: str) -> None:
    pass


def totals(kind: str, seeds: Iterable[int]) -> Counter[str]:
    """What happened in all of them. A seed that fails says how to see it again."""
    found: Counter[str] = Counter()
    for seed in seeds:
        try:
            found.update(run_kind(kind, seed, quiet).counts)
        except BaseException:
            print(f"replay: python -m isochrone.sim {f'--{kind} ' if kind else ''}{seed}")
            raise
    return found


def found(kind: str, message: str, seeds: int) -> bool:
    """Whether some of the first seeds ends with such a complaint."""
    for seed in range(1, seeds + 1):
        try:
            run_kind(kind, seed, quiet)
        except Violation as e:
            if message in str(e):
                return True
        except Exception:  # what the planted fault breaks besides
            continue
    return False


def digest(kind: str, seed: int) -> str:
    """A number for all events of a run."""
    lines: list[str] = []
    run_kind(kind, seed, lines.append)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
