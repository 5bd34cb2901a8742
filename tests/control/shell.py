"""The command line in this process, with what it printed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isochrone.control import cli


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refused(self, code: int, message: str, hint: str = "") -> None:
        """One line, and perhaps a hint on the next."""
        assert (self.code, self.out) == (code, ""), self
        first, *rest = self.err.splitlines()
        assert first.startswith("isochrone: ")
        assert message in first
        assert len(rest) <= 1
        assert all(line.startswith("hint: ") for line in rest)
        assert hint in "".join(rest)


class Shell:
    """Types commands at no terminal."""

    def __init__(
        self, site: Path | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`site`: what the environment names."""
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        if site is None:
            monkeypatch.delenv("ISOCHRONE_SITE", raising=False)
        else:
            monkeypatch.setenv("ISOCHRONE_SITE", str(site))
        monkeypatch.setenv("TERM", "dumb")

    def __call__(self, *words: str | Path) -> Said:
        self._monkeypatch.setattr("sys.argv", ["isochrone", *map(str, words)])
        with open(os.devnull) as nothing:
            self._monkeypatch.setattr("sys.stdin", nothing)
            with pytest.raises(SystemExit) as caught:
                cli.main()
        return Said(int(caught.value.code or 0), *self._capsys.readouterr())

    def json(self, *words: str | Path) -> Any:
        said = self(*words, "-o", "json")
        assert said.code == 0, said
        return said.json
