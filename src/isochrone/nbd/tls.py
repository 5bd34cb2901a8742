"""TLS for one listening socket: certificates, what needs them, and who may open what.

A folder of certificates uses the names that QEMU, libnbd and nbdkit expect:

    server-cert.pem   our certificate, and those between it and the authority
    server-key.pem    its key
    ca-cert.pem       the authority whose client certificates are believed; optional
    ca-crl.pem        what it has revoked; optional

A verified client certificate names a host: the first DNS name of its subjectAltName, or its common
name if it has none; in small letters. That name is who is attached to a volume, and what rules
speak of. Nothing else is checked: any certificate of the authority passes where a rule does not say
who may, and from which address it comes does not matter.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isochrone.errors import InvalidInput, NotAllowed, PeerFault, TlsNeeded
from isochrone.nbd.handshake import Tls

CERTIFICATE: Final = "server-cert.pem"
KEY: Final = "server-key.pem"
AUTHORITY: Final = "ca-cert.pem"
REVOKED: Final = "ca-crl.pem"

NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for
HOST_CHARS_MAX: Final = 255  # of a DNS name; it goes into logs and listings


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may open an export, and over what."""

    tls: bool = False  # over TLS only; where TLS is forced, all are
    hosts: frozenset[str] | None = None  # these only, in small letters, over TLS; None: anyone

    @property
    def needs_tls(self) -> bool:
        return self.tls or self.hosts is not None


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
        self.folder = Path(folder)
        self._rules = dict(rules or {})
        self._default = default
        self.context = self._load(self._rules, default)
        self.valid_until = valid_until(self.folder)  # seconds since 1970

    @property
    def authenticates(self) -> bool:
        """Whether everybody who is answered has proved who they are."""
        return self.mode is Tls.FORCED and self.verify_clients

    def reload(
        self,
        rules: Mapping[str, Rule] | None = None,
        default: Rule | None = None,
        *,
        now: float = 0.0,
    ) -> None:
        """Read the certificates again, and take new rules if there are any.

        Connections made from now on use them. Raises `InvalidInput` and keeps all that was if the
        new certificates do not work, or have run out before `now`.
        """
        rules = self._rules if rules is None else dict(rules)
        default = self._default if default is None else default
        context, until = self._load(rules, default), valid_until(self.folder)
        if until < now:
            raise InvalidInput(f"the certificate in {self.folder} has run out")
        self.context, self.valid_until = context, until
        self._rules, self._default = rules, default

    def check(self, export: str, *, secure: bool, host: str) -> None:
        """Raise `TlsNeeded` or `NotAllowed` if this client may not open an export."""
        rule = self._rule(export)
        if rule.needs_tls and not secure:
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

    def _load(self, rules: Mapping[str, Rule], default: Rule) -> ssl.SSLContext:
        folder = self.folder
        authority = folder / AUTHORITY
        named = any(rule.hosts is not None for rule in (default, *rules.values()))
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


def valid_until(folder: Path) -> float:
    """When our certificate runs out, in seconds since 1970. Raises `InvalidInput`.

    A client says so that trusts in nothing but this certificate, in a handshake within memory: so a
    certificate that is not for servers, or that no client could make sense of, is found as well.
    """
    try:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(folder / CERTIFICATE, folder / KEY, _no_password)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.load_verify_locations(folder / CERTIFICATE)
        client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
        for end in ends * 3:  # hello, hello and certificate, finished
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
        found = ends[0].getpeercert() or {}
        return ssl.cert_time_to_seconds(str(found["notAfter"]))
    except (OSError, ValueError, KeyError) as e:
        raise InvalidInput(f"the certificate in {folder} is of no use to clients: {e}") from e


def _no_password() -> str:
    raise ValueError(f"{KEY} is encrypted, and nobody is there to ask for its password")


def host_of(certificate: Mapping[str, Any] | None) -> str:
    """The host a verified certificate names; empty without one.

    Raises `PeerFault` for a certificate that names none, or leaves open which.
    """
    if not certificate:
        return ""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"][:1]
    if not names:
        parts = certificate.get("subject", ())
        names = [value for part in parts for key, value in part if key == "commonName"]
    if len(names) > 1:
        raise PeerFault("the certificate has more than one common name")
    host = str(names[0]).lower() if names else ""
    if not host or len(host) > HOST_CHARS_MAX or not host.isprintable() or "*" in host:
        raise PeerFault(f"the certificate does not name a host: {host[:HOST_CHARS_MAX]!r}")
    return host
