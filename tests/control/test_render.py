"""What people see: plain text in pipes, colour only where it is wanted."""

from __future__ import annotations

import io

import msgspec
import pytest

from isochrone.control import render, render_mirror, views
from isochrone.control.views import promote_view
from isochrone.control.views_mirror import group_view
from isochrone.types import MIB
from tests.control import examples


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_plain_table_is_aligned() -> None:
    out = io.StringIO()
    render.volumes([examples.volume("v1"), examples.volume("longer", clients=["a", "b"])], out)
    assert out.getvalue() == (
        "VOLUME    SIZE  MAPPED  GROUP  USE\n"
        "v1      64 MiB   1 MiB  -      -\n"
        "longer  64 MiB   1 MiB  -      2 clients\n"
    )


def test_one_client_is_one_client() -> None:
    out = io.StringIO()
    render.volumes([examples.volume(clients=["a"], read_only=True)], out)
    assert "1 client, read-only" in out.getvalue()


def test_a_terminal_gets_a_drawn_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    render_mirror.groups([group_view(examples.group_status(state="SUSPENDED", cause="link"))], out)
    assert "\x1b[31m" in out.getvalue()
    assert "SUSPENDED (link)" in out.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    render_mirror.groups([group_view(examples.group_status(state="SUSPENDED"))], out)
    assert "\x1b[3" not in out.getvalue()
    assert "SUSPENDED" in out.getvalue()


def test_names_are_not_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    out = Terminal()
    render.table("", ["CAUSE"], [["[red]x[/red]"]], out)
    assert "[red]x[/red]" in out.getvalue()


def test_one_volume_leaves_out_what_is_empty() -> None:
    out = io.StringIO()
    render.volume(examples.volume(clients=["unix#1"]), out)
    text = out.getvalue()
    assert "size     64 MiB (67108864 bytes)" in text
    assert "clients  unix#1" in text
    assert "source" not in text


def test_one_copy() -> None:
    out = io.StringIO()
    render.copy(examples.copy(group="g"), out)
    assert "came with group g" in out.getvalue()
    assert "v1@c1   64 MiB  v1" in out.getvalue()


def test_many_exports_are_cut_short() -> None:
    members = examples.copy().members * 5
    out = io.StringIO()
    render.copies([examples.copy(members=members)], out)
    assert "v1@c1 v1@c1 v1@c1 and 2 more" in out.getvalue()


def test_a_promote_says_what_is_lost() -> None:
    out = io.StringIO()
    render.promoted(promote_view(examples.report()), out)
    assert "unknown: the primary was not heard" in out.getvalue()
    out = io.StringIO()
    render.promoted(promote_view(examples.report(lost_bytes=8192, last_heard=examples.NOON)), out)
    assert "8 KiB that the primary had announced" in out.getvalue()


def test_one_screen() -> None:
    out = io.StringIO()
    render.site(examples.site(), out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "isochrone 9.9  /var/lib/iso  2023-11-14T22:13:20.000Z"
    assert lines[1] == "log 5 GiB in 1 segment, 10 GiB free on disk"
    assert [line for line in lines if line in ("Volumes", "Copies", "Groups")] == [
        *("Volumes", "Copies", "Groups")
    ]


def test_an_empty_site_says_how_to_begin() -> None:
    out = io.StringIO()
    render.site(examples.site(volumes=[], copies=[], groups=[], failed="a sync failed"), out)
    assert "READ-ONLY: a sync failed" in out.getvalue()
    assert "isochrone volume create" in out.getvalue()


# -- the front door


def a_door(**changed: object) -> views.DoorView:
    memory = views.MemoryView(tables=MIB, tables_limit=512 * MIB, clients=0, clients_limit=MIB)
    fields = {
        "tls": "required",
        "folder": "/etc/pki",
        "certificate_until": "2027-01-01T00:00:00.000Z",
        "verify_clients": True,
        "default": "",
        "rules": [],
        "memory": memory,
        "clients": [],
    }
    return views.DoorView(**(fields | changed))


def test_a_door_without_rules_or_clients() -> None:
    out = io.StringIO()
    render.door(a_door(), out)
    told = out.getvalue()
    assert "tls               required\n" in told
    assert "clients           must have a certificate\n" in told
    assert "certificates      /etc/pki, until 2027-01-01T00:00:00.000Z\n" in told
    assert "1 MiB of 512 MiB" in told
    assert "RULE FOR" not in told
    assert "EXPORT" not in told


def test_a_door_with_all() -> None:
    rules = [
        views.RuleView(export="orders", tls=True, hosts=["db1", "db2"]),
        views.RuleView(export="nobody", tls=True, hosts=[]),
        views.RuleView(export="*", tls=False, hosts=None),
    ]
    known = examples.attachment(kind="certificate", host="db1", addresses=["192.0.2.1:7"])
    guest = views.GuestView(export="orders", **msgspec.structs.asdict(known))
    out = io.StringIO()
    render.door(a_door(tls="per-export", default="orders", rules=rules, clients=[guest]), out)
    lines = out.getvalue().splitlines()
    assert "tls               per export: what has no rule is served in the clear" in lines
    assert "empty name        orders" in lines
    assert "orders    required  db1 db2" in lines
    assert "nobody    required  none" in lines
    assert "*         optional  any" in lines
    assert "orders  db1     certificate  192.0.2.1:7" in lines


def test_clients_and_how_they_are_known() -> None:
    many = examples.attachment(kind="certificate", host="db1", addresses=["a:1", "a:2"])
    one = examples.attachment()
    out = io.StringIO()
    render.volume(examples.volume(attachments=[many, one], clients=["db1", "unix#1"]), out)
    assert "clients  db1 (certificate, 2 connections), uid 7 (user)" in out.getvalue()
    out = io.StringIO()
    lost = examples.attachment(addresses=[], lease_left=12.4)
    render.volume(examples.volume(attachments=[lost]), out)
    assert "uid 7 (user, cut off, counts for another 12 s)" in out.getvalue()
    out = io.StringIO()
    render.volume(examples.volume(clients=["10.0.0.1:9"]), out)  # of an older controller
    assert "clients  10.0.0.1:9" in out.getvalue()


def test_a_reload() -> None:
    for gone, words in ((0, "reloaded\n"), (1, "1 client let go"), (2, "2 clients let go")):
        out = io.StringIO()
        render.reloaded(views.ReloadView(clients_gone=gone), out)
        assert words in out.getvalue()
