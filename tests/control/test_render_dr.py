"""Takeovers, switches and returns, as a person reads them."""

from __future__ import annotations

import io

from isochrone.control import render_dr
from isochrone.control.views_dr import loss_view, rejoin_view, switch_view
from tests.control.test_views_dr import loss, report, switched


def test_a_loss_statement_says_what_is_not_known() -> None:
    out = io.StringIO()
    render_dr.loss(loss_view(loss()), out)
    assert "unknown: the primary was not heard" in out.getvalue()
    assert "SUSPENDED (silent)" in out.getvalue()


def test_a_loss_statement_of_a_primary_that_lives_names_the_better_way() -> None:
    out = io.StringIO()
    living = loss(primary_connected=True, lost_bytes=8192)
    render_dr.loss(loss_view(living), out)
    assert "isochrone group switch g" in out.getvalue()
    assert "8 KiB that the primary had announced" in out.getvalue()


def test_a_return_says_its_size_before_it_is_done() -> None:
    out = io.StringIO()
    render_dr.rejoined(rejoin_view(report()), out)
    text = out.getvalue()
    assert "would follow" in text
    assert "a delta from cut 7" in text
    assert "db 64 KiB, changed 20" in text
    assert "would be kept" in text


def test_a_return_that_is_a_first_copy_says_so_loudly() -> None:
    out = io.StringIO()
    whole = report(first_copy=True, cut=0, diverged={}, done=True, orphans="orphaned-g-1")
    render_dr.rejoined(rejoin_view(whole), out)
    assert "FIRST COPY" in out.getvalue()
    assert "orphaned-g-1" in out.getvalue()


def test_a_switch_lost_nothing() -> None:
    out = io.StringIO()
    render_dr.switched(switch_view(switched(hosts=["db: h"])), out)
    assert "nothing is lost" in out.getvalue()
    assert "db: h" in out.getvalue()
