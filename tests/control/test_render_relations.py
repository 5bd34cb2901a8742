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
    assert second.split()[-5:] == ["1", "of", "2", "tracks", "-"]


def test_one_with_its_extents() -> None:
    out = io.StringIO()
    render_relations.relation(VIEW, out)
    text = out.getvalue()
    assert "b (hosts may not write it)" in text
    assert "2023-11-14T22:13:20.000Z" in text
    assert text.splitlines()[-1].split() == ["0", "65536", "128", "KiB"]


def test_where_it_is_mirrored() -> None:
    out = io.StringIO()
    plain = msgspec.structs.replace(VIEW, group="g", content_only=["far", "near"])
    there = msgspec.structs.replace(VIEW, group="g", origin=12)
    render_relations.relations([plain, there], out)
    _, first, second = out.getvalue().splitlines()
    assert first.endswith("with g, content only at far, near")
    assert second.endswith("with g (12 there)")
    render_relations.relation(there, out)
    assert "with g (12 there)" in out.getvalue()
