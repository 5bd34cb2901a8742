"""Certificates for tests, in folders with the usual names."""

from __future__ import annotations

from pathlib import Path

import trustme

AUTHORITY = trustme.CA()
STRANGER = trustme.CA()


def make_folder(
    folder: Path,
    *,
    host: str | None = "host-a",
    names: tuple[str, ...] = ("host-a.example",),
    authority: trustme.CA = AUTHORITY,
    client_of: trustme.CA | None = None,
) -> Path:
    """All that a server and one client need: QEMU and libnbd take the same folder for both."""
    folder.mkdir(exist_ok=True)
    authority.cert_pem.write_to_path(str(folder / "ca-cert.pem"))
    server = authority.issue_cert("localhost", "127.0.0.1", common_name="localhost")
    client = (client_of or authority).issue_cert(*names, common_name=host)
    for role, issued in (("server", server), ("client", client)):
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{role}-cert.pem"))
        issued.private_key_pem.write_to_path(str(folder / f"{role}-key.pem"))
    return folder
