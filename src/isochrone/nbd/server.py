"""The front door: listening sockets, all clients, and the turn that serves them together.

Requests of all connections are gathered until the loop has read every socket that was ready; then
one turn serves them all (see `turn`). Flushes of a turn are one for the backend.
"""

from __future__ import annotations

import asyncio
import errno

# Only for its constants and to look for a living server; data goes through asyncio transports.
import socket  # noqa: TID251
import sys
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final

import structlog

from isochrone.errors import Conflict, InvalidInput, Unavailable
from isochrone.nbd.client import HANDSHAKE_S_MAX, Client
from isochrone.nbd.filters import Filters
from isochrone.nbd.limits import ARRIVED_BYTES_MAX, BUDGET_BYTES, LOOK_S, Budget, Lines
from isochrone.nbd.tls import TlsPolicy
from isochrone.nbd.turn import take_turn
from isochrone.nbd.vigil import Vigil
from isochrone.types import KIB, Backend, Caller, Proof
from isochrone.world.net import is_loopback

# Of a Unix socket: twice what it has by itself, so that a large read is not handed over in small
# pieces, each with two changes of processes. TCP finds its size by itself if nobody sets one.
SEND_BUFFER_BYTES: Final = 256 * KIB
CONNECTIONS_MAX: Final = 1000  # a host's worth of guests; a quiet one costs 64 KiB and a file
BACKLOG: Final = 128  # connections the kernel holds for us while a turn runs
COMPANY_S: Final = 0.05  # a client that flushed so lately will again; others may want the loop

# Asked whether changes have to wait, with whether there are any: seconds, and whether to ask again
# after them.
Pace = Callable[[Callable[[], bool]], tuple[float, bool]]

# Asked with the name of an export that is about to be changed: seconds that the changes wait.
PaceExport = Callable[[str], float]

KEEPALIVE: Final = {  # a host that has vanished is given up after 15 + 3 * 5 quiet seconds
    socket.TCP_KEEPIDLE: 15,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
}

log = structlog.get_logger("isochrone.nbd")


class FrontDoor:
    """Serves the devices of one backend to any number of NBD clients."""

    def __init__(
        self,
        backend: Backend,
        *,
        connections_max: int = CONNECTIONS_MAX,
        handshake_s: float = HANDSHAKE_S_MAX,
        budget_bytes: int = BUDGET_BYTES,
        vigil: Vigil | None = None,
        pace: Pace = lambda _: (0.0, False),
        pace_export: PaceExport = lambda _: 0.0,
    ) -> None:
        self.backend = backend if isinstance(backend, Filters) else Filters(backend)
        self.backend.changed = self._refit
        self.handshake_s = handshake_s
        self._connections_max = connections_max
        self._servers: list[asyncio.AbstractServer] = []
        self._clients: set[Client] = set()
        self._clients_seen = 0
        self._budget: Budget[Client] = Budget(budget_bytes)
        self._relieving = False
        self._arrived = 0  # bytes that wait for the next turn
        self._lines = Lines()
        self._crowded = False  # turning clients away; said once, not for each
        self._closing = False
        self._awake: list[Client] = []  # who takes part in the next turn
        self._turn_due = False
        self._vigil = vigil
        self._pace = pace
        self._pace_export = pace_export
        self._paced: dict[Client, asyncio.TimerHandle] = {}  # who waits for a mirror to follow
        self._held: list[Client] = []  # whose changes wait for room
        self._room_timer: asyncio.TimerHandle | None = None  # set while there are any
        self._watching = False  # looking again instead of going to sleep
        self._flushes = 0  # that have not ended
        self._all_durable = asyncio.Event()  # set when the last of them has
        self._bystander_s = -inf  # when a client came that does not flush
        self._empty = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(self._clients)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def held_bytes(self) -> int:
        """What all clients together make us hold."""
        return self._budget.used

    @property
    def budget_bytes(self) -> int:
        """Above that, clients with much of it wait, or go."""
        return self._budget.limit

    async def listen_socket(
        self, listening: socket.socket, *, tls: TlsPolicy | None = None
    ) -> None:
        """Serve a listening socket that somebody else opened, whatever its address is."""
        self._loop = asyncio.get_running_loop()
        unix = listening.family == socket.AF_UNIX
        create = self._loop.create_unix_server if unix else self._loop.create_server
        self._servers.append(
            await create(partial(Client, self, tls), sock=listening, backlog=BACKLOG)
        )

    async def listen_unix(self, path: str, *, tls: TlsPolicy | None = None) -> None:
        """Listen on a Unix socket. A socket file that nobody serves any more is replaced.

        Without a policy whoever can open the file may open every export.
        """
        if _is_served(path):
            raise Conflict(f"another server listens on {path}")
        self._loop = asyncio.get_running_loop()
        try:
            server = await self._loop.create_unix_server(
                partial(Client, self, tls), path, backlog=BACKLOG
            )
        except OSError as e:
            raise Unavailable(f"cannot listen on {path}: {e.strerror or e}") from e
        self._servers.append(server)

    async def listen_tcp(
        self,
        host: str,
        port: int,
        *,
        tls: TlsPolicy | None = None,
        open_to_network: bool = False,
    ) -> tuple[str, int]:
        """Listen on an address and return it, with the port the system chose for port 0.

        An address that other hosts can reach is refused unless TLS with client certificates is
        forced, or the caller answers for that network.
        """
        authenticates = tls is not None and tls.authenticates
        if not (authenticates or open_to_network or is_loopback(host)):
            raise InvalidInput(
                f"{host!r} can be reached from other hosts, and this port does not authenticate",
                hint="listen on 127.0.0.1 or a Unix socket, or require TLS client certificates",
            )
        self._loop = asyncio.get_running_loop()
        try:
            server = await self._loop.create_server(
                partial(Client, self, tls), host, port, backlog=BACKLOG
            )
        except OSError as e:
            raise Unavailable(f"cannot listen on {host}:{port}: {e.strerror or e}") from e
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    def rules_changed(self) -> int:
        """Let go who may not have its export open any more; how many these are."""
        leaving = [client for client in self._clients if not client.may_stay()]
        for client in leaving:
            log.info("nbd client may not stay", client=client.name)
            client.leave()
        return len(leaving)

    def expel(self, export: str, host: str) -> int:
        """End a host's connections to an export; what they have not been told is not done."""
        leaving = [
            client
            for client in self._clients
            if client.device is not None
            and (client.device.name, client.caller.host) == (export, host)
        ]
        for client in leaving:
            client.expel()
        return len(leaving)

    async def close(self, grace: float) -> None:
        """Stop: no new clients; what has arrived is answered, for up to `grace` seconds."""
        self._closing = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        for client in list(self._paced):
            self._go_on(client)
        self.take_turn()
        try:
            async with asyncio.timeout(grace):
                while self._flushes:
                    self._all_durable.clear()
                    await self._all_durable.wait()
                await self._part(Client.leave)
        except TimeoutError:
            await self._part(Client.abort)

    # --- called by clients ---------------------------------------------------------------------

    def welcome(self, client: Client, transport: asyncio.Transport) -> bool:
        if self._closing:
            return False
        self._clients_seen += 1
        peer = transport.get_extra_info("peername")
        wire_socket = transport.get_extra_info("socket")
        if isinstance(peer, tuple):
            host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
            client.meet(Caller(Proof.ADDRESS, peer[0], f"{host}:{peer[1]}"))
            # asyncio and uvloop have set TCP_NODELAY. A host that vanished must not hold its
            # exports for ever.
            wire_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                wire_socket.setsockopt(socket.IPPROTO_TCP, option, value)
        else:
            wire_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            user = _user_of(wire_socket)
            client.meet(Caller(Proof.USER, f"uid {user}", f"unix#{self._clients_seen}"))
        if len(self._clients) >= self._connections_max:
            if not self._crowded:
                self._crowded = True
                log.warning("too many nbd clients: turning them away", limit=self._connections_max)
            return False
        self._crowded = False
        self._clients.add(client)
        return True

    def goodbye(self, client: Client) -> None:
        self._clients.discard(client)
        if client in self._paced:
            self._paced.pop(client).cancel()
        self._turned(self._budget.forget(client))
        if not self._clients:
            self._empty.set()

    def wake(self, client: Client) -> None:
        """Let a client take part in the next turn."""
        if not client.awake:
            client.awake = True
            self._awake.append(client)
            if not self._turn_due:
                self._turn_due = True
                self._loop.call_soon(self._turn)

    def take_turn(self) -> None:
        """Serve everything that has arrived, over all connections."""
        self._awake, self._held = self._held + self._awake, []
        if self._room_timer is not None:
            self._room_timer.cancel()
            self._room_timer = None
        self._serve_awake()

    def _serve_awake(self) -> None:
        """The same without those whose changes wait for room."""
        clients, self._awake = self._awake, []
        self._arrived = 0
        if not clients:
            return
        if self._vigil is not None:
            self._vigil.turn_begins([r[3] for client in clients for r in client.requests])
        for client in clients:
            client.awake = client.held_up = client.paced = False
        outcome = take_turn(self.backend, clients, tight=self._budget.tight)
        if outcome.commit_failure is not None:
            log.error("changes could not be committed", exc_info=outcome.commit_failure)
        now = self._loop.time()
        for client, cookies in outcome.waiting:
            client.syncing += len(cookies)
            client.flushed_s = now
        for client in clients:
            if now - client.flushed_s > COMPANY_S:
                self._bystander_s = now
        # Who got no reads comes first next time.
        for client in clients[outcome.read_until :] + clients[: outcome.read_until]:
            client.settle()
        if outcome.waiting:  # only now, as it may take a moment
            self._flushes += 1
            alone = now - self._bystander_s > COMPANY_S
            self.backend.when_durable(partial(self._durable, outcome.waiting), alone=alone)
        if self._vigil is not None:
            self._vigil.turn_ends()
            if not self._watching and not self._flushes and self._vigil.begins():
                self._watching = True
                self._loop.call_soon(self._look)

    def arrived(self, size: int) -> None:
        """So much waits for the next turn, which may not be later than that."""
        self._arrived += size
        if self._arrived > ARRIVED_BYTES_MAX:
            self.take_turn()

    def weighed(self, client: Client, held: int) -> None:
        """A client holds another amount of memory than before."""
        if client not in self._clients:  # gone, and a flush that it waited for has just ended
            return
        turned = self._budget.weigh(client, held)
        if self._budget.tight or client.squeezed:
            client.squeeze(self._budget.tight and self._budget.is_large(client))
        self._turned(turned)

    def say(self, event: str, client: Client, **facts: Any) -> None:
        """Log what a peer did, or no line at all if peers make us write too many."""
        unsaid = self._lines.take(self._loop.time())
        if unsaid is None:
            return
        if unsaid:
            facts["lines_left_out"] = unsaid
        write = log.error if "exc_info" in facts else log.warning
        write(event, client=client.name, **facts)

    # --- inside --------------------------------------------------------------------------------

    def _turned(self, turned: bool) -> None:
        """After a change of the budget: things may have become tight, or not tight any more."""
        if not turned:
            return
        if not self._budget.tight:
            for client in self._clients:
                client.squeeze(False)
            return
        log.warning("nbd clients hold too much memory", limit=self._budget.limit)
        if not self._relieving:
            self._relieving = True
            self._loop.call_soon(self._relieve)

    def _relieve(self) -> None:
        """While things are tight: see who came down, and let go who does not."""
        for client in self._budget.large():
            client.weigh_again()
        self._relieving = self._budget.tight
        if not self._relieving:
            return
        for client in self._budget.stalled(self._loop.time()):
            client.evict(self._budget.held(client))
        for client in self._budget.large():
            client.squeeze(True)
        self._loop.call_later(LOOK_S, self._relieve)

    def _refit(self, name: str) -> None:
        for client in list(self._clients):
            client.refit(name)

    def _turn(self) -> None:
        self._turn_due = False
        wait = 0.0
        if self._room_timer is None:
            wait, _ = self._pace(self._changing)
        if wait or self._room_timer is not None:
            self._hold_up()
        self._slow_down()
        if wait and self._held:
            self._room_timer = self._loop.call_later(wait, self._ask_for_room)
        self._serve_awake()

    def _changing(self) -> bool:
        return any(client.changes for client in self._awake)

    def _hold_up(self) -> None:
        """Let clients with changes wait for room; nobody else waits with them."""
        awake, self._awake = self._awake, []
        for client in awake:
            if client.changes:
                self._held.append(client)
                client.wait_for_room()
            else:
                self._awake.append(client)

    def _slow_down(self) -> None:
        """Let changes of exports that a mirror cannot keep up with wait, once each."""
        awake, self._awake = self._awake, []
        for client in awake:
            wait = 0.0
            if client.changes and not client.paced and client.device is not None:
                wait = self._pace_export(client.device.name)
            if wait > 0:
                client.paced = True
                client.wait_for_room()
                self._paced[client] = self._loop.call_later(wait, self._go_on, client)
            else:
                self._awake.append(client)

    def _go_on(self, client: Client) -> None:
        """The changes of a client have waited for a mirror: they are due."""
        self._paced.pop(client).cancel()
        client.awake = False
        self.wake(client)

    def _ask_for_room(self) -> None:
        """Changes have waited: let them go on, unless they should wait longer."""
        wait, again = self._pace(lambda: bool(self._held))
        if again:
            self._room_timer = self._loop.call_later(wait, self._ask_for_room)
        else:
            self.take_turn()

    def _look(self) -> None:
        """One more round of the loop that does not wait, if there is still hope: see `vigil`."""
        assert self._vigil is not None
        if not self._turn_due and self._vigil.goes_on():
            self._loop.call_soon(self._look)
        else:
            self._watching = False

    def _durable(
        self, waiting: list[tuple[Client, list[bytes]]], failure: BaseException | None
    ) -> None:
        """A flush has ended; these clients waited for it."""
        if failure is not None:
            log.error("a flush failed", exc_info=failure)
        for client, cookies in waiting:
            try:
                client.synced(cookies, failure)
            except Exception:  # a defect met on the way: the others wait for their answer
                log.exception("a flush could not be answered", client=client.name)
                client.abort()
        self._flushes -= 1
        if not self._flushes:
            self._all_durable.set()

    async def _part(self, how: Callable[[Client], None]) -> None:
        """Make every client go, and return when they are gone."""
        self._empty.clear()
        for client in list(self._clients):
            how(client)
        if self._clients:
            await self._empty.wait()


def _user_of(wire: socket.socket) -> int:
    """The user id of whoever connected to a Unix socket, as the kernel noted it then."""
    credentials = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # pid, uid, gid
    return int.from_bytes(credentials[4:8], sys.byteorder)


def _is_served(path: str) -> bool:
    """Whether a living server holds this socket: asyncio would take the file away from it."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (0, errno.EAGAIN)
