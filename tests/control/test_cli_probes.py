"""`mirror probe` and `probes` over two real controllers, with real checks."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.control.process import Connect, Controller
from tests.control.test_mirroring import link, sites, tell

__all__ = ["sites"]

CHECK = """
import os, sys
sys.path[:0] = {path!r}
from tests.control.process import Nbd
from urllib.parse import parse_qs, unquote, urlsplit
found = urlsplit(os.environ["ISOCHRONE_URI_V1"])
lines = os.environ["ISOCHRONE_URIS"].splitlines()
assert [line.split()[0] for line in lines] == ["v1", "v2"], lines
assert lines[0].split()[1] == os.environ["ISOCHRONE_URI_V1"]
socket = parse_qs(found.query)["socket"][0]
with Nbd(socket, unquote(found.path[1:])) as disk:
    disk.write(4096, b"a journal is replayed")
    print(disk.read(0, 5).decode(), os.environ["ISOCHRONE_CUT"])
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def check(tmp_path: Path) -> str:
    file = tmp_path / "check.py"
    file.write_text(CHECK.format(path=[str(Path(__file__).resolve().parents[2])]))
    return f"{sys.executable} {file}"


def test_a_replica_is_proven(
    sites: tuple[Controller, Controller], connect: Connect, check: str
) -> None:
    primary, secondary = sites
    connect(primary, "v1").write(0, b"order")
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    cut = tell(secondary, "mirror", "wait", "g", "--timeout", "30")["cut"]
    done = tell(secondary, "mirror", "probe", "g", "--run", f"{check} 0")
    assert (done["result"], done["said"], done["cut"]) == ("good", f"order {cut}", cut)
    assert done["uris"] == {}
    assert connect(secondary, "v1").read(4096, 4) == bytes(4)
    failed = tell(
        secondary, "mirror", "probe", "g", "--run", f"{check} 3", "--as-of", str(cut), code=11
    )
    assert "exit code 3: order" in failed
    tell(secondary, "mirror", "probe", "g", "--run", "sleep 60", "--deadline", "1s", code=11)
    shown = tell(secondary, "mirror", "probes", "g")
    assert [probe["result"] for probe in shown["probes"]] == ["good", "bad", "bad"]
    assert 0 <= shown["age"] < 60
    status = tell(secondary, "mirror", "status", "g")
    assert (status["probe_failed"], status["probe_age"] >= 0) == (True, True)
    assert tell(secondary, "copy", "list")["copies"] == []


def test_a_command_line_that_dies(sites: tuple[Controller, Controller]) -> None:
    primary, secondary = sites
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    words = (
        "--site",
        str(secondary.directory),
        "mirror",
        "probe",
        "g",
        "--run",
        "sh -c 'echo >&2; sleep 60'",
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        running = subprocess.Popen(
            [sys.executable, "-m", "isochrone", *words],
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert running.stderr is not None
        assert running.stderr.read(1) == b"\n"  # the check runs
        running.send_signal(number)
        running.wait(30)
        running.stderr.close()
    shown = tell(secondary, "mirror", "probes", "g")["probes"]
    assert [probe["result"] for probe in shown] == ["bad", "bad", ""]
    assert all("interrupted" in probe["said"] for probe in shown[:2])
    assert "is running on the copy" in tell(
        secondary, "mirror", "probe", "g", "--run", "true", code=4
    )
    assert tell(secondary, "mirror", "probe", "g", "--stop")["result"] == "bad"
    assert tell(secondary, "copy", "list")["copies"] == []
    assert "no probe" in tell(secondary, "mirror", "probe", "g", "--stop", code=4)
    tell(secondary, "mirror", "probe", "g", code=2)
    tell(secondary, "mirror", "probe", "g", "--run", "'", code=2)
    assert "ask its secondary" in tell(primary, "mirror", "probe", "g", "--run", "true", code=4)
