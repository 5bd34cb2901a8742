"""A byte is flipped in the files of each site of a real mirror: found, named, and healed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.control.process import Controller, Nbd, Start
from tests.e2e.programs import isochrone

BLOCKS = 64


def ask(controller: Controller, *words: str) -> Any:
    return json.loads(isochrone(controller, "--output", "json", *words))


def spoil(controller: Controller, content: bytes) -> None:
    """Flip a bit where this content lies in a segment file."""
    found = 0
    for path in sorted(Path(controller.directory).glob("segment-*")):
        data = path.read_bytes()
        at = data.find(content)
        while at >= 0:
            with path.open("r+b") as file:
                file.seek(at + 1000)
                file.write(bytes([data[at + 1000] ^ 4]))
            found += 1
            at = data.find(content, at + 1)
    assert found == 1


def check(controller: Controller) -> None:
    subprocess.run(
        [sys.executable, "-m", "isochrone", "check", str(controller.directory)], check=True
    )


@pytest.mark.parametrize("side", ["primary", "secondary"])
def test_rot_is_healed_from_the_other_site(folder: Path, start: Start, side: str) -> None:
    primary, secondary = start(folder / "a"), start(folder / "b")
    isochrone(primary, "volume", "create", "db", "16MiB")
    isochrone(primary, "group", "create", "shop", "db")
    block = [Random(n).randbytes(4096) for n in range(BLOCKS)]
    with Nbd(primary.address("nbd"), "db") as client:
        client.write(0, b"".join(block))
        client.flush()
    isochrone(secondary, "mirror", "add", "shop", "--source", primary.address("link"))
    isochrone(secondary, "mirror", "wait", "shop", "--timeout", "30")
    rotten = primary if side == "primary" else secondary
    spoil(rotten, block[17])
    spoil(rotten, block[40])
    assert ask(secondary, "mirror", "verify", "shop")["found"] == 0
    done = ask(secondary, "mirror", "verify", "shop", "--read", "--repair")
    where = "damaged there" if side == "primary" else "damaged here"
    found = [(f["kind"], f["volume"], f["offset"], f["healed"]) for f in done["findings"]]
    assert found == [(where, "db", n * 4096, True) for n in (17, 40)]
    assert ask(rotten, "mirror", "repair", "shop")["healed"] == 2
    with Nbd(rotten.address("nbd"), "db") as client:
        assert client.read(0, BLOCKS * 4096) == b"".join(block)
    for controller in (primary, secondary):
        controller.end()
        check(controller)
