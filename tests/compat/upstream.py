"""PostgreSQL's own tests, out of the source of a release that the machine's packages have: no package of theirs has the tests.

apt finds and checks it (Debian, Ubuntu), by what the machine is configured to install from, but keeps what it learns in a
folder of ours, so no root is needed and nothing is changed.  What the tests load and drive is built against our pinned build.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.compat.fetching import CACHE, UnavailableError, attempt, check, digest, once, unpack
from tests.compat.suite import Suite
from tests.versions import BUILDS, VersionError, programs

LISTED = re.compile(r"^Version: (\S+)$", re.MULTILINE)
UNPACKED = re.compile(r"postgresql-(\d+)\S*")
MODULES = {
    "src/test/regress/regress.c": (),
    "contrib/spi/refint.c": ("-DREFINT_VERBOSE",),
    "contrib/spi/autoinc.c": (),
}
"""What tests of regress load, and the macros that their makefiles define."""
DRIVERS = {
    "src/test/isolation": ("isolationtester.c", "specparse.c"),
    "src/test/modules/libpq_pipeline": ("libpq_pipeline.c",),
}
"""The programs that run other tests: by their folder, of which files."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A release's tests."""

    root: Path

    @property
    def release(self) -> str:
        """Such as 15.18."""
        return self.root.name.removeprefix("postgresql-")

    @property
    def major(self) -> int:
        """Of the server that they are for."""
        return int(self.release.partition(".")[0])


def upstream(suite: Suite, cache: Path = CACHE) -> Upstream:
    """Return what *suite* runs, built. Raises UnavailableError."""
    check(suite)
    place = cache / "postgresql-source"
    once(place, fetch)
    (root,) = (each for each in place.iterdir() if UNPACKED.fullmatch(each.name))
    found = Upstream(root)
    how = digest([repr(MODULES), repr(DRIVERS)])
    once(root / f"built-{how}", lambda new: _build(found, new))
    return found


def as_sources(text: str) -> str:
    """Return apt's configuration *text*, in either of its two forms, with the source packages in place of the binary ones."""
    text = re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.MULTILINE)
    return re.sub(r"^deb(?=\s)", "deb-src", text, flags=re.MULTILINE)


def fetch(place: Path) -> None:
    """Unpack the newest release that is listed and there: a mirror may list what it does not have. Raises UnavailableError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = _configure(folder)
        why = "it names no source of it"
        for major in sorted(BUILDS, reverse=True):
            package = f"postgresql-{major}"
            for version in _listed(package, options):
                get = ["apt-get", *options, "source", "--tar-only", "--download-only", "--only-source", f"{package}={version}"]
                try:
                    attempt(f"{package} {version}", get, cwd=folder)
                except UnavailableError as error:
                    why = str(error)
                    continue
                (archive,) = folder.glob("*.orig.tar.[bgx]z*")
                unpack(archive, place)
                return
    raise UnavailableError(f"no source of PostgreSQL can be had from where the machine's packages are: {why}")


def _configure(folder: Path) -> list[str]:
    """Return apt's options for knowing the machine's source packages, by *folder* alone."""
    parts = folder / "parts"
    for each in (parts, folder / "state" / "lists" / "partial", folder / "cache" / "archives" / "partial"):
        each.mkdir(parents=True)
    asked = ["apt-config", "shell", "FILE", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    file, more = re.findall(r"'(.*)'", attempt("apt's configuration", asked))
    for source in (Path(file), *Path(more).glob("*.list"), *Path(more).glob("*.sources")):
        if source.is_file():
            (parts / source.name).write_text(as_sources(source.read_text()))
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": parts,
        "Dir::State": folder / "state",
        "Dir::State::lists": folder / "state" / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Update::Error-Mode": "any",
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    try:
        attempt("a list of source packages", ["apt-get", *options, "update"])
    except UnavailableError:  # one of many places has no sources, perhaps
        if not any((folder / "state" / "lists").glob("*Sources*")):
            raise
    return options


def _listed(package: str, options: list[str]) -> list[str]:
    """Return the versions of *package*, the newest first."""
    try:
        said = attempt(package, ["apt-cache", *options, "showsrc", "--only-source", package])
    except UnavailableError:
        return []
    return sorted(LISTED.findall(said), key=lambda version: [int(part) for part in re.findall(r"\d+", version)], reverse=True)


def _build(found: Upstream, mark: Path) -> None:
    """Build beside the tests what they load, and their drivers, against our pinned build of the same major version."""
    try:
        there = programs(found.major).parent
    except VersionError as error:
        raise UnavailableError(str(error)) from error
    mark.mkdir()
    headers = [f"-I{there}/include/{part}" for part in ("server", "internal", "")]
    for file, macros in MODULES.items():
        source = found.root / file
        target = found.root / "src/test/regress" / f"{source.stem}.so"
        made = ["gcc", "-w", "-O1", "-fPIC", "-shared", *macros, *headers, "-o", str(target), str(source)]
        attempt(f"a build of {source.name}", made)
    libraries = [f"-L{there}/lib", f"-Wl,-rpath,{there}/lib", "-lpq", "-lpgcommon", "-lpgport"]
    for folder, files in DRIVERS.items():
        sources = [str(found.root / folder / file) for file in files]
        target = sources[0].removesuffix(".c")
        made = ["gcc", "-w", "-O1", f"-I{found.root / folder}", *headers, "-o", target, *sources, *libraries]
        attempt(f"a build of {files[0]}", made)
