"""The key and certificate of a site. No authority signs it: peers know it by its fingerprint.

It says nothing that anybody would have to believe: a peer that has pinned it trusts the key, until
it revokes it or is told of the next one. The date in it is when the key is due to be renewed; links
do not look at it, since a wrong clock, or a night on which nobody renews, must not end a mirror.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from isochrone.errors import InvalidInput, PeerFault

SITE_NAME_CHARS_MAX: Final = 64  # X.520 allows no more in a certificate
ALWAYS: Final = (datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
CERTIFICATE_DAYS: Final = 1095  # three years: a key is renewed by people who still know how
RENEW_DAYS: Final = 30  # before the end of them it is said that it is time
_SIGNED: Final = ec.ECDSA(hashes.SHA256())


def make_identity(name: str, id: str, made: int = 0) -> bytes:
    """A new key and its certificate, as one PEM text. `id` outlives both.

    `made` is the wall clock, in ns since 1970; without it the certificate has no end.
    """
    valid, mark = ALWAYS, []
    if made:
        begin = datetime.fromtimestamp(made // 10**9, UTC)
        valid = (begin, begin + timedelta(days=CERTIFICATE_DAYS))
        # Certificates of one site have different subjects: by it TLS finds what it compares.
        mark = [x509.NameAttribute(NameOID.DN_QUALIFIER, str(made))]
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, id),
            *mark,
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def certificate_of(pem: bytes) -> bytes:
    """The DER certificate in what `make_identity` made. Raises `InvalidInput`."""
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError as e:
        raise InvalidInput(f"the certificate of this site cannot be read: {e}") from e
    return found.public_bytes(serialization.Encoding.DER)


def names_in(certificate: bytes) -> tuple[str, str]:
    """(name, id) of the site whose certificate this is. Raises `InvalidInput`."""
    try:
        subject = x509.load_der_x509_certificate(certificate).subject
    except ValueError as e:
        raise InvalidInput(f"the certificate of this site cannot be read: {e}") from e
    found = [
        subject.get_attributes_for_oid(oid) for oid in (NameOID.COMMON_NAME, NameOID.SERIAL_NUMBER)
    ]
    if any(len(values) != 1 for values in found):
        raise InvalidInput("the certificate of this site names no site")
    return str(found[0][0].value), str(found[1][0].value)


def due(certificate: bytes) -> int:
    """When a DER certificate is to be renewed at the latest, ns since 1970; 0: never."""
    try:
        end = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        return 0
    return 0 if end == ALWAYS[1] else int(end.timestamp()) * 10**9


def fingerprint(certificate: bytes) -> str:
    """By which a DER certificate is known: its SHA-256 in hex."""
    return sha256(certificate).hexdigest()


def to_pem(certificate: bytes) -> str:
    return ssl.DER_cert_to_PEM_cert(certificate)


def sign(pem: bytes, message: bytes) -> bytes:
    """Signed with the private key of an identity."""
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # we made it
    return key.sign(message, _SIGNED)


def check_signature(certificate: bytes, signature: bytes, message: bytes) -> None:
    """Raise `PeerFault` unless the owner of a DER certificate signed a message.

    Also for a certificate that TLS could not load: it would spoil the list of trusted ones.
    """
    try:
        found = x509.load_der_x509_certificate(certificate)
        key = found.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise PeerFault("the other side's certificate has a key of another kind than ours")
        key.verify(signature, message, _SIGNED)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    except InvalidSignature:
        raise PeerFault("the other side does not own the certificate that it showed") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, OSError) as e:
        raise PeerFault(f"the other side's certificate makes no sense: {e}") from e
