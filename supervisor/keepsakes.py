"""Small files that every program needs at its start, kept in mind so that one that is damaged comes back as it was.

Without its token or a password a program would refuse its settings, and what runs goes on by the old ones: only the same
content helps.  Two kinds of damage are told apart.  A file that is gone, empty, garbage, or open to others is nobody's wish: it
is put back at once.  A file that is well-formed and new may be one: it is remembered anew if the files that must agree with it
do, and as they are written one after the other, only what disagrees for some rounds is put back.  Which files there are, and
what is right in them, is said in `cluster_keepsakes`.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemonkit.durable import write_durably
from daemonkit.logs import get_logger
from daemonkit.principals import Scope, decode_verifiers, read_verifiers
from daemonkit.secrets import SecretError, read_secret
from deployment.files import NODES_TOKEN, ROLE_SECRETS
from deployment.local.directory import passfile_line
from deployment.local.layout import Layout
from deployment.local.plan import Plan

FILE_BYTES_MAX = 1 << 20
DISAGREEMENT_ROUNDS = 3
"""Of the supervisor, a second each: `secrets rotate` writes the files of one set within milliseconds."""

Check = Callable[[Path], None]
"""Raises ValueError, OSError or SecretError for a file that nobody can have meant."""
Agree = Callable[[Mapping[Path, bytes], Mapping[Path, bytes]], bool]
"""Whether the files' contents (the first) may replace those that are remembered (the second; empty before the first time)."""


@dataclass(frozen=True, slots=True)
class KeptSet:
    """Files that are right together or not at all."""

    checks: Mapping[Path, Check]
    agree: Agree
    rounds: int = 0
    """For how many rounds they may disagree, because they are written one after the other."""
    keep_refused: bool = False
    """Whether text that is put away may be an operator's work, and is left beside the file."""


class Keepsakes:
    """The files in *sets*."""

    def __init__(self, sets: Callable[[], Sequence[KeptSet]]) -> None:
        """*sets* is asked each time, because nodes come and go."""
        self._sets = sets
        self._known: dict[Path, bytes] = {}
        self._seen: dict[Path, tuple[int, int, int]] = {}
        """How each file looked when it was found to be right: inode, size, and when it was changed, in nanoseconds."""
        self._rounds: dict[frozenset[Path], int] = {}
        """For how many rounds in a row a set has disagreed."""
        self._said: dict[Path, str] = {}

    def restore(self, *, ends_round: bool = False) -> list[Path]:
        """Remember what is new and right, write again what is not, and return what was written.

        What the disk refuses is tried again the next time.
        """
        written: list[Path] = []
        for one in self._sets():
            written += self._restore(one, ends_round=ends_round)
        return written

    def _restore(self, one: KeptSet, *, ends_round: bool) -> list[Path]:
        if all(path in self._seen and self._seen[path] == _look(path) for path in one.checks):
            self._rounds.pop(frozenset(one.checks), None)
            return []
        written: list[Path] = []
        contents: dict[Path, bytes] = {}
        looks = {path: _look(path) for path in one.checks}
        for path, check in one.checks.items():
            try:
                check(path)
                contents[path] = path.read_bytes()
            except (OSError, ValueError, SecretError, RecursionError) as error:
                if self._write(one, path, str(error)):
                    written.append(path)
        if written or len(contents) < len(one.checks):
            return written
        known = {path: self._known[path] for path in one.checks if path in self._known}
        if len(known) < len(one.checks) or one.agree(contents, known):
            self._known.update(contents)
            self._seen.update({path: look for path, look in looks.items() if look is not None})
            self._rounds.pop(frozenset(one.checks), None)
            for path in one.checks:
                self._said.pop(path, None)
            return []
        rounds = self._rounds.get(frozenset(one.checks), 0) + ends_round
        self._rounds[frozenset(one.checks)] = rounds
        if rounds < one.rounds:
            return []
        self._rounds.pop(frozenset(one.checks), None)
        wrong = [path for path in one.checks if contents[path] != known[path]]
        return [path for path in wrong if self._write(one, path, "it does not fit the other files")]

    def _write(self, one: KeptSet, path: Path, reason: str) -> bool:
        """Write what is remembered of *path*; return whether that was done."""
        log = get_logger()
        known = self._known.get(path)
        try:
            if known is None:
                raise OSError("nobody knows what was in it")
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _put_away(path, keep_text=one.keep_refused)
            write_durably(path, known)
        except OSError as error:
            if self._said.get(path) != reason:
                log.error(
                    "a file that programs need is damaged and cannot be put back",
                    path=str(path),
                    found=reason,
                    reason=str(error),
                )
                self._said[path] = reason
            return False
        log.warning("a file that programs need was damaged and is as it was", path=str(path), found=reason)
        return True


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_ctime_ns


def _put_away(path: Path, *, keep_text: bool) -> None:
    """Make room at *path*: a directory, or text that somebody may want back, is kept beside it. Raises OSError."""
    aside = path.with_name(f"{path.name}.refused")
    if path.is_dir() and not path.is_symlink():
        path.rename(aside)
    elif keep_text and path.is_file() and 0 < path.stat().st_size <= FILE_BYTES_MAX:
        path.replace(aside)


def cluster_keepsakes(layout: Layout, plan: Plan) -> list[KeptSet]:
    """Return the files that the programs of *plan* need, and what is right in each.

    While the cluster runs, our own commands change the password of postgres and the tokens, each with the file that is made
    from it, and an operator may write settings. Everything else changes only while nothing runs.
    """
    fixed: dict[Path, Check] = {
        **{layout.secret(name): _check_secret for name in (*ROLE_SECRETS, NODES_TOKEN) if name != "superuser"},
        layout.marker: _check_regular,
    }
    superuser = layout.secret("superuser")
    tokens = {scope: layout.token_of(scope) for scope in Scope}
    settings = (layout.settings_file(name) for name in plan.programs)
    return [
        *(KeptSet({path: check}, lambda new, known: new == known) for path, check in fixed.items()),
        KeptSet(
            {superuser: _check_password, layout.passfile: _check_private},
            lambda new, _: _line_of(new[superuser]) in new[layout.passfile].split(b"\n"),
            rounds=DISAGREEMENT_ROUNDS,
        ),
        KeptSet(
            {**dict.fromkeys(tokens.values(), _check_secret), layout.verifiers: _check_verifiers},
            lambda new, _: _are_verified({scope: _word(new[path]) for scope, path in tokens.items()}, new[layout.verifiers]),
            rounds=DISAGREEMENT_ROUNDS,
        ),
        *(KeptSet({path: _check_settings}, lambda _new, _known: True, keep_refused=True) for path in settings),
    ]


def _are_verified(tokens: Mapping[Scope, str], verifiers: bytes) -> bool:
    known = decode_verifiers(verifiers.decode())
    return all(scope in known.scopes_of(token) for scope, token in tokens.items())


def _word(secret: bytes) -> str:
    return secret.decode().strip()


def _line_of(password: bytes) -> bytes:
    return passfile_line(password.decode().rstrip("\n")).encode()


def _check_regular(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if not 0 < status.st_size <= FILE_BYTES_MAX:
        raise ValueError("it is empty" if not status.st_size else f"it is longer than {FILE_BYTES_MAX} bytes")


def _check_private(path: Path) -> None:
    _check_regular(path)
    path.read_text(encoding="utf-8")
    if path.stat().st_mode & 0o077:
        raise ValueError("it is open to other users")


def _check_secret(path: Path) -> None:
    if not read_secret(path).isprintable():
        raise ValueError("it is not one line of text")


def _check_password(path: Path) -> None:
    read_secret(path)


def _check_verifiers(path: Path) -> None:
    read_verifiers(path)


def _check_settings(path: Path) -> None:
    _check_regular(path)
    if not tomllib.loads(path.read_text(encoding="utf-8")):
        raise ValueError("there are no settings in it")
