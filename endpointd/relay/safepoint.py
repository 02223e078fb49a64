"""What a session is doing, told from message headers of both directions: idle, in a transaction, or busy.

A safe point is the moment when the session is idle: the server has answered everything, no transaction is open, and neither
side is in the middle of a message.  There a session can be ended without harm, and later moved.

Each Query, FunctionCall and Sync of the client is answered by one ReadyForQuery, so a queue of them counts what is
outstanding, pipelines included.  COPY from the client is the exception: a Sync sent before CopyDone is swallowed by the server
(PostgreSQL documentation, "COPY Operations").

Replication streams: both sides copy, until the server ends ("Streaming Replication Protocol").  Such a session comes to no safe
point by itself, and nothing is committed in it.

Inside a transaction block nothing is committed before the block ends: what may do that is looked for in the texts (block.py).

The server's direction also shows the two things of payload that we read: whether the server said goodbye itself, and a
notice from SyncRepWaitForLSN, that is, a commit whose wait for copies was cancelled (S15).  Of a writer's client the texts of
statements are looked through for words that weaken its commits (relaxed.py).  One that hides the server's warnings would not
be given that notice: then a cancel request makes doubtful whatever is not answered by "canceled".  Pure.
"""

from __future__ import annotations

from endpointd.relay.block import Block, may_end
from endpointd.relay.facts import Doing
from endpointd.relay.relaxed import Relaxed, relaxed_by
from pgwire.errors import ProtocolError
from pgwire.framing import Scanner
from pgwire.messages import Backend, Frontend, Report, decode_report
from pgwire.sqlstate import SqlState

SYNC_WAIT_ROUTINE = "SyncRepWaitForLSN"
_SYNC_WAIT = SYNC_WAIT_ROUTINE.encode()

_ANSWERED = frozenset({Frontend.QUERY, Frontend.FUNCTION_CALL, Frontend.SYNC})
_IDLE = ord("I")
_IN_BLOCK = ord("T")
_IN_FAILED_BLOCK = ord("E")

_PREPARING = frozenset({Frontend.PARSE, Frontend.BIND, Frontend.EXECUTE})

_CLOSING = frozenset(
    {
        0,
        *_ANSWERED,
        Frontend.COPY_DATA,
        Frontend.COPY_DONE,
        Frontend.COPY_FAIL,
        Frontend.TERMINATE,
    }
)
"""A client that stops behind one of these has nothing unfinished, as far as its own direction tells."""


class SafePoint:
    """The state of one session, fed with what each side sends. Begins behind the login, where the session is idle."""

    __slots__ = (
        "_block",
        "_cancels",
        "_client",
        "_copying_in",
        "_is_watched",
        "_may_end_block",
        "_only_flushed",
        "_outstanding",
        "_relaxed",
        "_server",
        "_status",
        "_unsynced",
        "client_terminated",
        "is_in_doubt",
        "is_streaming",
        "server_said_goodbye",
    )

    def __init__(self, watch: Relaxed | None = None) -> None:
        """*watch* is None unless the client's statements can commit and are looked through; else what it relaxed before."""
        self._client = Scanner(
            told=(*_ANSWERED, Frontend.COPY_DONE, Frontend.COPY_FAIL, Frontend.TERMINATE, Frontend.FLUSH),
            collected=(Frontend.QUERY, Frontend.PARSE) if watch is not None else (),
        )
        self._server = Scanner(
            told=(Backend.COPY_IN_RESPONSE, Backend.COPY_BOTH_RESPONSE),
            collected=(Backend.READY_FOR_QUERY, Backend.NOTICE_RESPONSE, Backend.ERROR_RESPONSE),
        )
        self._only_flushed = False
        """Since all that the client had begun was closed it has said nothing but Flush, for which there is nothing to flush."""
        self._outstanding = bytearray()
        self._copying_in = False
        self._unsynced = False
        self._status = _IDLE
        self._cancels = 0
        self._block = Block()
        self._is_watched = watch is not None
        self._may_end_block = True
        """Something under way may end the block, or begun outside one; always while the texts are not looked through."""
        self._relaxed = watch if watch is not None else Relaxed.NONE
        self.is_in_doubt = False
        """The client hides warnings, and something of it may have been cancelled: the next success is none for certain."""
        self.is_streaming = False
        """The server sends WAL, or what it decodes of it, for as long as it runs."""
        self.client_terminated = False
        """The client said Terminate."""
        self.server_said_goodbye = False
        """The server's last word was an error that ends the session, or that it has streamed everything."""

    def cancel_begins(self) -> None:
        """A cancel request for this session is on its way to the server."""
        self._cancels += 1
        if Relaxed.WARNINGS in self._relaxed:
            self._server.ask_for(collected=(Backend.COMMAND_COMPLETE,))
            self.is_in_doubt = True

    def cancel_ended(self) -> None:
        """The request was delivered, or given up; what has not felt it by the end of the running statement never will."""
        self._cancels -= 1
        if self.doing is Doing.IDLE:
            self._believe_again()

    def client_sent(self, chunk: bytes | bytearray | memoryview) -> Relaxed | None:
        """Take in what the client sent, and return what it has relaxed by that for the first time.

        Raises ProtocolError if it is no chain of messages.
        """
        new: Relaxed | None = None
        client = self._client
        closed_until = -client.begun if self._is_closed and not client.missing else None
        for kind, begin, end, payload in client.feed(chunk):
            if kind in _CLOSING or (kind == Frontend.FLUSH and begin == closed_until):
                closed_until = end
            if payload or kind == Frontend.SYNC:
                relaxed = self._follow(kind, payload)
                if relaxed is not None:
                    new = relaxed if new is None else new | relaxed
            if kind in _ANSWERED:
                self._outstanding.append(kind)
            elif kind in _PREPARING or kind == Frontend.FLUSH:
                pass
            elif kind == Frontend.TERMINATE:
                self.client_terminated = True
            elif self._copying_in:
                # CopyDone or CopyFail. What was outstanding is the command itself and Syncs that the server swallowed.
                self._copying_in = False
                if self._outstanding and self._outstanding[0] != Frontend.SYNC:
                    del self._outstanding[1:]
                else:
                    self._outstanding.clear()
                    self._unsynced = True
        if client.boundary > 0:
            self._only_flushed = client.last_kind == Frontend.FLUSH and closed_until == client.boundary
        return new

    @property
    def _is_closed(self) -> bool:
        """Whether the client, by the kinds of what it said, has nothing unfinished."""
        kind = self._client.last_kind
        return kind in _CLOSING or (kind == Frontend.FLUSH and self._only_flushed)

    def server_sent(self, chunk: bytes | bytearray | memoryview) -> int | None:
        """Take in what the server sent.

        Return where in *chunk* a notice ends that says a commit's wait was cancelled, or a success begins that is in doubt
        (negative if that was in an earlier chunk), or None.  Nothing behind that place may reach the client.  Raises
        ProtocolError if it is no chain of messages.
        """
        unconfirmed: int | None = None
        for kind, begin, end, payload in self._server.feed(chunk):
            self.server_said_goodbye = False
            if self.is_in_doubt and unconfirmed is None and self._is_success_in_doubt(kind, payload):
                unconfirmed = begin
            if kind == Backend.READY_FOR_QUERY:
                self._status = payload[0] if payload else 0
                self._copying_in = self._unsynced = self.is_streaming = False
                del self._outstanding[:1]
                if not self._outstanding and not self._block.is_open:
                    self._may_end_block = not self._is_watched or self._status not in (_IN_BLOCK, _IN_FAILED_BLOCK)
            elif kind == Backend.ERROR_RESPONSE:
                report = _report(payload)
                self.server_said_goodbye = report.is_fatal
                if report.sqlstate == SqlState.QUERY_CANCELED:
                    self.is_in_doubt = False  # the request was felt
                if self._copying_in and self._outstanding[:1] == bytes((Frontend.SYNC,)):
                    self._outstanding.clear()
                    self._unsynced = True
                self._copying_in = self.is_streaming = False
            elif kind == Backend.NOTICE_RESPONSE:
                if unconfirmed is None and _SYNC_WAIT in payload and _report(payload).routine == SYNC_WAIT_ROUTINE:
                    unconfirmed = end
            elif kind == Backend.COMMAND_COMPLETE:
                self.server_said_goodbye = self.is_streaming
            else:
                self._copying_in = True
                if kind == Backend.COPY_BOTH_RESPONSE:
                    self.is_streaming = True
                    self._server.ask_for(told=(Backend.COMMAND_COMPLETE,))
        return unconfirmed

    def _is_success_in_doubt(self, kind: int, payload: bytes) -> bool:
        """Return whether a message says that a transaction has ended well, while a wait for copies may have been cancelled."""
        if kind == Backend.COMMAND_COMPLETE:
            return self._status != _IN_BLOCK or payload.startswith((b"COMMIT", b"PREPARE"))
        if kind != Backend.READY_FOR_QUERY:
            return False
        if payload[:1] == b"I":
            return True
        self._believe_again()
        return False

    def _believe_again(self) -> None:
        if not self._cancels:
            self.is_in_doubt = False

    def _follow(self, kind: int, payload: bytes) -> Relaxed | None:
        """Take in what a watched client sends: whether it may end the block it is in; return what it relaxes by it."""
        block = self._block
        if kind == Frontend.QUERY:
            block.is_open = False  # its answer comes after whatever was sent before
            self._may_end_block = self._may_end_block or may_end(payload)
            return self._look_through(payload)
        if kind == Frontend.PARSE:
            self._may_end_block = block.prepared(payload) or self._may_end_block
            if block.is_followed:
                self._client.ask_for(collected=(Frontend.BIND, Frontend.EXECUTE))
            return self._look_through(payload)
        if kind == Frontend.BIND:
            self._may_end_block = block.bound(payload) or self._may_end_block
        elif kind == Frontend.EXECUTE:
            self._may_end_block = block.executed(payload) or self._may_end_block
        elif kind == Frontend.SYNC:
            self._may_end_block = block.synced() or self._may_end_block
        return None

    def _look_through(self, statement: bytes) -> Relaxed | None:
        found = relaxed_by(statement)
        if found is Relaxed.NONE:
            return None  # before anything is reckoned with flags, which is slow
        new = found & ~self._relaxed
        self._relaxed |= new
        return new or None

    @property
    def boundary(self) -> int:
        """Where in the server's last chunk its last complete message ended; 0 if none did."""
        return self._server.boundary

    @property
    def missing(self) -> int:
        """How many bytes the server's unfinished message still lacks, as far as is known."""
        return self._server.missing

    @property
    def is_awaited(self) -> bool:
        """Whether something that the client said to its end waits for an answer."""
        return bool(self._outstanding)

    @property
    def may_have_committed(self) -> bool:
        """Whether a session that is busy may have committed something that its client was not told of."""
        return self._may_end_block and not self.is_streaming

    @property
    def doing(self) -> Doing:
        """What the session is doing, as far as its bytes have been seen."""
        if (
            self._outstanding
            or self._copying_in
            or self._unsynced
            or self._block.is_open
            or not self._client.at_boundary
            or not self._is_closed
            or not self._server.at_boundary
        ):
            return Doing.BUSY
        if self._status == _IDLE:
            return Doing.IDLE
        return Doing.IN_TRANSACTION if self._status else Doing.BUSY


def _report(payload: bytes) -> Report:
    try:
        return decode_report(payload)
    except ProtocolError:
        return Report()
