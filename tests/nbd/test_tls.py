"""Certificates and rules, without a connection."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isochrone.errors import InvalidInput, NotAllowed, PeerFault, TlsNeeded
from isochrone.nbd.connection import Tls
from isochrone.nbd.tls import Rule, TlsPolicy, host_of
from tests.nbd.certificates import LONG_AGO, SINCE, make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_folder(tmp_path_factory.mktemp("pki")))


# -- the folder


def test_what_a_context_asks_for(folder) -> None:
    optional = TlsPolicy(folder).context
    assert optional.minimum_version is ssl.TLSVersion.TLSv1_2
    assert optional.verify_mode is ssl.CERT_OPTIONAL
    required = TlsPolicy(folder, verify_clients=True).context
    assert required.verify_mode is ssl.CERT_REQUIRED
    assert required.num_tickets == 0
    assert required.options & ssl.OP_NO_RENEGOTIATION


def test_without_an_authority_clients_are_not_asked(tmp_path) -> None:
    (make_folder(tmp_path) / "ca-cert.pem").unlink()
    assert TlsPolicy(str(tmp_path)).context.verify_mode is ssl.CERT_NONE
    with pytest.raises(InvalidInput, match=r"ca-cert\.pem"):
        TlsPolicy(str(tmp_path), verify_clients=True)
    for rules in ({"rules": {"a": Rule(hosts=frozenset())}}, {"default": Rule(hosts=frozenset())}):
        with pytest.raises(InvalidInput, match=r"ca-cert\.pem"):
            TlsPolicy(str(tmp_path), **rules)


@pytest.mark.parametrize("name", ["server-cert.pem", "server-key.pem"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_folder_that_does_not_work(tmp_path, name, how) -> None:
    path = make_folder(tmp_path) / name
    path.unlink() if how == "missing" else path.write_text("no certificate")
    with pytest.raises(InvalidInput):
        TlsPolicy(str(tmp_path))


def test_damaged_authority_and_revocations_are_not_passed_over(tmp_path) -> None:
    make_folder(tmp_path)
    (tmp_path / "ca-crl.pem").write_text("no list")
    with pytest.raises(InvalidInput):
        TlsPolicy(str(tmp_path))
    (tmp_path / "ca-crl.pem").unlink()
    (tmp_path / "ca-cert.pem").write_text("no certificate")
    with pytest.raises(InvalidInput):
        TlsPolicy(str(tmp_path))


def test_reload_takes_new_certificates_or_keeps_the_old_ones(tmp_path) -> None:
    make_folder(tmp_path)
    policy = TlsPolicy(str(tmp_path))
    first = policy.context
    policy.reload()
    second = policy.context
    assert second is not first
    Path(tmp_path / "server-key.pem").write_text("half written")
    with pytest.raises(InvalidInput):
        policy.reload()
    assert policy.context is second


def test_when_our_certificate_runs_out(tmp_path) -> None:
    make_folder(tmp_path, server_until=LONG_AGO)
    policy = TlsPolicy(str(tmp_path))
    assert policy.valid_until == LONG_AGO.timestamp()
    make_folder(tmp_path)
    policy.reload(now=LONG_AGO.timestamp() + 1)
    later = policy.valid_until
    assert later > LONG_AGO.timestamp()
    make_folder(tmp_path, server_until=LONG_AGO)
    context = policy.context
    with pytest.raises(InvalidInput, match="has run out"):
        policy.reload({"disk": Rule(tls=True)}, now=LONG_AGO.timestamp() + 1)
    assert (policy.context, policy.valid_until) == (context, later)
    assert policy.allows("disk", secure=False, host="")  # the new rule is not in force either


def test_a_certificate_that_is_not_for_servers(tmp_path) -> None:
    """Of a right name and signature, and every client would refuse it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    made = made.public_key(key.public_key()).serial_number(7)
    made = made.not_valid_before(SINCE).not_valid_after(datetime(2999, 1, 1, tzinfo=UTC))
    only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    signed = made.add_extension(only, critical=True).sign(key, hashes.SHA256())
    (tmp_path / "server-cert.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "server-key.pem").write_bytes(pem)
    with pytest.raises(InvalidInput, match="of no use to clients"):
        TlsPolicy(str(tmp_path))


def test_a_policy_without_tls_is_a_mistake(folder) -> None:
    with pytest.raises(InvalidInput):
        TlsPolicy(folder, mode=Tls.OFF)


def test_who_is_authenticated(folder) -> None:
    assert TlsPolicy(folder, verify_clients=True).authenticates
    assert not TlsPolicy(folder).authenticates
    assert not TlsPolicy(folder, mode=Tls.OFFERED, verify_clients=True).authenticates


# -- rules


def test_rules(folder) -> None:
    policy = TlsPolicy(
        folder,
        mode=Tls.OFFERED,
        rules={
            "secret": Rule(tls=True),
            "ours": Rule(hosts=frozenset({"host-a"})),
            "ours@public": Rule(),
        },
    )
    policy.check("anything", secure=False, host="")
    with pytest.raises(TlsNeeded):
        policy.check("secret", secure=False, host="")
    policy.check("secret", secure=True, host="")
    with pytest.raises(TlsNeeded):
        policy.check("ours", secure=False, host="host-a")
    for host in ("", "host-b", "host-a.example", "HOST-A"):
        with pytest.raises(NotAllowed):
            policy.check("ours", secure=True, host=host)
    policy.check("ours", secure=True, host="host-a")
    assert policy.allows("ours", secure=True, host="host-a")
    assert not policy.allows("ours", secure=True, host="host-b")


def test_a_copy_is_ruled_as_its_volume(folder) -> None:
    rules = {"a": Rule(hosts=frozenset({"host-a"})), "a@free": Rule()}
    policy = TlsPolicy(folder, rules=rules)
    for export in ("a@t0", "a@t0@t1", "a@"):
        assert not policy.allows(export, secure=True, host="host-b")
    for export in ("a@free", "a@free@t1", "ab", "b@a"):
        assert policy.allows(export, secure=True, host="host-b")


def test_the_default_rule(folder) -> None:
    policy = TlsPolicy(folder, rules={"open": Rule()}, default=Rule(hosts=frozenset({"x"})))
    assert policy.allows("open", secure=True, host="y")
    assert not policy.allows("other", secure=True, host="y")


# -- who a certificate is


def subject(*names: str) -> tuple[tuple[tuple[str, str]], ...]:
    return ((("organizationName", "o"),), *((("commonName", name),) for name in names))


@pytest.mark.parametrize(
    ("certificate", "host"),
    [
        (None, ""),
        ({}, ""),
        ({"subject": subject("a")}, "a"),
        ({"subject": subject("DB1.Example.ORG")}, "db1.example.org"),
        ({"subject": subject("a"), "subjectAltName": (("DNS", "B"),)}, "b"),
        ({"subject": subject("x", "y"), "subjectAltName": (("DNS", "b"), ("DNS", "c"))}, "b"),
        ({"subject": subject("a"), "subjectAltName": (("IP Address", "192.0.2.1"),)}, "a"),
    ],
)
def test_host_of(certificate, host) -> None:
    assert host_of(certificate) == host


@pytest.mark.parametrize(
    "certificate",
    [
        {"subject": subject("a", "b")},
        {"subject": subject()},
        {"subject": subject(""), "subjectAltName": (("DNS", ""),)},
        {"subject": subject("a\nb")},
        {"subject": subject("a\0b")},
        {"subject": subject("a" * 256)},
        {"subjectAltName": (("DNS", "*.example.org"),)},
        {"subjectAltName": (("URI", "spiffe://x/host"), ("IP Address", "192.0.2.1"))},
    ],
)
def test_certificates_that_name_nobody(certificate) -> None:
    with pytest.raises(PeerFault):
        host_of(certificate)
