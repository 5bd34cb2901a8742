"""TLS for one listening socket: certificates, what needs them, and who may open what.

A folder of certificates uses the names that QEMU, libnbd and nbdkit expect:

    server-cert.pem   our certificate, and those between it and the authority
    server-key.pem    its key
    ca-cert.pem       the authority whose client certificates are believed; optional
    ca-crl.pem        what it has revoked; optional

A verified client certificate names a host: its common name, or without one the first name of its
subjectAltName. That name is who is attached to a volume, and what rules speak of. Nothing else is
checked: any certificate of the authority passes where a rule does not say who may.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isochrone.errors import InvalidInput, NotAllowed, PeerFault, TlsNeeded
from isochrone.nbd.handshake import Tls

CERTIFICATE: Final = "server-cert.pem"
KEY: Final = "server-key.pem"
AUTHORITY: Final = "ca-cert.pem"
REVOKED: Final = "ca-crl.pem"

HOST_CHARS_MAX: Final = 255  # of a DNS name; it goes into logs and listings


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may open an export, and over what."""

    tls: bool = False  # over TLS only; where TLS is forced, all are
    hosts: frozenset[str] | None = None  # these hosts only, which takes TLS; None: anyone


OPEN: Final = Rule()


class TlsPolicy:
    """What a listening socket asks of its clients.

    A rule for a volume holds for its copies too, unless they have one: `a@t0` is ruled as `a`.
    """

    def __init__(
        self,
        folder: str,
        *,
        mode: Tls = Tls.FORCED,
        verify_clients: bool = False,
        rules: Mapping[str, Rule] | None = None,
        default: Rule = OPEN,
    ) -> None:
        """Read the certificates of a folder. Raises `InvalidInput` for what cannot work."""
        if mode is Tls.OFF:
            raise InvalidInput("a port without TLS has no TLS policy")
        self.mode = mode
        self.verify_clients = verify_clients
        self._folder = Path(folder)
        self._rules = dict(rules or {})
        self._default = default
        self.context = self._load()

    @property
    def authenticates(self) -> bool:
        """Whether everybody who is answered has proved who they are."""
        return self.mode is Tls.FORCED and self.verify_clients

    def reload(self) -> None:
        """Read the certificates again; connections made from now on use them.

        Raises `InvalidInput` and keeps the old ones if the new ones do not work.
        """
        self.context = self._load()

    def check(self, export: str, *, secure: bool, host: str) -> None:
        """Raise `TlsNeeded` or `NotAllowed` if this client may not open an export."""
        rule = self._rule(export)
        if (rule.tls or rule.hosts is not None) and not secure:
            raise TlsNeeded(f"{export!r} is served over TLS only")
        if rule.hosts is not None and host not in rule.hosts:
            raise NotAllowed(f"{host or 'a host without a certificate'} may not open {export!r}")

    def allows(self, export: str, *, secure: bool, host: str) -> bool:
        try:
            self.check(export, secure=secure, host=host)
        except (TlsNeeded, NotAllowed):
            return False
        return True

    def _rule(self, export: str) -> Rule:
        while export:
            if export in self._rules:
                return self._rules[export]
            export = export.rpartition("@")[0]
        return self._default

    def _load(self) -> ssl.SSLContext:
        folder = self._folder
        authority = folder / AUTHORITY
        named = self._default.hosts is not None or any(
            rule.hosts is not None for rule in self._rules.values()
        )
        if (self.verify_clients or named) and not authority.is_file():
            raise InvalidInput(
                f"there is no {AUTHORITY} in {folder} to verify clients with",
                hint="put the authority's certificate there, or do not ask for client certificates",
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # No tickets: a session of an earlier connection would pass by new certificates. No new
        # handshakes within a connection: its client would become another host.
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        try:
            context.load_cert_chain(folder / CERTIFICATE, folder / KEY, _no_password)
            if authority.is_file():
                context.load_verify_locations(authority)
                must = ssl.CERT_REQUIRED if self.verify_clients else ssl.CERT_OPTIONAL
                context.verify_mode = must
                if (folder / REVOKED).is_file():
                    context.load_verify_locations(folder / REVOKED)
                    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        except FileNotFoundError:
            raise InvalidInput(
                f"there are no {CERTIFICATE} and {KEY} in {folder}",
                hint="make them with: certtool, openssl or trustme",
            ) from None
        except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
            raise InvalidInput(f"the certificates in {folder} cannot be used: {e}") from e
        return context


def _no_password() -> str:
    raise ValueError(f"{KEY} is encrypted, and nobody is there to ask for its password")


def host_of(certificate: Mapping[str, Any] | None) -> str:
    """The host a verified certificate names; empty without one.

    Raises `PeerFault` for a certificate that names none, or leaves open which.
    """
    if not certificate:
        return ""
    names = [
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    ]
    if len(names) > 1:
        raise PeerFault("the certificate has more than one common name")
    alternatives = certificate.get("subjectAltName", ())
    host = str(names[0] if names else alternatives[0][1] if alternatives else "")
    if not host or len(host) > HOST_CHARS_MAX or not host.isprintable():
        raise PeerFault(f"the certificate does not name a host: {host[:HOST_CHARS_MAX]!r}")
    return host
