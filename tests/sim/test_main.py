"""The command: one seed with its events, or many with their failures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from isochrone.sim import __main__ as command
from isochrone.sim.checkers import Violation


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["isochrone.sim", *arguments])
    return command.main()


def fails_at(monkeypatch, bad: int) -> None:
    real = command.run_seed

    def run_seed(seed: int, log):
        if seed == bad:
            raise Violation("(a) planted")
        return real(seed, log)

    monkeypatch.setattr(command, "run_seed", run_seed)


def test_one_seed(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "seed 7: {'mirrored':" in lines[0]
    assert lines[-1].startswith("seed 7 passed: {'crashes':")
    assert any("b promoted at cut" in line for line in lines)
    assert len(lines) > 20


def test_one_seed_that_fails(monkeypatch, capsys) -> None:
    fails_at(monkeypatch, 7)
    assert run(monkeypatch, "7") == 1
    told = capsys.readouterr().err
    assert "Violation: (a) planted" in told
    assert told.splitlines()[-1] == "seed 7 FAILED"


def test_many_seeds(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--seeds", "4", "--first", "5", "--jobs", "2") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("4 seeds from 5 in ")
    assert ": 0 failed; " in line
    assert " commits" in line


def test_many_seeds_of_which_one_fails(monkeypatch, capsys) -> None:
    fails_at(monkeypatch, 6)
    assert run(monkeypatch, "--seeds", "3", "--first", "5") == 1
    told = capsys.readouterr().out
    assert "seed 6 FAILED: Violation: (a) planted" in told
    assert ": 1 failed; " in told
    assert told.splitlines()[-1] == "replay: python -m isochrone.sim 6"


@pytest.mark.parametrize("arguments", [[], ["--seeds", "0"], ["x"], ["--nonsense"]])
def test_wrong_usage(monkeypatch, capsys, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as e:
        run(monkeypatch, *arguments)
    assert e.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_log_of_the_product_stays_out(monkeypatch, capsys) -> None:
    run(monkeypatch, "7")
    structlog.get_logger().info("pair moved")
    assert "pair moved" not in capsys.readouterr().out
    assert logging.CRITICAL == 50


def test_the_other_scenario(monkeypatch, capsys) -> None:
    assert run(monkeypatch, "--keeping", "3") == 0
    assert "'taken': " in capsys.readouterr().out.splitlines()[-1]
    assert run(monkeypatch, "--keeping", "--seeds", "2") == 0
    assert " taken" in capsys.readouterr().out

    def keep_seed(seed: int, log):
        raise Violation("(f) planted")

    monkeypatch.setattr(command, "keep_seed", keep_seed)
    assert run(monkeypatch, "--keeping", "--seeds", "1", "--jobs", "1") == 1
    assert "replay: python -m isochrone.sim --keeping 1" in capsys.readouterr().out


def test_the_scenario_of_changing_roles(monkeypatch, capsys) -> None:
    real = command.circle_seed

    def circle_seed(seed: int, log):
        if seed == 2:
            raise Violation("(i) planted")
        return real(seed, log)

    monkeypatch.setattr(command, "circle_seed", circle_seed)
    assert run(monkeypatch, "--circling", "--seeds", "2", "--jobs", "1") == 1
    told = capsys.readouterr().out
    assert "seed 2 FAILED: Violation: (i) planted" in told
    assert "replay: python -m isochrone.sim --circling 2" in told
