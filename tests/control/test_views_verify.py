from __future__ import annotations

import msgspec

from isochrone.control import views_verify as v
from isochrone.mirror.comparison import Found

STAMP = 1_700_000_000_000_000_000
PASS = v.PassView(
    stamp=STAMP, cut=7, read=True, bytes=8 << 20, unstable_bytes=0, found=2, healed=1, seconds=3.5,
    time="2023-11-14T22:13:20.000Z", age=61.0,
)  # fmt: skip
VIEW = v.VerifyView(
    group="shop", state="done", reason="", every=604800.0, read=True, repair=False, rate=1 << 20,
    started_time="2023-11-14T22:13:16.500Z", total=8 << 20, bytes=8 << 20, bytes_read=1 << 20,
    unstable_bytes=65536, found=2, unhealed=1,
    findings=[
        Found(kind="damaged here", volume="db", remote=1, offset=4096, bytes=4096, cause="rot",
              healed=True),
        Found(kind="different", volume="wal", remote=2, offset=0, bytes=8192, cause="a bug"),
    ],
    last_verified=PASS, last_read=PASS, history=[PASS],
)  # fmt: skip
OUTCOME = v.OutcomeView(
    stamp=STAMP, owners=["db", "db@c"], offset=4096, healed=False, why="nobody has it",
    time="2023-11-14T22:13:20.000Z",
)  # fmt: skip
REPAIR = v.RepairView(waiting=0, healed=3, unhealed=[OUTCOME], outcomes=[OUTCOME])


def test_documents_come_back() -> None:
    for view in (VIEW, REPAIR):
        assert msgspec.json.decode(msgspec.json.encode(view), type=type(view)) == view
