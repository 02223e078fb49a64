"""The relay engine in C (native/). A handle is never used again; *watch* is NOT_WATCHED or flags of Relaxed."""

from ssl import SSLContext

NOT_WATCHED: int
PAIR_BYTES: int
"""What a pair that holds nothing back takes of memory."""

_Facts = tuple[int, int, int, int, bool, bool, bool, bool, bool, bool]
"""As Facts has them; what the session is doing is a number: idle, in a transaction, busy."""

def use_openssl(library: str | None, /) -> str | None:
    """Speak TLS by the library that the extension module in the file *library* is linked with; None: by the program's own.

    Return what is missing, if anything is.
    """

class Core:
    """The engine, and its thread."""

    def fileno(self) -> int:
        """Return the descriptor that can be read when something is to be told."""
    def add(
        self,
        client: int,
        client_tls: tuple[object, SSLContext] | None,
        server: int,
        server_tls: tuple[object, SSLContext] | None,
        watch: int,
        keeps_server: bool,
        welcome: bytes,
        server_rest: bytes,
        client_rest: bytes,
        /,
    ) -> int:
        """Give the client *welcome* and return a handle; the descriptors are the engine's then, and so are the connections of
        _ssl, each with its context.

        Raises OSError, and they are the caller's still, and nothing was said.
        """
    def pause(self, handle: int, /) -> None: ...
    def resume(self, handle: int, /) -> None: ...
    def close_server(self, handle: int, /) -> None: ...
    def take_server(self, handle: int, /) -> int | None:
        """Return the server's descriptor, which is the caller's then, if it can be given back."""
    def cancel_begins(self, handle: int, /) -> None: ...
    def cancel_ended(self, handle: int, /) -> None: ...
    def halt(self, handle: int, /) -> _Facts: ...
    def facts(self, handle: int, /) -> _Facts: ...
    def drop(self, handle: int, farewell: bytes, /) -> None: ...
    def relaxes(self, handle: int, relaxed: int, /) -> int:
        """Note what a client relaxes, and return what of it is new."""
    def take_text(self, handle: int, /) -> bytes | None:
        """Return a statement that is to be looked at, before its turn comes in `next`."""
    def next(self) -> tuple[int, int, bytes | None] | None:
        """Return what is to be told: a handle, what it is, and a statement if it is one."""

class SafePoint:
    """What `relay.safepoint.SafePoint` is, for tests that compare the two."""

    def __init__(self, watch: int, /) -> None: ...
    def client_sent(self, chunk: bytes, /) -> list[bytes]:
        """Return statements that are to be looked at. Raises ValueError."""
    def server_sent(self, chunk: bytes, /) -> int | None:
        """Raises ValueError."""
    def relaxes(self, relaxed: int, /) -> int: ...
    def cancel_begins(self) -> None: ...
    def cancel_ended(self) -> None: ...
    def state(self) -> tuple[int, int, int, bool, bool, bool, bool, bool, bool]:
        """Return boundary, missing, what the session is doing, and whether it is awaited, streams, may have committed, was
        terminated by its client, was said goodbye to by its server, is in doubt."""

def is_suspicious(statement: bytes, /) -> bool:
    """Return whether a statement has words that somebody who knows the grammar has to look at."""

def forgets(statement: bytes, /) -> tuple[int, bytes]:
    """Return 1 and the name for DEALLOCATE, 2 for DEALLOCATE ALL, 3 for DISCARD ALL; 0 for what is not plainly one of these."""

class Pooler:
    """Transaction pooling, and its thread: see native/pooler.h. A handle is never used again."""

    def fileno(self) -> int:
        """Return the descriptor that can be read when something is to be told."""
    def add_pool(
        self, size_max: int, idle_min: int, statements_max: int, wait_max_ms: int, idle_max_ms: int, age_max_ms: int, /
    ) -> int: ...
    def set_pool(
        self,
        pool: int,
        size_max: int,
        idle_min: int,
        statements_max: int,
        wait_max_ms: int,
        idle_max_ms: int,
        age_max_ms: int,
        /,
    ) -> int: ...
    def close_pool(self, pool: int, /) -> None: ...
    def dial_failed(self, pool: int, /) -> None: ...
    def pool_facts(self, pool: int, /) -> tuple[int, int, int, int, int, int, int, int, int, int, int]: ...
    def add_client(self, pool: int, descriptor: int, tls: tuple[object, SSLContext] | None, watch: int, rest: bytes, /) -> int:
        """Raises OSError, and the descriptor is the caller's still."""
    def add_server(self, pool: int, descriptor: int, tls: tuple[object, SSLContext] | None, is_paused: bool, /) -> int:
        """Raises OSError, and the descriptor is the caller's still."""
    def kill(self, server: int, /) -> None: ...
    def retire(self, server: int, /) -> None: ...
    def pause_server(self, server: int, /) -> None: ...
    def resume_server(self, server: int, /) -> None: ...
    def client_of(self, server: int, /) -> tuple[int, int] | None:
        """Return the client that has the server, and the number of why it is pinned."""
    def pause(self, client: int, /) -> None: ...
    def resume(self, client: int, /) -> None: ...
    def close_server(self, client: int, /) -> None: ...
    def halt(self, client: int, /) -> _Facts: ...
    def facts(self, client: int, /) -> _Facts: ...
    def standing(self, client: int, /) -> tuple[int, int, int, int]:
        """Return server or 0, the pin's number or 0, the wait in ms or -1, and how often it was given a server."""
    def drop(self, client: int, farewell: bytes, /) -> None: ...
    def cancel_begins(self, client: int, /) -> int: ...
    def cancel_ended(self, client: int, server: int, is_over: bool, /) -> None: ...
    def relaxes(self, client: int, relaxed: int, /) -> int: ...
    def take_text(self, client: int, /) -> bytes | None: ...
    def judged(self, client: int, statement: bytes, verdict: int, /) -> None: ...
    def next(self) -> tuple[int, int, int, bytes | None] | None:
        """Return what is to be told: a handle, what it is, a number, and a statement if it is one."""
