"""The image under test, and the base it is built on where no registry can be reached.

Such a base is a minimal Debian with PostgreSQL and Python from Debian's own packages (debootstrap), kept for the next run.
Wheels are fetched on this machine then, because building containers reach no index either.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.compose.engine import Engine
from tests.compose.shell import run, works

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_BASE = "postgres:17-bookworm"
SUITE = "bookworm"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "endpointd"
BARE, WITH_POSTGRES = "endpointd-test-base:bare", "endpointd-test-base:postgresql"
PACKAGES = {BARE: "python3", WITH_POSTGRES: "python3,postgresql"}
BOOTSTRAP_S = 900.0
BUILD_S = 900.0


def base_image(engine: Engine, wanted: str | None, *, bundled: bool) -> str:
    """Return the base to build on: *wanted*, else the official one if it can be pulled, else one made here."""
    if wanted is not None:
        return wanted
    if not engine.is_own and not bundled and works(["docker", "pull", "-q", DEFAULT_BASE], timeout_s=300.0):
        return DEFAULT_BASE
    name = BARE if bundled else WITH_POSTGRES
    if not works(["docker", "image", "inspect", name]):
        run(["docker", "import", str(_root_archive(name)), name], timeout_s=BUILD_S)
    return name


def build(engine: Engine, base: str, image: str) -> None:
    """Build *image* on *base*."""
    wheels = ROOT / "docker" / "wheels"
    is_cut_off = engine.is_own or base in PACKAGES
    fetch = is_cut_off and not list(wheels.glob("*.whl"))
    try:
        if fetch:
            run([str(ROOT / "docker" / "fetch-wheels"), sys.executable], timeout_s=BUILD_S)
        # The older builder is in every engine; BuildKit's needs a plug-in that Debian does not have.
        env = {"DOCKER_BUILDKIT": "0"} if not works(["docker", "buildx", "version"]) else {}
        run(["docker", "build", "-q", "--build-arg", f"BASE={base}", "-t", image, str(ROOT)], env=env, timeout_s=BUILD_S)
    finally:
        if fetch:
            for wheel in wheels.glob("*.whl"):
                wheel.unlink()


def _root_archive(name: str) -> Path:
    """Return a root file system with Debian's packages for *name*, made now unless an earlier run made it."""
    archive = CACHE / f"{name.replace(':', '-')}-{SUITE}.tar"
    if archive.exists():
        return archive
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        raise RuntimeError("no base image can be pulled, and making one needs root and debootstrap")
    CACHE.mkdir(parents=True, exist_ok=True)
    root = CACHE / "root"
    shutil.rmtree(root, ignore_errors=True)
    try:
        run(["debootstrap", "--variant=minbase", f"--include={PACKAGES[name]}", SUITE, str(root)], timeout_s=BOOTSTRAP_S)
        partial = archive.with_suffix(".partial")
        subprocess.run(["tar", "-C", str(root), "-cf", str(partial), "."], check=True, timeout=BOOTSTRAP_S)
        partial.rename(archive)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return archive
