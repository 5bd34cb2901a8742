"""Routes of the API: schedules, pruning, labels."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import Field

from isochrone.control import views_schedules as v
from isochrone.control.answers import Body, answer, gives
from isochrone.control.census import Census
from isochrone.control.times import rfc3339
from isochrone.control.views import CopyView, VolumeView
from isochrone.store import copies, schedules, volumes
from isochrone.store.catalogue import Schedule
from isochrone.store.labels import parse_labels
from isochrone.store.pool import Pool
from isochrone.store.retention import Verdict
from isochrone.store.schedule import parse_rules
from isochrone.store.scheduler import PRUNED_AT_ONCE, Scheduler


class NewSchedule(Body):
    rules: str = Field(description="as typed: every 5m keep 12, daily at 02:30 keep 7 (UTC)")
    volumes: list[str] = Field(default=[])
    group: str = ""
    labels: list[str] = Field(default=[], description="tier=gold; volumes with all of them")
    dry_run: bool = Field(default=False, description="say only what would be deleted")


class Pruning(Body):
    schedule: str = Field(default="", description="empty: all of them")
    dry_run: bool = False


class Labels(Body):
    put: list[str] = Field(default=[], description="tier=gold")
    remove: list[str] = Field(default=[], description="keys")


def add_schedules(app: FastAPI, pool: Pool, census: Census, scheduler: Scheduler) -> None:
    @app.get("/v1/schedules", **gives(v.ScheduleList))
    async def list_schedules() -> Response:
        return answer(v.ScheduleList(schedules=views_of_schedules(pool, scheduler)))

    @app.get("/v1/schedules/{name}", **gives(v.ScheduleView))
    async def show_schedule(name: str) -> Response:
        return answer(schedule_view(pool, schedules.find_schedule(pool, name), scheduler))

    @app.put("/v1/schedules/{name}", **gives(v.ScheduleView))
    async def set_schedule(name: str, body: NewSchedule) -> Response:
        """Make or change a schedule; with `dry_run` answer with a VerdictList instead."""
        wanted = schedules.Wanted(body.volumes, body.group, parse_labels(body.labels))
        drafted = schedules.draft(pool, name, body.rules, wanted)
        if body.dry_run:
            return answer(v.VerdictList(dry_run=True, verdicts=_plan(pool, drafted)))
        schedule = schedules.put(pool, drafted)
        scheduler.changed(name)
        await pool.flush()
        return answer(schedule_view(pool, schedule, scheduler))

    @app.delete("/v1/schedules/{name}", status_code=204)
    async def delete_schedule(name: str) -> Response:
        schedules.delete(pool, name)
        await pool.flush()
        return Response(status_code=204)

    @app.post("/v1/schedules/{name}/run", **gives(CopyView, 201))
    async def run_schedule(name: str) -> Response:
        copy = await scheduler.run_now(name)
        return answer(census.copy(copy), 201)

    @app.post("/v1/prunings", **gives(v.VerdictList))
    async def prune(body: Pruning) -> Response:
        names = [body.schedule] if body.schedule else sorted(pool.state.schedules)
        found = [schedules.find_schedule(pool, name) for name in names]
        verdicts = [verdict for schedule in found for verdict in _plan(pool, schedule)]
        if not body.dry_run:
            for schedule in found:
                await _prune(pool, schedule, verdicts)
            await pool.flush()
        elif not body.schedule:
            verdicts += _others(pool)
        return answer(v.VerdictList(dry_run=body.dry_run, verdicts=verdicts))

    @app.patch("/v1/volumes/{name}/labels", **gives(VolumeView))
    async def label_volume(name: str, body: Labels) -> Response:
        volume = volumes.label(pool, name, parse_labels(body.put), body.remove)
        await pool.flush()
        return answer(await census.volume(volume))


def _plan(pool: Pool, schedule: Schedule) -> list[v.VerdictView]:
    found = []
    for verdict in schedules.plan(pool, schedule):
        view = verdict_view(verdict, schedule.name)
        if not view.keep:
            busy = copies.why_not_deletable(pool, pool.state.copies[view.copy])
            view.keep, view.why = bool(busy), busy or view.why
        found.append(view)
    return found


async def _prune(pool: Pool, schedule: Schedule, verdicts: list[v.VerdictView]) -> None:
    """Delete what is doomed, letting others run; note what could not be."""
    refused: dict[str, str] = {}
    gone = [""]
    while gone:
        gone, refused = schedules.prune(pool, schedule, PRUNED_AT_ONCE)
        await pool.world.clock.sleep(0)
    for verdict in verdicts:
        if verdict.copy in refused:
            verdict.keep, verdict.why = True, refused[verdict.copy]


def _others(pool: Pool) -> list[v.VerdictView]:
    """Copies that no schedule prunes."""
    return [
        v.VerdictView(copy=copy.name, schedule=copy.schedule, keep=True, why=why)
        for copy in sorted(pool.state.copies.values(), key=lambda copy: -copy.lsn)
        if (why := _nobody_prunes(pool, copy.schedule, copy.group))
    ]


def _nobody_prunes(pool: Pool, schedule: str, group: str) -> str:
    if group:
        return f"its primary's, by the mirror of group {group}"
    if not schedule:
        return "not taken by a schedule"
    return "" if schedule in pool.state.schedules else f"the schedule {schedule} is deleted"


def schedule_view(pool: Pool, schedule: Schedule, scheduler: Scheduler) -> v.ScheduleView:
    volumes = pool.state.volumes
    taken = schedules.copies_of(pool, schedule.name)
    outlook = scheduler.outlook(schedule)
    last = max(schedule.last.values(), default=0)
    return v.ScheduleView(
        name=schedule.name,
        rules=schedule.rules,
        volumes=sorted(volumes[id].name for id in schedule.volumes if id in volumes),
        group=schedule.group,
        labels=schedule.labels,
        members=[volume.name for volume in schedules.members(pool, schedule)],
        next_due=outlook.next_due,
        next_due_time=rfc3339(outlook.next_due),
        last=last,
        last_time=rfc3339(last),
        last_copy=schedule.last_copy,
        copies=len(taken),
        by_rule=[
            v.ScheduleRuleView(
                rule=str(rule),
                keep=rule.keep,
                copies=sum(rule.name in copy.rules for copy in taken),
                last=schedule.last.get(rule.name, 0),
                last_time=rfc3339(schedule.last.get(rule.name, 0)),
            )
            for rule in parse_rules(schedule.rules)
        ],
        error=outlook.error,
    )


def views_of_schedules(pool: Pool, scheduler: Scheduler) -> list[v.ScheduleView]:
    found = pool.state.schedules
    return [schedule_view(pool, found[name], scheduler) for name in sorted(found)]


def verdict_view(verdict: Verdict, schedule: str) -> v.VerdictView:
    return v.VerdictView(copy=verdict.copy, schedule=schedule, keep=verdict.keep, why=verdict.why)
