"""The daemon: one pool, its front door, its mirrors and its API, from start to a clean stop.

The order matters and is all here. Start: lock, recover, mirrors, front door, API, "ready". Stop:
nobody new is let in, requests that have arrived are answered, mirrors end, everything is made
durable and checkpointed, the socket files go, the lock goes last.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import apsw
import structlog
import uvicorn

from isochrone.control import sockets
from isochrone.control.api import make_app
from isochrone.control.entrance import Entrance, TlsSettings
from isochrone.control.memory import MEMORY_BYTES, split_memory
from isochrone.control.notify import Notifier
from isochrone.control.site import LocalSite, has_certificate
from isochrone.errors import InvalidInput, IsochroneError, PoolFailed, Unavailable
from isochrone.mirror.rewind import Keeper
from isochrone.mirror.service import Mirrors
from isochrone.mirror.shipment import PROGRESS_BYTES, PROGRESS_BYTES_MAX, PROGRESS_BYTES_MIN
from isochrone.nbd.filters import Filters
from isochrone.nbd.server import FrontDoor
from isochrone.nbd.vigil import Vigil
from isochrone.store.cleaner import Cleaner
from isochrone.store.front import PoolBackend
from isochrone.store.pool import LIMITS, Pool
from isochrone.store.scheduler import Scheduler
from isochrone.store.scrub import Scrub
from isochrone.types import MIB
from isochrone.world import World, system_world
from isochrone.world.disk import FolderDisk
from isochrone.world.documents import FolderDocuments
from isochrone.world.memory import keep_freed_memory, settle

DRAIN_S_MAX: Final = 5.0  # for clients to take their last answers; systemd gives 90 s in all
API_DRAIN_S_MAX: Final = 3  # for requests in flight; a change takes milliseconds
CHECK_S: Final = 1.0  # between looks at whether a checkpoint is due
RETRY_S: Final = 30.0  # after a checkpoint that failed: the log is safe meanwhile

log = structlog.get_logger("isochrone.service")


@dataclass(frozen=True, slots=True)
class Settings:
    directory: Path
    nbd: str = ""  # HOST:PORT beside the Unix socket; empty: none
    link: str = ""
    api: str = ""
    insecure: bool = False  # other hosts may reach these ports
    tls: TlsSettings = field(default_factory=TlsSettings)  # of the block ports
    memory: int = MEMORY_BYTES
    copy_step: int = PROGRESS_BYTES  # a mirror's copy that broke off sends so much again, at most

    def check(self) -> None:
        """Raise `InvalidInput` for what can be seen without touching anything."""
        for name in sockets.SOCKETS:
            sockets.socket_path(self.directory, name)
        self.tls.check()
        split_memory(self.memory)
        if not PROGRESS_BYTES_MIN <= self.copy_step <= PROGRESS_BYTES_MAX:
            raise InvalidInput(
                f"--copy-step is {PROGRESS_BYTES_MIN // MIB} MiB to {PROGRESS_BYTES_MAX // MIB} MiB"
            )
        for option, address in (("--nbd", self.nbd), ("--link", self.link), ("--api", self.api)):
            if address:
                self.tcp(option, address)

    def tcp(self, option: str, address: str) -> tuple[str, int]:
        """(host, port) of one of the options. Raises `InvalidInput` if it is too open."""
        if option == "--nbd":
            insecure, hint = self.insecure or self.tls.authenticates, sockets.BLOCK_HINT
        elif option == "--link":
            insecure = self.insecure or has_certificate(self.directory)
            hint = sockets.LINK_HINT
        else:
            insecure, hint = self.insecure, sockets.PORT_HINT
        return sockets.tcp_address(option, address, insecure=insecure, hint=hint)


class Stop:
    """The wish to stop: asked once, it is done in order; asked twice, in a hurry."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def ask(self, why: str) -> None:
        log.info("stopping in a hurry" if self.asked.is_set() else "stopping", why=why)
        (self.hurried if self.asked.is_set() else self.asked).set()


class ApiServer(uvicorn.Server):
    """Signals belong to the service."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


class Service:
    """A running controller."""

    def __init__(
        self,
        settings: Settings,
        world: World,
        notifier: Notifier,
        stop: Stop,
        handed: Mapping[str, list[sockets.Listening]] | None = None,
    ) -> None:
        self._settings = settings
        self._world = world
        self._notifier = notifier
        self._stop = stop
        self._handed = handed or {}  # listening sockets that somebody opened for us, by room
        self._entrance: Entrance | None = None  # once there is something to reload
        self._clean = False  # nothing went wrong: a checkpoint may be made at the end
        self._checkpoint: asyncio.Task[Any] | None = None

    async def run(self, say_ready: Callable[[str], None]) -> None:
        """Serve until asked to stop. Raises what prevents it."""
        try:
            await self._run(say_ready)
        except ExceptionGroup as group:
            for error in group.exceptions:
                if isinstance(error, IsochroneError):
                    raise error from group
            raise

    def reload(self) -> None:
        """Read certificates and rules again, because a signal came."""
        if self._entrance is None:
            log.info("SIGHUP: nothing to reload yet")
            return
        self._entrance.try_to_reload()

    def _open_entrance(self) -> Entrance:
        """Before anything is touched: what is wrong here prevents a start."""
        settings = self._settings
        settings.check()
        authenticated = settings.tls.authenticates
        enrolled = has_certificate(settings.directory)
        rooms = [room for room, safe in (("nbd", authenticated), ("link", enrolled)) if safe]
        sockets.check_handed(self._handed, insecure=settings.insecure, authenticated=rooms)
        ports = bool(settings.nbd) or any(map(sockets.is_port, self._handed.get("nbd", ())))
        return Entrance(settings.directory, settings.tls, self._world.clock, ports=ports)

    async def _run(self, say_ready: Callable[[str], None]) -> None:
        entrance = self._entrance = self._open_entrance()
        memory = split_memory(self._settings.memory)
        keep = frozenset(sockets.paths_of(self._handed))
        directory = self._settings.directory
        async with AsyncExitStack() as stack:
            disk = _open_disk(directory)
            stack.callback(disk.close)
            sockets.remove_sockets(directory, keep)
            stack.callback(sockets.remove_sockets, directory, keep)
            local = LocalSite(directory, self._world, insecure=self._settings.insecure)
            world = replace(self._world, net=local.net)
            self._notifier.status("recovering")
            pool = Pool.open(disk, world, replace(LIMITS, node_bytes=memory.tables))
            local.open_enrolment(pool.identity)
            stack.push_async_callback(self._close, pool)
            scheduler = Scheduler(pool)
            cleaner = Cleaner(pool)
            stack.push_async_callback(cleaner.stop)
            scrub = Scrub(pool)
            stack.push_async_callback(scrub.close)
            mirrors = self._mirrors(pool, world)
            stack.push_async_callback(mirrors.stop)
            addresses = await self._listen_link(mirrors)
            await mirrors.start()
            backend = PoolBackend(pool)
            filters = Filters(backend)
            vigil = Vigil(self._world.clock, self._world.work, len(os.sched_getaffinity(0)))
            door = FrontDoor(
                filters,
                budget_bytes=memory.clients,
                vigil=vigil,
                pace=pool.space.pace,
                pace_export=mirrors.pace,
            )
            entrance.lead_to(backend, door)
            stack.push_async_callback(door.close, 0.0)
            addresses += await self._listen_nbd(door, entrance)
            api, listening, bound = self._make_api(
                *(pool, mirrors, filters),
                entrance=entrance,
                scheduler=scheduler,
                scrub=scrub,
                local=local,
            )
            addresses += bound
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(api.serve(listening))
                chores = [
                    tasks.create_task(self._checkpoints(pool)),
                    tasks.create_task(cleaner.run()),
                    tasks.create_task(scheduler.run()),
                    tasks.create_task(Keeper(pool).run()),
                    tasks.create_task(pool.make_spares()),
                    tasks.create_task(self._watchdog()),
                ]
                settle()
                self._tell_ready(pool, addresses, say_ready)
                scrub.resume()
                asked = tasks.create_task(self._stop.asked.wait())
                await asyncio.wait({asked, serving}, return_when=asyncio.FIRST_COMPLETED)
                if not self._stop.asked.is_set():
                    raise Unavailable("the API ended by itself")
                self._notifier.stopping("draining")
                api.should_exit = True
                await self._drain(door)
                for chore in chores:
                    chore.cancel()
            self._clean = True

    def _mirrors(self, pool: Pool, world: World) -> Mirrors:
        settings = self._settings
        documents = FolderDocuments(settings.directory)
        return Mirrors(pool, world, progress_bytes=settings.copy_step, documents=documents)

    def _tell_ready(
        self, pool: Pool, addresses: list[tuple[str, str]], say_ready: Callable[[str], None]
    ) -> None:
        say_ready(" ".join(["ready", *(f"{k}={shlex.quote(a)}" for k, a in addresses)]))
        self._notifier.ready(_summary(pool))
        log.info("ready", **dict(addresses))

    # -- listening

    def _own_path(self, name: str) -> str:
        """The path of a socket to open ourselves; empty if it was handed over."""
        path = sockets.socket_path(self._settings.directory, name)
        return "" if Path(path).absolute() in set(sockets.paths_of(self._handed)) else path

    async def _listen_link(self, mirrors: Mirrors) -> list[tuple[str, str]]:
        addresses = []
        for handed in self._handed.get("link", ()):
            await mirrors.listen(sockets.address_of(handed))  # the world has it under this name
            addresses.append(("link", sockets.address_of(handed)))
        if path := self._own_path(sockets.LINK_SOCKET):
            await mirrors.listen(path)
            sockets.keep_private(path)
            addresses.append(("link", path))
        if self._settings.link:
            host, port = self._tcp("--link", self._settings.link)
            bound = await mirrors.listen(sockets.join_address(host, port))
            addresses.append(("link-tcp", sockets.tidy_address(bound)))
        return addresses

    async def _listen_nbd(self, door: FrontDoor, entrance: Entrance) -> list[tuple[str, str]]:
        """Ports have TLS and rules; whoever may open a socket file may open every export."""
        addresses = []
        for handed in self._handed.get("nbd", ()):
            await door.listen_socket(
                handed, tls=entrance.policy if sockets.is_port(handed) else None
            )
            addresses.append(("nbd", sockets.address_of(handed)))
        if path := self._own_path(sockets.NBD_SOCKET):
            await door.listen_unix(path)
            sockets.keep_private(path)
            addresses.append(("nbd", path))
        if self._settings.nbd:
            host, port = self._tcp("--nbd", self._settings.nbd)
            insecure = self._settings.insecure
            bound = await door.listen_tcp(host, port, tls=entrance.policy, open_to_network=insecure)
            addresses.append(("nbd-tcp", sockets.join_address(*bound)))
        return addresses

    def _make_api(
        self,
        pool: Pool,
        mirrors: Mirrors,
        filters: Filters,
        entrance: Entrance,
        scheduler: Scheduler,
        scrub: Scrub,
        local: LocalSite,
    ) -> tuple[ApiServer, list[sockets.Listening], list[tuple[str, str]]]:
        settings = self._settings
        listening = list(self._handed.get("api", ()))
        addresses = [("api", sockets.address_of(handed)) for handed in listening]
        if path := self._own_path(sockets.API_SOCKET):
            listening.append(sockets.listen_unix(path))
            addresses.append(("api", path))
        if settings.api:
            wire = sockets.listen_tcp(*self._tcp("--api", settings.api))
            listening.append(wire)
            addresses.append(("api-tcp", sockets.join_address(*wire.getsockname()[:2])))
        app = make_app(
            *(pool, mirrors, settings.directory, filters),
            entrance=entrance,
            scheduler=scheduler,
            scrub=scrub,
            local=local,
            insecure=settings.insecure,
        )
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=API_DRAIN_S_MAX,
        )
        return ApiServer(config), listening, addresses

    def _tcp(self, option: str, address: str) -> tuple[str, int]:
        return self._settings.tcp(option, address)

    # -- tasks beside the service

    async def _checkpoints(self, pool: Pool) -> None:
        while True:
            await self._world.clock.sleep(CHECK_S)
            self._notifier.status(_summary(pool))
            if pool.checkpoint_due and not pool.failed:
                # A task of its own: cancelling this loop must not tear a transaction.
                self._checkpoint = asyncio.get_running_loop().create_task(pool.checkpoint())
                try:
                    await asyncio.shield(self._checkpoint)
                except (IsochroneError, OSError, apsw.Error) as e:
                    log.error("a checkpoint failed; recovery would take longer", error=str(e))
                    await self._world.clock.sleep(RETRY_S)

    async def _watchdog(self) -> None:
        """Tell the service manager that the loop still turns."""
        while self._notifier.watchdog_s:
            self._notifier.alive()
            await self._world.clock.sleep(self._notifier.watchdog_s / 2)

    # -- stopping

    async def _drain(self, door: FrontDoor) -> None:
        loop = asyncio.get_running_loop()
        closing = loop.create_task(door.close(DRAIN_S_MAX))
        hurried = loop.create_task(self._stop.hurried.wait())
        await asyncio.wait({closing, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if closing.done():
            closing.result()
            return
        closing.cancel()
        await asyncio.wait({closing})
        await door.close(0.0)

    async def _close(self, pool: Pool) -> None:
        """Make everything durable; checkpoint if all is well and nobody is in a hurry."""
        self._notifier.status("saving")
        if self._checkpoint is not None:
            await asyncio.wait({self._checkpoint})
        try:
            if self._clean and not self._stop.hurried.is_set():
                await pool.close()
            else:
                if not pool.failed:
                    await pool.flush()
                pool.abandon()
        finally:
            log.info("stopped", durable=not pool.failed)
        if pool.failed and self._clean:
            raise PoolFailed(f"stopped with changes that are not durable: {pool.failed}")


def run(settings: Settings) -> None:
    """Be the controller of a directory until a signal comes. Raises what prevents it."""
    keep_freed_memory()
    handed = sockets.handed_over(os.environ, os.getpid())
    os.umask(0o077)  # nothing that a controller makes is anybody else's business
    notifier = Notifier(os.environ, os.getpid())
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_run(settings, notifier, handed))


async def _run(
    settings: Settings, notifier: Notifier, handed: Mapping[str, list[sockets.Listening]]
) -> None:
    stop = Stop()
    world = system_world({sockets.address_of(each): each for each in handed.get("link", ())})
    # Who hands sockets over need not wait for us, and stdout may be somebody else's: nbdinfo's.
    say = _say_nothing if any(handed.values()) else _say_ready
    service = Service(settings, world, notifier, stop, handed)
    with _signals(stop, service.reload):
        await service.run(say)


def _say_ready(line: str) -> None:
    """The one line on stdout. Whoever started us may have stopped listening."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError as e:
        log.warning("nobody reads the ready line", error=str(e))


def _say_nothing(line: str) -> None:
    pass


@contextmanager
def _signals(stop: Stop, reload: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask, signal.Signals(number).name)
    loop.add_signal_handler(signal.SIGHUP, reload)  # a closed terminal is no reason to stop
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _open_disk(directory: Path) -> FolderDisk:
    try:
        return FolderDisk(directory)
    except OSError as e:
        raise InvalidInput(f"{directory} cannot hold a pool: {e.strerror or e}") from e


def _summary(pool: Pool) -> str:
    state = pool.state
    if pool.failed:
        return f"READ-ONLY: {pool.failed}"
    volumes = sum(volume.kind == "volume" for volume in state.volumes.values())
    return f"{volumes} volumes, {len(state.copies)} copies, {len(state.groups)} groups"
