"""What a PostgreSQL was built without is told by its own pg_config."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from noded.postgres.binaries import find_binaries
from noded.postgres.features import EXTENSIONS, lacking, missing
from noded.postgres.tls import has_tls

EVERYTHING = "'--with-ssl=openssl' '--with-lz4' '--with-zstd' '--with-libxml'"


@pytest.mark.parametrize(
    ("configured", "major", "present", "expected"),
    [
        (EVERYTHING, 18, set(EXTENSIONS), ()),
        (EVERYTHING, 15, set(EXTENSIONS), ("ICU",)),
        (f"{EVERYTHING} '--with-icu'", 15, set(EXTENSIONS), ()),
        ("'--with-openssl' '--without-icu'", 17, set(EXTENSIONS), ("lz4", "zstd", "xml", "ICU")),
        ("", 18, {"pgcrypto"}, ("extension sslinfo", "extension uuid-ossp", "extension xml2")),
    ],
)
def test_what_is_missing(configured: str, major: int, present: set[str], expected: tuple[str, ...]) -> None:
    assert missing(configured, major, present) == expected


def test_the_bundled_one_lacks_what_the_documentation_says() -> None:
    told = lacking(find_binaries(prefer_bundled=True))
    assert told is not None
    assert {"TLS", "ICU", "xml", "extension pgcrypto", "extension uuid-ossp"} <= set(told)
    for word in told:
        assert word.removeprefix("extension ") in (Path(__file__).parents[2] / "README.md").read_text(), word


def test_a_build_says_whether_it_has_tls() -> None:
    assert not has_tls(find_binaries(prefer_bundled=True))


@pytest.mark.skipif("ENDPOINTD_TEST_PG_BIN" not in os.environ, reason="needs another PostgreSQL than the bundled one")
def test_an_installation_says_what_it_lacks_or_nothing() -> None:
    binaries = find_binaries(Path(os.environ["ENDPOINTD_TEST_PG_BIN"]))
    told = lacking(binaries)
    assert told is None or has_tls(binaries) is ("TLS" not in told)
    assert told is None or set(told) < {"TLS", "ICU", "lz4", "zstd", "xml", *(f"extension {name}" for name in EXTENSIONS)}
