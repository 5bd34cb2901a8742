from __future__ import annotations

import io

import msgspec

from isochrone.control import render_relations
from tests.control.test_views_relations import VIEW


def test_a_list() -> None:
    out = io.StringIO()
    counted = msgspec.structs.replace(VIEW, relation=8, counted=True)
    render_relations.relations([VIEW, counted], out)
    heads, first, second = out.getvalue().splitlines()
    assert heads.split()[:4] == ["RELATION", "SOURCE", "TARGET", "SIZE"]
    assert first.split()[:5] == ["7", "a", "b", "128", "KiB"]
    assert "at least 1 of 2 tracks" in first
    assert second.endswith("  1 of 2 tracks")


def test_one_with_its_extents() -> None:
    out = io.StringIO()
    render_relations.relation(VIEW, out)
    text = out.getvalue()
    assert "b (hosts may not write it)" in text
    assert "2023-11-14T22:13:20.000Z" in text
    assert text.splitlines()[-1].split() == ["0", "65536", "128", "KiB"]
