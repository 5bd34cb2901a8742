"""`isochrone mirror points`, `rewind-window` and `copy take --as-of` against real controllers."""

from __future__ import annotations

import pytest

from isochrone.control.cli_points import take_as_of
from isochrone.control.command import Site
from isochrone.errors import InvalidInput
from tests.control.process import Connect, Controller
from tests.control.test_mirroring import link, sites, tell

__all__ = ["sites"]


def test_a_day_of_a_replica(sites: tuple[Controller, Controller], connect: Connect) -> None:
    primary, secondary = sites
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    client = connect(primary, "v1")
    client.write(0, bytes([1]) * 4096)
    client.flush()
    cut = tell(secondary, "mirror", "wait", "g", "--timeout", "30")["cut"]
    point = tell(secondary, "mirror", "points", "g")["points"][-1]
    assert point["cut"] == cut
    taken = tell(secondary, "copy", "take", "g", "--as-of", str(cut), "--name", "then")
    assert taken["as_of_cut"] == cut
    words = ("--group", "g", "--as-of", point["time"], "--writable")
    taken = tell(secondary, "copy", "take", *words)
    assert (taken["time"], taken["writable"]) == (point["time"], True)
    client.write(0, bytes([9]) * 4096)
    for name in ("then", taken["name"]):
        assert connect(secondary, f"v1@{name}").read(0, 4096) == bytes([1]) * 4096
    assert "ask its secondary" in tell(primary, "copy", "take", "g", "--as-of", "1s ago", code=4)
    tell(secondary, "copy", "take", "g", "--as-of", "1", "--freeze", "/", code=2)
    set_to = tell(secondary, "mirror", "rewind-window", "g", "--keep", "1h", "--bytes", "1GiB")
    assert (set_to["keep"], set_to["bytes_max"]) == (3600, 1 << 30)
    tell(secondary, "mirror", "rewind-window", "g", "--off", code=2)
    assert tell(secondary, "mirror", "rewind-window", "g", "--off", "--yes")["points"] == []
    assert connect(secondary, "v1@then").read(0, 4096) == bytes([1]) * 4096


@pytest.mark.parametrize(("volumes", "group"), [((), ""), (("a", "b"), ""), (("a",), "g")])
def test_one_group_is_named(volumes: tuple[str, ...], group: str) -> None:
    with pytest.raises(InvalidInput, match="one group"):
        take_as_of(Site(), "1", volumes, group, {})
