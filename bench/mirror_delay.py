"""A long wire between two controllers on one machine: what goes in comes out a while later."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Final

READ_BYTES: Final = 1 << 18
UNDERWAY_MAX: Final = 4096  # pieces in one direction: more than a secondary's credit


class LongWire(threading.Thread):
    """Leads whoever connects to it to another address, each way with the same delay."""

    def __init__(self, target: str, delay_s: float) -> None:
        super().__init__(daemon=True)
        self._target, self._delay_s = target, delay_s
        self._ready = threading.Event()
        self._over: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.address = ""

    def __enter__(self) -> LongWire:
        self.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None and self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self.join()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _accept(self, near: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        far, into = await asyncio.open_connection(host, int(port))
        ways = [asyncio.create_task(self._carry(*way)) for way in ((near, into), (far, out))]
        try:
            with suppress(asyncio.CancelledError):  # the measurement is over
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            into.close()
            out.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """One way, in order; what is read later waits as long, not longer."""
        clock = asyncio.get_running_loop().time
        underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDERWAY_MAX)

        async def take() -> None:
            while data := await source.read(READ_BYTES):
                await underway.put((clock() + self._delay_s, data))
            await underway.put((clock() + self._delay_s, b""))

        taking = asyncio.create_task(take())
        try:
            while True:
                due, data = await underway.get()
                await asyncio.sleep(due - clock())
                if not data:
                    return
                sink.write(data)
                await sink.drain()
        except OSError:  # one end has gone
            return
        finally:
            taking.cancel()
