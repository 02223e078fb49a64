"""A cluster's own certificate authority, and the certificate of its endpoints.

Small on purpose: ECDSA on P-256, one authority, one server certificate for every name and address that clients of this cluster
use.  Pure: texts in, texts out; the time is an argument, and only keys and serial numbers are drawn at random.  A certificate
stands in one file with its key, so that a renewal is one rename and nobody ever finds the one without the other.

`cryptography` is imported when it is needed: most commands never need it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pgwire.x509 import Certificate, read_pem

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
"""What the strictest clients accept, and somewhat more than a year."""

RENEW_DAYS = 30
"""With so little left a certificate is made anew by the next `up`, and `doctor` says so before."""

_BACKDATED = timedelta(hours=1)
"""Clients' clocks may be behind."""

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, as they stand in one file: `pem` is a secret, `certificate_pem` is not."""

    pem: str = field(repr=False)

    @property
    def certificate_pem(self) -> str:
        """The certificate alone."""
        return certificates_in(self.pem)[0]

    @property
    def certificate(self) -> Certificate:
        """What it says."""
        return read_pem(self.certificate_pem)


def certificates_in(pem: str) -> tuple[str, ...]:
    """Return each certificate in *pem*. Raises ValueError if there is none."""
    found = tuple(_BEGIN + rest.split(_END)[0] + _END + "\n" for rest in pem.split(_BEGIN)[1:] if _END in rest)
    if not found:
        raise ValueError("there is no certificate")
    return found


def new_authority(cluster: str, now: datetime) -> KeyPair:
    """Return a new authority for *cluster*."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    # Two authorities of one cluster differ in name too: a client that trusts both must not try the wrong one first.
    name = _name(f"endpointd {cluster} {x509.random_serial_number():x}"[:64])
    builder = _builder(name, name, key, now, AUTHORITY_DAYS)
    usage = _usage(signs_certificates=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(usage, True)
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_server(authority: KeyPair, names: Sequence[str], now: datetime, *, days: int = SERVER_DAYS) -> KeyPair:
    """Return a certificate of *authority* for *names*, DNS names and IP addresses, the first of which is its subject."""
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return _issue(authority, names[0], names, ExtendedKeyUsageOID.SERVER_AUTH, now, days)


def new_client(authority: KeyPair, role: str, now: datetime) -> KeyPair:
    """Return a certificate of *authority* by which a client proves that it is *role*."""
    from cryptography.x509.oid import ExtendedKeyUsageOID

    return _issue(authority, role, (), ExtendedKeyUsageOID.CLIENT_AUTH, now, SERVER_DAYS)


def _issue(
    authority: KeyPair, subject: str, names: Sequence[str], use: x509.ObjectIdentifier, now: datetime, days: int
) -> KeyPair:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    ca = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
    ca_key = serialization.load_pem_private_key(authority.pem.encode(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(subject[:64]), ca.subject, key, now, days)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage([use]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False),
    ]
    if names:
        extensions.append((x509.SubjectAlternativeName([_general_name(each) for each in names]), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return _pair(builder.sign(ca_key, hashes.SHA256()), key)


def names_of(pair: KeyPair) -> frozenset[str]:
    """Return the DNS names and IP addresses that a certificate is for."""
    from cryptography import x509

    found = x509.load_pem_x509_certificate(pair.certificate_pem.encode()).extensions
    try:
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(str(each.value) for each in names if isinstance(each, x509.DNSName | x509.IPAddress))


def is_signed_by(pair: KeyPair, authority: KeyPair) -> bool:
    """Return whether *authority* has signed the certificate of *pair*."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    ca = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
    try:
        x509.load_pem_x509_certificate(pair.certificate_pem.encode()).verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_due(certificate: Certificate, now: datetime) -> bool:
    """Return whether *certificate* should be made anew: it ends soon, or does not count yet."""
    return not certificate.not_before <= now < certificate.not_after - timedelta(days=RENEW_DAYS)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _BACKDATED,
        not_valid_after=now + timedelta(days=days),
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _name(common_name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    from cryptography.hazmat.primitives import serialization

    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return KeyPair((certificate.public_bytes(serialization.Encoding.PEM) + secret).decode())
