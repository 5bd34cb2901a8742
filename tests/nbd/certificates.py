"""Certificates for tests, in folders with the usual names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import trustme

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SINCE = datetime(2019, 1, 1, tzinfo=UTC)


def make_folder(
    folder: Path,
    *,
    host: str = "host-a",
    names: tuple[str, ...] | None = None,
    common_name: str | None = "a common name",
    authority: trustme.CA = AUTHORITY,
    client_of: trustme.CA | None = None,
    client_until: datetime | None = None,
    server_until: datetime | None = None,
    server_names: tuple[str, ...] = ("localhost", "127.0.0.1"),
) -> Path:
    """All that a server and one client need: QEMU and libnbd take the same folder for both.

    The client's names are `names`, by default only `host`.
    """
    folder.mkdir(exist_ok=True)
    authority.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
    server = authority.issue_cert(
        *server_names,
        common_name="localhost",
        not_before=SINCE if server_until else None,
        not_after=server_until,
    )
    client = (client_of or authority).issue_cert(
        *((host,) if names is None else names),
        common_name=common_name,
        not_before=SINCE if client_until else None,
        not_after=client_until,
    )
    for role, issued in (("server", server), ("client", client)):
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{role}-cert.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{role}-key.pem"))
    return folder
