"""What is read off a certificate, beside what a full parser reads."""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from pgwire.x509 import read_certificate
from tests.certificates import server

_RSA = rsa.generate_private_key(65537, 2048)
_EC = ec.generate_private_key(ec.SECP256R1())


def made(key: Any, algorithm: Any, until: dt.datetime, **more: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, dt.datetime(1999, 12, 31, tzinfo=dt.UTC), until)
    return builder.sign(key, algorithm, **more).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("year", [2026, 2049, 2050, 9999])
@pytest.mark.parametrize(
    ("key", "algorithm", "stands_for_it"),
    [
        (_RSA, hashes.SHA256(), "sha256"),
        (_RSA, hashes.SHA384(), "sha384"),
        (_EC, hashes.SHA256(), "sha256"),
        (_EC, hashes.SHA512(), "sha512"),
        (ed25519.Ed25519PrivateKey.generate(), None, None),
    ],
)
def test_it_says_what_a_full_parser_says(key: Any, algorithm: Any, stands_for_it: str | None, year: int) -> None:
    until = dt.datetime(year, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    der = made(key, algorithm, until)
    read = read_certificate(der)
    assert (read.not_before, read.not_after) == (dt.datetime(1999, 12, 31, tzinfo=dt.UTC), until)
    assert read.binding == (hashlib.new(stands_for_it, der).digest() if stands_for_it else None)
    assert read.sha256.replace(":", "") == hashlib.sha256(der).hexdigest().upper()


def test_a_hash_that_stands_in_parameters_is_not_guessed() -> None:
    pss, until = padding.PSS(padding.MGF1(hashes.SHA256()), 32), dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    assert read_certificate(made(_RSA, hashes.SHA256(), until, rsa_padding=pss)).binding is None


@pytest.mark.parametrize(
    ("names", "common_name"),
    [
        ([("CN", "ann")], "ann"),
        ([("O", "Shop"), ("CN", "Ann Smith"), ("OU", "till")], "Ann Smith"),
        ([("CN", "Änne")], "Änne"),
        ([("O", "Shop")], None),
        ([("CN", "ann"), ("CN", "root")], None),
        ([("CN", "ann\0root")], None),
        ([("CN", "ann\n")], None),
        ([], None),
    ],
)
def test_a_common_name_is_one_plain_text_or_none(names: list[tuple[str, str]], common_name: str | None) -> None:
    kinds = {"CN": x509.NameOID.COMMON_NAME, "O": x509.NameOID.ORGANIZATION_NAME, "OU": x509.NameOID.ORGANIZATIONAL_UNIT_NAME}
    subject = x509.Name([x509.NameAttribute(kinds[kind], text) for kind, text in names])
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the issuer")])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(issuer, subject, _EC.public_key(), 1, now, now + dt.timedelta(days=1))
    der = builder.sign(_EC, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    assert read_certificate(der).common_name == common_name


@given(pos=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.booleans())
def test_what_is_no_certificate_is_a_value_error(pos: int, byte: int, cut: bool) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(server().certificate_pem))
    pos %= len(der)
    der[pos] = byte
    try:
        read_certificate(bytes(der[:pos] if cut else der))
    except ValueError:
        return
