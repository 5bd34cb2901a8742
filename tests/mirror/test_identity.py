"""A site's certificate: made, read, and proved to be its own."""

from __future__ import annotations

import pytest

from isochrone.errors import InvalidInput, PeerFault
from isochrone.mirror import identity
from isochrone.mirror.messages import CERTIFICATE_BYTES_MAX

PEM = identity.make_identity("n" * identity.SITE_NAME_CHARS_MAX, "ab" * 16)
DER = identity.certificate_of(PEM)


def test_names_and_size() -> None:
    assert identity.names_in(DER) == ("n" * 64, "ab" * 16)
    assert len(DER) < CERTIFICATE_BYTES_MAX / 4
    assert len(identity.fingerprint(DER)) == 64
    assert identity.make_identity("a", "b") != identity.make_identity("a", "b")


def test_a_signature() -> None:
    signature = identity.sign(PEM, b"this")
    identity.check_signature(DER, signature, b"this")
    with pytest.raises(PeerFault, match="does not own"):
        identity.check_signature(DER, signature, b"that")
    other = identity.certificate_of(identity.make_identity("x", "y"))
    with pytest.raises(PeerFault, match="does not own"):
        identity.check_signature(other, signature, b"this")


@pytest.mark.parametrize("junk", [b"", b"junk", DER[:-1], DER + b"x", b"\x30\x82\xff\xff"])
def test_a_certificate_that_is_none(junk: bytes) -> None:
    with pytest.raises(PeerFault):
        identity.check_signature(junk, b"", b"this")


def test_a_file_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        identity.certificate_of(b"junk")


def test_a_date_is_for_people() -> None:
    made = 1_800_000_000 * 10**9
    der = identity.certificate_of(identity.make_identity("a", "b", made))
    assert identity.due(der) == made + identity.CERTIFICATE_DAYS * 86400 * 10**9
    assert identity.names_in(der) == ("a", "b")
    assert identity.due(DER) == 0, "without one it is never due"
    assert identity.due(b"junk") == 0
