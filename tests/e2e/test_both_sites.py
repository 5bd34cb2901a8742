"""Two controllers: a secondary that is asked first, and copies that are at both of one instant."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from isochrone.control.client import Client, path
from tests.control.process import Controller, Start
from tests.control.test_mirroring import link, tell
from tests.e2e.programs import run, uri

SIZE = 16 << 20


@pytest.fixture
def sites(start: Start, folder: Path) -> tuple[Controller, Controller]:
    """A mirrored group `g` of the volumes db and wal."""
    a, b = start(folder / "a"), start(folder / "b")
    for name in ("db", "wal"):  # by the API: a process for each step would take its time
        ask(a, "volumes", name=name, size=SIZE)
    ask(a, "groups", name="g", volumes=["db", "wal"])
    ask(b, "mirrors", group="g", source=link(a))
    ask(b, "mirrors", "g", "wait", timeout=30)
    soon(lambda: allowed(a))  # the primary hears a little later that the first copy is done
    return a, b


def ask(controller: Controller, *words: str, **body: Any) -> Any:
    client = Client(str(controller.directory))
    try:
        return json.loads(client.call("POST", path(*words), body, wait=30))
    finally:
        client.close()


def allowed(controller: Controller) -> bool:
    pairs = [{"source": "db", "target": "wal"}]
    return bool(ask(controller, "relations", "check", pairs=pairs)["ok"])


def soon(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def fill(controller: Controller, folder: Path, volume: str, seed: int) -> None:
    image = folder / "image"
    image.write_bytes(Random(seed).randbytes(SIZE))
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, uri(controller, volume))


def content(controller: Controller, folder: Path, volume: str) -> bytes:
    out = folder / "out"
    out.unlink(missing_ok=True)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(controller, volume), out)
    return out.read_bytes()


def test_a_relation_that_the_secondary_must_allow(
    sites: tuple[Controller, Controller], folder: Path
) -> None:
    a, b = sites
    fill(a, folder, "db", 1)
    made = tell(a, "relation", "establish", "db=wal", "--mirror", "required", "--yes")
    assert made["way"] == "reserved"
    assert [step["stage"] for step in made["steps"]] == [
        "local", "configuration", "configuration", "secondary",
    ]  # fmt: skip
    tell(b, "mirror", "wait", "g", "--timeout", "30")
    assert content(b, folder, "wal") == content(a, folder, "db") == Random(1).randbytes(SIZE)
    assert "target" in tell(a, "relation", "check", "db=wal", code=4)
    number = str(made["relations"][0]["relation"])
    assert tell(a, "relation", "refresh", number, "--mirror", "required")["way"] == "reserved"
    b.end()
    said = tell(a, "relation", "refresh", number, "--mirror", "required", code=4)
    assert "inaccessible" in said
    assert tell(a, "relation", "refresh", number, "--mirror", "preferred")["way"] == "command"


def test_copies_at_both_sites(sites: tuple[Controller, Controller], folder: Path) -> None:
    a, b = sites
    fill(a, folder, "db", 2)
    done: dict[str, Any] = tell(
        a, "copy", "take", "--group", "g", "--at", "both", "--name", "golden",
        "--request", "r1", "--wait", "--timeout", "60",
    )  # fmt: skip
    assert done["done"], json.dumps(done)
    fill(a, folder, "db", 3)
    for controller in sites:
        assert content(controller, folder, "db@golden") == Random(2).randbytes(SIZE)
    again = tell(a, "copy", "take", "db", "wal", "--at", "both", "--request", "r1")
    assert again == done
    b.end()
    assert "DUPLEX" in tell(a, "copy", "take", "db", "--at", "both", code=4)
    states = tell(a, "copy", "requests")["requests"]
    assert states[0]["request"] == "r1"
    assert "sites" in tell(a, "copy", "take", "db", "--wait", code=2)


def test_copies_of_what_holds_still_at_both_sites(
    sites: tuple[Controller, Controller], folder: Path
) -> None:
    """The hook is let go once the copy is here, however long the link takes."""
    a, b = sites
    log = folder / "hook.log"
    fill(a, folder, "db", 4)
    hook = f"sh -c 'echo ready; cat; echo let go >> {log}'"
    words = ("copy", "take", "--group", "g", "--at", "both", "--mirror", "required")
    held = (*words, "--hook", hook, "--request", "r1", "--name", "still")
    done = tell(a, *held, "--wait", "--timeout", "60")
    assert (done["done"], done["consistency"]) == (True, "application")
    for controller in sites:
        assert content(controller, folder, "db@still") == Random(4).randbytes(SIZE)
    tell(b, "mirror", "wait", "g", "--timeout", "30")  # what it is comes with the next cut
    assert tell(b, "copy", "show", "still")["consistency"] == "application"
    assert tell(a, *held)["sites"] == done["sites"]
    assert log.read_text() == "let go\n", "what is known holds nothing still again"

    tell(b, "mirror", "wait", "g", "--timeout", "30")
    bad = tell(a, *words, "--hook", "sh -c 'echo ready; cat; exit 1'", "--request", "r2", code=11)
    assert "deleted again" in bad
    tell(b, "mirror", "wait", "g", "--timeout", "30")
    for controller in sites:
        assert [x["name"] for x in tell(controller, "copy", "list")["copies"]] == ["still"]
    states = {x["request"]: x["sites"][0]["state"] for x in tell(a, "copy", "requests")["requests"]}
    assert states == {"r1": "DONE", "r2": "EXPIRED"}

    os.kill(b.process.pid, signal.SIGSTOP)
    try:
        said = tell(a, *words, "--hook", hook, "--request", "r3", code=4)
        assert "nothing was taken" in said
        assert log.read_text() == "let go\n", "who is asked first is asked before anything holds"
    finally:
        os.kill(b.process.pid, signal.SIGCONT)


def test_a_request_outlives_its_primary(sites: tuple[Controller, Controller], folder: Path) -> None:
    a, b = sites
    fill(a, folder, "db", 5)
    words = ("copy", "take", "--group", "g", "--at", "both", "--request", "r1", "--name", "golden")
    tell(a, *words, "--wait", "--timeout", "60")
    tell(b, "mirror", "wait", "g", "--timeout", "30")
    a.end(signal.SIGKILL)
    tell(b, "group", "promote", "g", "--yes")
    (here,) = tell(b, "copy", "requests")["requests"]
    assert (here["copy"], here["inherited"], here["sites"][0]["state"]) == ("golden", True, "DONE")
    again = tell(b, *words)
    assert (again["request"], again["stamp"]) == ("r1", here["stamp"]), "not taken again"
