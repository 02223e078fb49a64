"""What a PostgreSQL was built without, as its own pg_config tells: a user who needs it should learn that beforehand.

Sources: PostgreSQL documentation, "Building and Installation with Autoconf and Make"; appendix "Additional Supplied Modules".
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from noded.postgres.binaries import Binaries

WITH = {
    "TLS": ("--with-ssl", "--with-openssl"),
    "lz4": ("--with-lz4",),
    "zstd": ("--with-zstd",),
    "xml": ("--with-libxml",),
}
"""What is only there if it was asked for, by any of these options."""
ICU_BY_DEFAULT_SINCE = 16
EXTENSIONS = ("pgcrypto", "sslinfo", "uuid-ossp", "xml2")
"""Of the supplied modules, those that need a library which a build may lack."""
ANSWER_TIMEOUT_S = 10


def lacking(binaries: Binaries) -> tuple[str, ...] | None:
    """Return what the build lacks of what packages of PostgreSQL usually have; None if it cannot be told."""
    command = [str(binaries.directory / "pg_config"), "--configure", "--sharedir"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    configured, _, share = answer.stdout.rstrip("\n").rpartition("\n")
    present = {path.stem for path in (Path(share) / "extension").glob("*.control")}
    return missing(configured, binaries.major, present)


def missing(configured: str, major: int, present: set[str]) -> tuple[str, ...]:
    """Return what a build of version *major* lacks that was *configured* so and has the extensions *present*."""
    found: list[str] = []
    # Built by Meson it does not say how.
    if "--" in configured:
        found += [feature for feature, options in WITH.items() if not any(option in configured for option in options)]
        if "--without-icu" in configured or (major < ICU_BY_DEFAULT_SINCE and "--with-icu" not in configured):
            found.append("ICU")
    return *found, *(f"extension {name}" for name in EXTENSIONS if name not in present)
