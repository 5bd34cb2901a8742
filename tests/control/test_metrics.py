"""`/metrics`: well formed, complete, and what the shipped alerts ask for."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2

from isochrone.control.metrics import METRICS, group_samples, render
from isochrone.mirror.tally import Shipped
from tests.control import examples

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "examples" / "prometheus" / "isochrone.rules.yml"
SAMPLE = re.compile(
    r'^(?P<name>[a-z_]+)(?:\{(?P<labels>(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\})?'
    r" (?P<value>-?[0-9.e+]+)$"
)


def parse(page: str) -> dict[tuple[str, str], float]:
    """(name, labels as written) -> value. Fails on anything that Prometheus would not read."""
    found: dict[tuple[str, str], float] = {}
    typed: set[str] = set()
    for line in page.splitlines():
        if line.startswith("# HELP "):
            assert len(line.split(" ", 3)) == 4
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("gauge", "counter")
            assert name not in typed, "a metric must not come twice"
            typed.add(name)
        else:
            match = SAMPLE.match(line)
            assert match, line
            assert match["name"] in typed, "its TYPE comes first"
            key = (match["name"], match["labels"] or "")
            assert key not in found, f"{key} comes twice"
            found[key] = float(match["value"])
    assert page.endswith("\n")
    return found


def test_names_say_what_they_are() -> None:
    for name, (kind, help_) in METRICS.items():
        assert re.fullmatch(r"isochrone(_[a-z]+)+", name)
        assert (kind == "counter") == name.endswith("_total")
        assert help_.endswith(".") and "\n" not in help_


def test_labels_are_escaped() -> None:
    page = render([("isochrone_group_cut", (("group", 'a"b\\c\nd'),), 7)])
    assert 'isochrone_group_cut{group="a\\"b\\\\c\\nd"} 7' in page
    assert parse(page)


def test_a_secondary_and_a_primary() -> None:
    secondary = examples.group_status(
        behind_bytes=10, phase="resend", todo_bytes=9, shipped=Shipped(data=5)
    )
    peer = examples.peer(site="west", backlog_bytes=77, limit_seconds=5.0, pair="SUSPENDED")
    primary = examples.group_status(group="p", role="primary", peers=[peer])
    found = parse(render([*group_samples([secondary, primary])]))
    assert found["isochrone_group_recoverable_age_seconds", 'group="g"'] == 1.4
    assert found["isochrone_group_received_bytes_total", 'group="g",kind="data"'] == 5
    assert found["isochrone_session_backlog_bytes", 'group="p",peer="west"'] == 77
    assert found["isochrone_session_suspended", 'group="p",peer="west"'] == 1
    assert not any(name.startswith("isochrone_group_recover") and 'p"' in labels
                   for name, labels in found)  # fmt: skip


def test_what_is_not_known_is_absent() -> None:
    """A zero would look like a recovery point of this moment."""
    status = examples.group_status(recovery_point=0, recovery_point_age=-1.0)
    found = parse(render(group_samples([status])))
    assert found["isochrone_group_recoverable", 'group="g"'] == 0
    assert ("isochrone_group_recoverable_age_seconds", 'group="g"') not in found


async def test_the_page(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = parse(answer.text)
    assert found["isochrone_volumes", ""] == 0
    assert found["isochrone_pool_read_only", ""] == 0
    assert found["isochrone_pool_free_bytes", ""] > 0


def test_every_metric_of_the_alerts_exists() -> None:
    named = set(re.findall(r"isochrone_[a-z_]+", RULES.read_text()))
    assert len(named) > 8
    assert named <= set(METRICS)
    assert RULES.read_text().count("- alert:") == RULES.read_text().count("summary:")


def test_every_metric_is_in_the_manual() -> None:
    manual = (ROOT / "docs" / "operating.md").read_text()
    assert [name for name in METRICS if f"`{name}`" not in manual] == []
