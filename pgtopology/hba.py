"""A line of pg_hba.conf, taken apart as PostgreSQL takes it apart.

Pure.  What a line means is decided by quotes in odd places, commas, comments and files that are read in its stead, so whoever
judges one must read it by PostgreSQL's own rules: hba.c, next_token, next_field_expand, tokenize_auth_file and parse_hba_line
of PostgreSQL 15 to 18.  Whether PostgreSQL accepts the line only PostgreSQL can say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

BLANK = " \t\r"
"""What parts tokens, beside the comma: hba.c, pg_isblank."""
INCLUDES = ("include", "include_if_exists", "include_dir")
UNPROVEN = ("trust", "ident")
"""Methods by which nobody proves who they are: the one asks nothing, the other asks the client's own machine."""

_LOCAL_METHOD, _METHODS = slice(3, 4), slice(4, 6)


@dataclass(frozen=True, slots=True)
class Token:
    """One word of a field."""

    text: str
    quoted: bool
    """It began with a quote: then it is no keyword and names no file."""

    @property
    def names_file(self) -> bool:
        """Whether the words of a file are read in its stead."""
        return not self.quoted and len(self.text) > 1 and self.text[0] == "@"


Field = tuple[Token, ...]


def fields(line: str) -> tuple[Field, ...]:
    """Return the fields of *line*, each with its words; none for a comment."""
    found: list[Field] = []
    at = 0
    while at < len(line):
        field, at = _field(line, at)
        if field:
            found.append(field)
    return tuple(found)


def is_pattern(token: Token) -> bool:
    """Return whether *token* is a regular expression, as from PostgreSQL 16 on."""
    return not token.quoted and len(token.text) > 1 and token.text.startswith("/")


_DOLLAR = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", re.DOTALL)


@lru_cache(1024)
def pattern(token: Token) -> str:
    """Return a token's regular expression in Python's words: its ``$`` is the end, also in front of a last line feed."""
    return _DOLLAR.sub(lambda found: r"\Z" if found[0] == "$" else found[0], token.text[1:])


def matches(token: Token, name: str) -> bool:
    """Return whether *token* stands for *name*, of a database or a user: it is the name, a pattern that finds it, or "all"."""
    if is_pattern(token):
        return re.search(pattern(token), name) is not None
    return token.text == name or (token.text == "all" and not token.quoted)


def spelled(field: Field) -> str:
    """Return *field* as it is written in a line, which reads back to an equal one."""
    return ",".join(_spelled(token) for token in field)


def _spelled(token: Token) -> str:
    if not token.quoted and not any(character in f'{BLANK},"#' for character in token.text):
        return token.text
    quoted = token.text.replace('"', '""')
    # A quote that comes later keeps characters together, and the word what it was: a keyword, a pattern.
    return f'"{quoted}"' if token.quoted else f'{quoted[0]}"{quoted[1:]}"'


def is_unproven(line: str) -> bool:
    """Return whether the method of *line* is one of UNPROVEN.

    After an address with a mask of its own it is the sixth field, else the fifth; a mask is never called so. A file may
    be empty, and its field is none then: all that follows moves up.
    """
    texts = [field[0].text for field in fields(line)]
    if any(token.names_file for field in fields(line) for token in field):
        return any(text in UNPROVEN for text in texts[3:])
    places = _LOCAL_METHOD if texts[:1] == ["local"] else _METHODS
    return any(text in UNPROVEN for text in texts[places])


def why_unsafe(line: str) -> str | None:
    """Return why the line could let somebody in without a proof, or change what other lines mean; None if it cannot."""
    if "\n" in line or "\0" in line or line.rstrip("\r").endswith("\\"):
        return "a pg_hba line must be one line"
    parts = fields(line)
    if parts and parts[0][0].text in INCLUDES:
        return f'the pg_hba line "{line}" is refused: lines must be given one by one'
    if any(token.names_file for number, field in enumerate(parts) if number not in (1, 2) for token in field):
        return f'the pg_hba line "{line}" is refused: only databases and users can be in a file'
    if is_unproven(line):
        return f'the pg_hba line "{line}" is refused: everybody proves who they are'
    return None


def why_not_everywhere(line: str) -> str | None:
    """Return why the line could mean something else on another node, or keep it from starting; None if it cannot."""
    if any(token.names_file for field in fields(line) for token in field):
        return f'the pg_hba line "{line}" is refused: it reads a file, which would have to be on every node'
    return None


def _field(line: str, at: int) -> tuple[Field, int]:
    """Return the field of *line* that begins at or after *at*, and where it ends. A comma says that more follow."""
    tokens: list[Token] = []
    more = True
    while more:
        token, at, more = _token(line, at)
        if token is None:
            break
        tokens.append(token)
    return tuple(tokens), at


def _token(line: str, at: int) -> tuple[Token | None, int, bool]:
    """Return the next word of *line* from *at* on, where it ends, and whether a comma ended it."""
    while at < len(line) and line[at] in f"{BLANK},":
        at += 1
    text = ""
    quoted = saw_quote = in_quote = was_quote = False
    while at < len(line) and (in_quote or line[at] not in BLANK):
        character = line[at]
        if not in_quote and character == "#":
            at = len(line)
            break
        if not in_quote and character == ",":
            return Token(text, quoted), at, True
        if character != '"' or was_quote:
            text += character
        was_quote = in_quote and character == '"' and not was_quote
        if character == '"':
            in_quote = not in_quote
            saw_quote = True
            quoted = quoted or not text
        at += 1
    return Token(text, quoted) if saw_quote or text else None, at, False
