"""The pictures of the state tables are those of the tables."""

from __future__ import annotations

import runpy
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]


def test_the_pictures_are_of_these_tables() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "draw_states.py"))["PICTURES"]
    there = {path.name for path in (ROOT / "docs" / "states").glob("*.svg")}
    assert set(drawn) == there
    for name, picture in drawn.items():
        assert (ROOT / "docs" / "states" / name).read_text() == picture, "run: make docs"
        ElementTree.fromstring(picture)
