from __future__ import annotations

import msgspec

from isochrone.control import views_matched as v

STEP = v.StepView(
    stage="secondary", question="may it?", ok=False, reason="space", site="far", detail="full"
)
REQUEST = v.RequestView(
    request="r1",
    group="g",
    copy="golden",
    volumes=["db"],
    stamp=1_700_000_000_000_000_000,
    time="2023-11-14T22:13:20.000Z",
    done=False,
    sites=[
        v.RequestSiteView(
            peer="ab" * 16, site="", state="EXPIRED", detail="too late", copy="", withdraw=True
        )
    ],
)


def test_documents_come_back() -> None:
    check = v.CheckView(ok=False, way="command", steps=[STEP])
    for view in (check, v.RequestList(requests=[REQUEST])):
        assert msgspec.json.decode(msgspec.json.encode(view), type=type(view)) == view
