"""What a program must know of a certificate, read off its DER: when it is valid, and which hash stands for it.

Not a verifier: OpenSSL verifies.  It reads the outermost fields of a Certificate (RFC 5280, 4.1) and nothing below them.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_SEQUENCE, _OID, _VERSION, _UTC_TIME, _TIME = 0x30, 0x06, 0xA0, 0x17, 0x18

_COMMON_NAME = bytes.fromhex("550403")
_TEXTS = (0x0C, 0x13, 0x16)
"""UTF8String, PrintableString, IA5String."""

_HASHES = {
    # By the signature algorithm's OID in DER. MD5 and SHA-1 count as SHA-256 (RFC 5929, 4.1).
    bytes.fromhex("2a864886f70d010104"): "sha256",  # md5WithRSAEncryption
    bytes.fromhex("2a864886f70d010105"): "sha256",  # sha1WithRSAEncryption
    bytes.fromhex("2a864886f70d01010e"): "sha224",
    bytes.fromhex("2a864886f70d01010b"): "sha256",
    bytes.fromhex("2a864886f70d01010c"): "sha384",
    bytes.fromhex("2a864886f70d01010d"): "sha512",
    bytes.fromhex("2a8648ce3d0401"): "sha256",  # ecdsa-with-SHA1
    bytes.fromhex("2a8648ce3d040301"): "sha224",
    bytes.fromhex("2a8648ce3d040302"): "sha256",
    bytes.fromhex("2a8648ce3d040303"): "sha384",
    bytes.fromhex("2a8648ce3d040304"): "sha512",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate."""

    der: bytes
    not_before: datetime
    not_after: datetime
    """The last second in which it counts."""
    binding: bytes | None
    """What `tls-server-end-point` binds a login to (RFC 5929, 4.1); None if its signature has no hash, as Ed25519's."""

    common_name: str | None
    """Its subject's; None if there is none, or several, or what is no plain text: whoever goes by it needs exactly one."""

    @property
    def sha256(self) -> str:
        """Its fingerprint, as `openssl x509 -fingerprint -sha256` shows it."""
        return hashlib.sha256(self.der).digest().hex(":").upper()


def read_pem(pem: str) -> Certificate:
    """Return what one certificate in PEM says. Raises ValueError if it is none."""
    return read_certificate(ssl.PEM_cert_to_DER_cert(pem))


def read_certificate(der: bytes) -> Certificate:
    """Return what *der* says. Raises ValueError if it is no certificate."""
    try:
        (_, certificate), *_ = _elements(der, _SEQUENCE)
        (_, tbs), (_, algorithm), *_ = _elements(certificate, _SEQUENCE)
        fields = [each for each in _elements(tbs) if each[0] != _VERSION]
        (_, validity), (_, subject) = fields[3:5]
        not_before, not_after = (_time(kind, value) for kind, value in _elements(validity))
        (_, oid), *_ = _elements(algorithm, _OID)
        names = list(_common_names(subject))
    except (IndexError, ValueError) as error:
        raise ValueError("not an X.509 certificate") from error
    name = _HASHES.get(oid)
    binding = hashlib.new(name, der).digest() if name is not None else None
    return Certificate(der, not_before, not_after, binding, names[0] if len(names) == 1 else None)


def _common_names(subject: bytes) -> Iterator[str | None]:
    """Yield each common name in a Name (RFC 5280, 4.1.2.4). Raises ValueError, IndexError."""
    for _, names in _elements(subject):
        for _, attribute in _elements(names):
            (_, oid), (kind, value) = _elements(attribute, _OID)
            if oid == _COMMON_NAME:
                text = value.decode("utf-8", "replace") if kind in _TEXTS else "\0"
                yield text if text.isprintable() and "\ufffd" not in text else None


def _elements(data: bytes, first: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Yield kind and content of each element in *data*, of which the first must be *first*. Raises ValueError, IndexError."""
    pos = 0
    while pos < len(data):
        kind, size = data[pos], data[pos + 1]
        if first is not None and pos == 0 and kind != first:
            raise ValueError("another kind of element was expected")
        pos += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[pos : pos + count], "big")
            pos += count
        if pos + size > len(data):
            raise ValueError("an element is cut off")
        yield kind, data[pos : pos + size]
        pos += size


def _time(kind: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if kind == _UTC_TIME:  # its years are 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    elif kind != _TIME:
        raise ValueError("not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
