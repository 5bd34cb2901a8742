"""The front door: listening sockets, all clients, and the turn that serves them together.

Requests of all connections are gathered until the loop has read every socket that was ready; then
one turn serves them all (see `turn`). Flushes of a turn share one task, and one `Backend.flush`.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress

# Only for its constants and to look for a living server; data goes through asyncio transports.
import socket  # noqa: TID251
from collections.abc import Callable
from typing import Final

import structlog

from isochrone.errors import Conflict, InvalidInput, Unavailable
from isochrone.nbd.client import HANDSHAKE_S_MAX, Client
from isochrone.nbd.turn import take_turn
from isochrone.types import Backend

CONNECTIONS_MAX: Final = 1000  # a host's worth of guests; a quiet one costs 64 KiB and a file
BACKLOG: Final = 128  # connections the kernel holds for us while a turn runs

log = structlog.get_logger("isochrone.nbd")


class FrontDoor:
    """Serves the devices of one backend to any number of NBD clients."""

    def __init__(
        self,
        backend: Backend,
        *,
        connections_max: int = CONNECTIONS_MAX,
        handshake_s: float = HANDSHAKE_S_MAX,
    ) -> None:
        self.backend = backend
        self.handshake_s = handshake_s
        self._connections_max = connections_max
        self._servers: list[asyncio.AbstractServer] = []
        self._clients: set[Client] = set()
        self._clients_seen = 0
        self._crowded = False  # turning clients away; said once, not for each
        self._closing = False
        self._awake: list[Client] = []  # who takes part in the next turn
        self._turn_due = False
        self._flushes: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(self._clients)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    async def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket. A socket file that nobody serves any more is replaced."""
        if _is_served(path):
            raise Conflict(f"another server listens on {path}")
        self._loop = asyncio.get_running_loop()
        try:
            server = await self._loop.create_unix_server(self._client, path, backlog=BACKLOG)
        except OSError as e:
            raise Unavailable(f"cannot listen on {path}: {e.strerror or e}") from e
        self._servers.append(server)

    async def listen_tcp(
        self, host: str, port: int, *, open_to_network: bool = False
    ) -> tuple[str, int]:
        """Listen on an address and return it, with the port the system chose for port 0.

        Nobody is asked who they are here, so an address that other hosts can reach is refused
        unless the caller answers for that network.
        """
        if not open_to_network and not _is_local(host):
            raise InvalidInput(
                f"{host!r} can be reached from other hosts, and this port does not authenticate",
                hint="listen on 127.0.0.1 or a Unix socket",
            )
        self._loop = asyncio.get_running_loop()
        try:
            server = await self._loop.create_server(self._client, host, port, backlog=BACKLOG)
        except OSError as e:
            raise Unavailable(f"cannot listen on {host}:{port}: {e.strerror or e}") from e
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def close(self, grace: float) -> None:
        """Stop: no new clients; what has arrived is answered, for up to `grace` seconds."""
        self._closing = True
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.take_turn()
        try:
            async with asyncio.timeout(grace):
                while self._flushes:
                    await asyncio.wait(self._flushes)
                await self._part(Client.leave)
        except TimeoutError:
            for task in self._flushes:
                task.cancel()
            await self._part(Client.abort)

    # --- called by clients ---------------------------------------------------------------------

    def welcome(self, client: Client, transport: asyncio.Transport) -> bool:
        if self._closing:
            return False
        self._clients_seen += 1
        client.name = f"unix#{self._clients_seen}"
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            client.name = f"{peer[0]}:{peer[1]}"
            # asyncio and uvloop have set TCP_NODELAY. A host that vanished must not hold its
            # exports for ever.
            wire_socket = transport.get_extra_info("socket")
            wire_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
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
        clients, self._awake = self._awake, []
        if not clients:
            return
        for client in clients:
            client.awake = False
        outcome = take_turn(self.backend, clients)
        if outcome.commit_failure is not None:
            log.error("changes could not be committed", exc_info=outcome.commit_failure)
        if outcome.waiting:
            for client, cookies in outcome.waiting:
                client.syncing += len(cookies)
            task = self._loop.create_task(self._flush(outcome.waiting))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)
        for client in clients:
            client.settle()

    # --- inside --------------------------------------------------------------------------------

    def _client(self) -> Client:
        return Client(self)

    def _turn(self) -> None:
        self._turn_due = False
        self.take_turn()

    async def _flush(self, waiting: list[tuple[Client, list[bytes]]]) -> None:
        failure: Exception | None = None
        try:
            await self.backend.flush()
        except Exception as e:  # told to all who wait
            failure = e
            log.error("a flush failed", exc_info=e)
        for client, cookies in waiting:
            client.synced(cookies, failure)

    async def _part(self, how: Callable[[Client], None]) -> None:
        """Make every client go, and return when they are gone."""
        self._empty.clear()
        for client in list(self._clients):
            how(client)
        if self._clients:
            await self._empty.wait()


def _is_local(host: str) -> bool:
    """Whether only this host can reach an address. Compared as a number, never as text."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_served(path: str) -> bool:
    """Whether a living server holds this socket: asyncio would take the file away from it."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (0, errno.EAGAIN)
