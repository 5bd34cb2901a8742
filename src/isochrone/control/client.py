"""The API from the caller's side: documents in, documents out, problems as the errors they were."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, urlencode

import httpx2
import msgspec

from isochrone.control.sockets import API_SOCKET, socket_path
from isochrone.control.views import Problem
from isochrone.errors import InvalidInput, IsochroneError, PeerFault, Unavailable

CONNECT_S_MAX: Final = 5.0
ANSWER_S_MAX: Final = 120.0  # a change waits for a sync, and disks under load take their time


class Client:
    """A controller, by its directory or URL."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._directory = "" if site.startswith(("http://", "https://")) else site
        transport = None
        if self._directory:
            if "://" in site:
                raise InvalidInput(f"{site!r} is no site", hint="give a directory, or http://…")
            path = socket_path(Path(site), API_SOCKET)
            transport = httpx2.HTTPTransport(uds=path)
        try:
            self._http = httpx2.Client(
                base_url="http://localhost" if self._directory else site,
                transport=transport,
                trust_env=False,  # a proxy for the web is not the way to a controller
            )
        except httpx2.InvalidURL as e:
            raise InvalidInput(f"{site!r} is no site: {e}") from e

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        wait: float = 0.0,
        patience: float = ANSWER_S_MAX,
    ) -> bytes:
        """The answer's document. Raises what the controller raised; `wait` is time it may take."""
        patience += wait
        timeout = httpx2.Timeout(patience, connect=min(CONNECT_S_MAX, patience))
        if self._directory and not Path(self._directory, API_SOCKET).is_socket():
            raise self._nobody()
        try:
            response = self._http.request(method, path, json=body, timeout=timeout)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as e:
            raise self._nobody() from e
        except httpx2.TimeoutException as e:
            raise Unavailable(
                f"the controller at {self._site} gave no answer in {patience:.0f} s",
                hint="the request may still be done: look before you repeat it",
            ) from e
        except httpx2.HTTPError as e:
            raise Unavailable(
                f"lost the controller at {self._site}: {e}",
                hint="the request may have been done: look before you repeat it",
            ) from e
        if response.is_success:
            return response.content
        raise _error(response)

    def _nobody(self) -> Unavailable:
        return Unavailable(
            f"no controller answers at {self._site}",
            hint=f"start it with: isochrone serve {self._directory or 'DIR'}",
        )


def path(*parts: str, query: Mapping[str, str] = MappingProxyType({})) -> str:
    """A path of the API from names that may hold anything. Raises `InvalidInput`."""
    for part in parts:
        if part in ("", ".", ".."):  # these have a meaning of their own in paths
            raise InvalidInput(f"{part!r} is not a name", hint="see: isochrone status")
    where = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    return f"{where}?{urlencode(query)}" if query else where


def _error(response: httpx2.Response) -> IsochroneError:
    try:
        problem = msgspec.json.decode(response.content, type=Problem)
    except msgspec.MsgspecError:
        return PeerFault(
            f"the answer is not a controller's: {response.status_code} {response.reason_phrase}",
            hint="check --site",
        )
    known = {kind.__name__: kind for kind in _kinds(IsochroneError)}
    return known.get(problem.type, IsochroneError)(problem.detail, hint=problem.hint)


def _kinds(kind: type[IsochroneError]) -> list[type[IsochroneError]]:
    return [kind, *(deep for below in kind.__subclasses__() for deep in _kinds(below))]
