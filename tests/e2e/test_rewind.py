"""Numbered writes at a real primary; its replica, opened as of its cuts, is an exact prefix.

The secondary is killed meanwhile, and the window is turned off at the end.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Final

from isochrone.control.client import Client, path
from isochrone.errors import NotFound
from tests.control.process import Controller, Start
from tests.e2e.numbered import SIZE, Writer, standing_at
from tests.e2e.programs import isochrone, until

VOLUMES: Final = ("db", "wal")
GROUP: Final = "shop"


def ask(controller: Controller, *words: str) -> Any:
    return json.loads(isochrone(controller, "--output", "json", *words))


def call(controller: Controller, method: str, *words: str, body: Any = None) -> Any:
    """By the API: no process for each question."""
    client = Client(str(controller.directory))
    try:
        return json.loads(client.call(method, path(*words), body))
    finally:
        client.close()


def cuts(controller: Controller) -> list[int]:
    found = call(controller, "GET", "groups", GROUP, "points")
    return [point["cut"] for point in found["points"]]


def test_any_cut_is_a_prefix(folder: Path, start: Start) -> None:
    primary = start(folder / "a")
    for name in VOLUMES:
        isochrone(primary, "volume", "create", name, str(SIZE))
    isochrone(primary, "group", "create", GROUP, *VOLUMES)
    secondary = start(folder / "b")
    isochrone(secondary, "mirror", "add", GROUP, "--source", primary.address("link"))
    writer = Writer(primary.directory / "nbd.sock", VOLUMES)
    writer.start()
    done: dict[int, tuple[int, int]] = {}  # cut -> writes done before it was asked for, and after
    for _ in range(3):
        before = writer.done
        cut = ask(secondary, "mirror", "wait", GROUP, "--timeout", "30")["cut"]
        done[cut] = (before, writer.done)
    secondary.end(signal.SIGKILL)
    secondary = start(folder / "b")
    count = len(cuts(secondary))
    until(lambda: len(cuts(secondary)) > count)
    writer.stop()
    numbers = []
    opened = []
    for cut in sorted({*done, *cuts(secondary)[-2:]}):
        name = f"at-{cut}"
        body = {"as_of": str(cut), "name": name}
        try:
            taken = call(secondary, "POST", "groups", GROUP, "points", "open", body=body)
        except NotFound:
            continue  # of two cuts in one second the later goes
        assert taken["as_of_cut"] == cut
        opened.append(cut)
        exports = [f"{volume}@{name}" for volume in VOLUMES]
        numbers.append(standing_at(secondary.directory / "nbd.sock", exports))
        low, high = done.get(cut, (0, writer.done))
        assert low <= numbers[-1] <= high + 1  # one may be on its way back
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1
    isochrone(secondary, "mirror", "rewind-window", GROUP, "--off", "--yes")
    assert cuts(secondary) == []
    exports = [f"{volume}@at-{opened[0]}" for volume in VOLUMES]
    assert standing_at(secondary.directory / "nbd.sock", exports) == numbers[0]
