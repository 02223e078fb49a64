"""The safety sentences that can be broken one at a time, and how.

Each switch takes one sentence of the failover law away, in a simulated node or manager or in a wrapper around the real
function that keeps it.  Numbers in brackets are those of the holes the sentences close.
"""

from __future__ import annotations

from enum import StrEnum


class Switch(StrEnum):
    """What is broken."""

    EMPTY_NAMES = "empty_names"
    RECEIVER_VIEW = "receiver_view"
    TIMELINE_REUSE = "timeline_reuse"
    PROMISE_WITHOUT_STOP = "promise_without_stop"
    SECOND_CANDIDATE = "second_candidate"
    RECEIVED_ONLY = "received_only"
    CONTROL_FILE_TIMELINE = "control_file_timeline"
    ANSWER_DURING_REPLAY = "answer_during_replay"
    WIPED_COUNTS = "wiped_counts"
    NO_REVISION = "no_revision"
    RECORD_FIRST = "record_first"
    CONFIGURATION_NOT_FSYNCED = "configuration_not_fsynced"
    STORE_ROLLED_BACK = "store_rolled_back"
    LSN_BEFORE_EPOCH = "lsn_before_epoch"
    PROMISE_NOT_DURABLE = "promise_not_durable"
    OPEN_AT_ONCE = "open_at_once"
    FOREIGN_FOLLOWS = "foreign_follows"


SENTENCES = {
    Switch.EMPTY_NAMES: "S1: a standby's synchronous_standby_names is empty until it is promoted",
    Switch.RECEIVER_VIEW: "S2: a receiver is gone when pg_stat_wal_receiver does not show it",
    Switch.TIMELINE_REUSE: "S3: a promotion takes the next number after its own, and nobody claims it",
    Switch.PROMISE_WITHOUT_STOP: "S4: a running primary promises without being stopped",
    Switch.SECOND_CANDIDATE: "S5: the next candidate is taken within the same epoch",
    Switch.RECEIVED_ONLY: "S6: the position is pg_last_wal_receive_lsn()",
    Switch.CONTROL_FILE_TIMELINE: "S6: the position's timeline is the control file's",
    Switch.ANSWER_DURING_REPLAY: "S6: a promise is answered before the end of local WAL was reached",
    Switch.WIPED_COUNTS: "S7: a node whose data was destroyed counts at once, as what it was",
    Switch.NO_REVISION: "S8: orders of one epoch are accepted in any order",
    Switch.RECORD_FIRST: "S9: async to quorum is recorded before it is in force",
    Switch.CONFIGURATION_NOT_FSYNCED: "S10: the edited configuration is not fsynced, nor written anew before a start",
    Switch.STORE_ROLLED_BACK: "S12: a store that is behind what nodes have seen is acted upon",
    Switch.LSN_BEFORE_EPOCH: "4.4: the greatest LSN is elected, whatever its epoch",
    Switch.PROMISE_NOT_DURABLE: "4.3: a promise is answered before it is on disk",
    Switch.FOREIGN_FOLLOWS: "S3: a node that somebody promoted by hand may follow, if its timeline's number is a claimed one",
    Switch.OPEN_AT_ONCE: "S14: a writer is published while the old one may still be read through a proxy",
}
