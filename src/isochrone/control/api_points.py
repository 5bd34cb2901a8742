"""Routes about points: which there are, how far back they reach, and opening one."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control.answers import Body, answer, gives
from isochrone.control.census import Census
from isochrone.control.times import parse_past, rfc3339
from isochrone.control.views import CopyView
from isochrone.control.views_points import PointView, WindowView
from isochrone.errors import InvalidInput
from isochrone.mirror import rewind
from isochrone.mirror.groups import find_group
from isochrone.store import windows
from isochrone.store.points import SECOND, Point, Window
from isochrone.store.pool import Pool
from isochrone.store.schedule import parse_span


class NewWindow(Body):
    keep: str = Field(default="", description="24h; empty: as it is")
    dense: str = Field(default="", description="10m: so far back, every cut; empty: as it is")
    bytes_max: int = Field(default=-1, description="0: a fifth of the pool; -1: as it is")
    off: bool = Field(default=False, description="keep nothing, and drop what was kept")


class Opening(Body):
    as_of: str = Field(description="a cut, an instant of the primary's clock, or `10m ago`")
    name: str = ""
    writable: bool = False
    expendable: bool = False


def add_points(app: FastAPI, pool: Pool, census: Census) -> None:
    @app.get("/v1/groups/{name}/points", **gives(WindowView))
    async def list_points(name: str) -> Response:
        _, window = rewind.find_window(pool, name)
        return answer(window_view(pool, window))

    @app.put("/v1/groups/{name}/window", **gives(WindowView))
    async def set_window(name: str, body: NewWindow) -> Response:
        window = _set(pool, name, body)
        windows.thin_all(pool)
        await pool.flush()
        return answer(window_view(pool, window))

    @app.post("/v1/groups/{name}/points/open", **gives(CopyView, 201))
    async def open_point(name: str, body: Opening) -> Response:
        """A copy of all volumes of the group, as of the newest point at or before that."""
        group, _ = rewind.find_window(pool, name)
        point = find_point(pool, name, body.as_of)
        copy = windows.open_point(
            pool,
            group,
            point,
            name=body.name,
            writable=body.writable,
            expendable=body.expendable,
        )
        await pool.flush()
        return answer(census.copy(copy), 201)


def find_point(pool: Pool, name: str, as_of: str) -> Point:
    """A cut, an instant of the primary's clock, or `10m ago`. Raises `NotFound`, `InvalidInput`."""
    if as_of.isascii() and as_of.isdigit():
        return rewind.find_cut(pool, name, int(as_of))
    return rewind.find_time(pool, name, parse_past(as_of, pool.world.clock.wall_ns()))


def _set(pool: Pool, name: str, body: NewWindow) -> Window:
    group = find_group(pool, name)
    old = pool.state.windows.get(name)
    if body.off:
        if body.keep or body.dense or body.bytes_max >= 0:
            raise InvalidInput("a window is off, or it keeps something", hint="not both")
        return windows.set_window(pool, group, 0)
    if not body.keep and not (old is not None and old.keep_s):
        raise InvalidInput("how far back?", hint="give --keep: 24h")
    return windows.set_window(
        pool,
        group,
        parse_span(body.keep) if body.keep else old.keep_s if old is not None else 0,
        parse_span(body.dense) if body.dense else _dense(body, old),
        body.bytes_max if body.bytes_max >= 0 else old.bytes_max if old is not None else 0,
    )


def _dense(body: NewWindow, old: Window | None) -> int | None:
    """As it was, as far as the new window reaches; None: the default."""
    if old is None or not old.keep_s:
        return None
    return min(old.dense_s, parse_span(body.keep)) if body.keep else old.dense_s


def window_view(pool: Pool, window: Window) -> WindowView:
    now = pool.window_clock.now()
    return WindowView(
        group=window.group,
        keep=window.keep_s,
        dense=window.dense_s,
        bytes_max=window.bytes_max,
        bytes=pool.space.history.get(window.group, 0),
        versions=sum(group == window.group for group in pool.state.history().values()),
        points=[
            PointView(
                cut=point.cut,
                stamp=point.stamp,
                time=rfc3339(point.stamp),
                age=max(0.0, (now - point.kept_at) / SECOND),
            )
            for point in window.points
        ],
    )
