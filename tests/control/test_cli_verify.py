"""`mirror verify` and `mirror repair` over two real controllers."""

from __future__ import annotations

from tests.control.process import Connect, Controller
from tests.control.test_mirroring import link, sites, tell

__all__ = ["sites"]


def test_two_sites_are_compared(sites: tuple[Controller, Controller], connect: Connect) -> None:
    primary, secondary = sites
    connect(primary, "v1").write(0, b"a" * (1 << 20))
    tell(secondary, "mirror", "add", "g", "--source", link(primary))
    tell(secondary, "mirror", "wait", "g", "--timeout", "30")
    done = tell(secondary, "mirror", "verify", "g", "--read", "--rate", "100MiB")
    assert (done["state"], done["found"], done["bytes"]) == ("done", 0, 8 << 20)
    assert done["last_read"]["cut"] > 0
    set_to = tell(secondary, "mirror", "verify", "g", "--every", "7d", "--read")
    assert (set_to["every"], set_to["read"]) == (7 * 86400, True)
    assert tell(secondary, "mirror", "verify", "g", "--every", "0s")["every"] == 0
    assert "no comparison" in tell(secondary, "mirror", "verify", "g", "--stop", code=4)
    assert "at the secondary" in tell(primary, "mirror", "verify", "g", code=4)
    assert tell(primary, "mirror", "repair", "g")["unhealed"] == []
    shown = tell(secondary, "mirror", "verify", "g", "--status")
    assert (shown["state"], shown["last_verified"]["found"]) == ("done", 0)
