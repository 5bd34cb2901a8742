"""The socket files of a controller, and who may reach its ports."""

from __future__ import annotations

# The listening sockets are made here, so that a port that is taken is an error before "ready".
import socket  # noqa: TID251
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from isochrone.errors import InvalidInput, Unavailable
from isochrone.world.net import is_loopback, split_address

NBD_SOCKET: Final = "nbd.sock"
LINK_SOCKET: Final = "link.sock"
API_SOCKET: Final = "api.sock"
SOCKETS: Final = (NBD_SOCKET, LINK_SOCKET, API_SOCKET)

PATH_BYTES_MAX: Final = 107  # sun_path has 108 bytes on Linux, the last one is zero
BACKLOG: Final = 128

Listening = socket.socket


def socket_path(directory: Path, name: str) -> str:
    """The path of a socket file. Raises `InvalidInput` where the kernel would cut it off."""
    path = str(directory / name)
    size = len(path.encode())
    if size > PATH_BYTES_MAX:
        raise InvalidInput(
            f"the socket path {path} has {size} bytes; Linux takes {PATH_BYTES_MAX}",
            hint="choose a directory with a shorter path, or reach it through a symbolic link",
        )
    return path


FIRST_HANDED: Final = 3  # file descriptor, as sd_listen_fds(3) has it
ROOMS: Final = ("nbd", "link", "api")


def handed_over(environment: Mapping[str, str], pid: int) -> dict[str, list[Listening]]:
    """Listening sockets that whoever started us has opened: by systemd's protocol, by room.

    Their names are `nbd`, `link` and `api`. Any other name, and none at all, means `nbd`: that is
    what clients mean that start a server for themselves.
    """
    found: dict[str, list[Listening]] = {room: [] for room in ROOMS}
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID", "") != str(pid) or not count.isdigit():
        return found
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for at in range(int(count)):
        name = names[at] if at < len(names) else ""
        try:
            handed = socket.socket(fileno=FIRST_HANDED + at)
            listens = handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as e:
            raise InvalidInput(f"file descriptor {FIRST_HANDED + at} is not a socket: {e}") from e
        if not listens or handed.type != socket.SOCK_STREAM:
            handed.close()
            raise InvalidInput(f"the socket handed over as {name!r} does not listen for streams")
        handed.set_inheritable(False)
        found[name if name in found else "nbd"].append(handed)
    return found


def address_of(listening: Listening) -> str:
    where = listening.getsockname()
    return join_address(*where[:2]) if isinstance(where, tuple) else str(where)


def check_handed(
    handed: Mapping[str, list[Listening]], *, insecure: bool, authenticated: Collection[str] = ()
) -> None:
    """Raise `InvalidInput` for a port that others could reach, as `tcp_address` does.

    `authenticated`: rooms at whose ports everybody proves who they are.
    """
    for room, listening in handed.items():
        for each in listening:
            if is_port(each):
                tcp_address(
                    f"the socket handed over as {room},",
                    address_of(each),
                    insecure=insecure or room in authenticated,
                    hint=HINTS.get(room, PORT_HINT),
                )


def is_port(listening: Listening) -> bool:
    """Whether it is a network's, and not a file."""
    return listening.family != socket.AF_UNIX


def paths_of(handed: Mapping[str, list[Listening]]) -> Iterator[Path]:
    """Socket files that are not ours to make or to remove."""
    for listening in handed.values():
        for each in listening:
            if each.family == socket.AF_UNIX:
                yield Path(address_of(each)).absolute()


def remove_sockets(directory: Path, keep: frozenset[Path] = frozenset()) -> None:
    """Remove the socket files of an earlier process. Only for the holder of the pool's lock."""
    for name in SOCKETS:
        path = directory / name
        if path.absolute() in keep:
            continue
        try:
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise InvalidInput(
                    f"{path} is in the way: it is not a socket", hint="move it elsewhere"
                )
            path.unlink()
        except FileNotFoundError:
            continue


def keep_private(path: str) -> None:
    Path(path).chmod(0o600)


PORT_HINT: Final = "use 127.0.0.1 and a tunnel, or --insecure on a network that you trust"
BLOCK_HINT: Final = f"add --tls FOLDER --tls-verify-clients; or {PORT_HINT}"
LINK_HINT: Final = (
    "start it without --link, give it a certificate with `isochrone site init NAME`, and start it"
    f" again; or {PORT_HINT}"
)
HINTS: Final = {"nbd": BLOCK_HINT, "link": LINK_HINT}


def tcp_address(
    option: str, address: str, *, insecure: bool, hint: str = PORT_HINT
) -> tuple[str, int]:
    """(host, port) of a `--nbd`, `--link` or `--api`. Raises `InvalidInput`."""
    where = split_address(address)
    if where is None:
        raise InvalidInput(
            f"{option} {address}: this is a path, not HOST:PORT",
            hint="the Unix sockets are always there, in the controller's directory",
        )
    if not insecure and not is_loopback(where[0]):
        raise InvalidInput(
            f"{option} {address}: other hosts could reach it, and need not prove who they are",
            hint=hint,
        )
    return where


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tidy_address(address: str) -> str:
    """With brackets around an IPv6 host."""
    where = split_address(address)
    return join_address(*where) if where is not None else address


def listen_unix(path: str) -> socket.socket:
    wire = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        wire.bind(path)
        keep_private(path)
        wire.listen(BACKLOG)
    except OSError as e:
        wire.close()
        raise Unavailable(f"cannot listen at {path}: {e.strerror or e}") from e
    return wire


def listen_tcp(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as e:
        raise Unavailable(
            f"cannot listen at {join_address(host, port)}: {e.strerror or e}",
            hint="choose another address",
        ) from e
