"""The sentences of the law that can be broken one at a time, and how.

Each switch takes one sentence away, in a simulated node, manager, store or proxy, or in a wrapper around the real function that
keeps it.  Their numbers are those of docs/law.md.  What no switch can express stands in `ELSEWHERE`
with the test that covers it.
"""

from __future__ import annotations

from enum import StrEnum


class Switch(StrEnum):
    """What is broken."""

    EMPTY_NAMES = "empty_names"
    RECEIVER_VIEW = "receiver_view"
    TIMELINE_REUSE = "timeline_reuse"
    FOREIGN_FOLLOWS = "foreign_follows"
    PROMISE_WITHOUT_STOP = "promise_without_stop"
    SECOND_CANDIDATE = "second_candidate"
    RECEIVED_ONLY = "received_only"
    CONTROL_FILE_TIMELINE = "control_file_timeline"
    ANSWER_DURING_REPLAY = "answer_during_replay"
    ANY_CONTROL_FILE = "any_control_file"
    WIPED_COUNTS = "wiped_counts"
    NO_REVISION = "no_revision"
    RECORD_FIRST = "record_first"
    NARROW_FIRST = "narrow_first"
    CONFIGURATION_NOT_FSYNCED = "configuration_not_fsynced"
    STRANGE_HANDS = "strange_hands"
    STORE_ROLLED_BACK = "store_rolled_back"
    RECORD_UNKNOWN = "record_unknown"
    NEEDLESS_LOSS = "needless_loss"
    SURVIVOR_MISSED = "survivor_missed"
    LEFT_OUT_COUNT = "left_out_count"
    OPEN_AT_ONCE = "open_at_once"
    STALE_ROUTE = "stale_route"
    LONE_HEARTBEAT = "lone_heartbeat"
    CANCELLED_WAIT = "cancelled_wait"
    ACKNOWLEDGED_BY_NAME = "acknowledged_by_name"
    ASYNC_SILENCE = "async_silence"
    STARTS_AS_PRIMARY = "starts_as_primary"
    LSN_BEFORE_EPOCH = "lsn_before_epoch"
    PROMISE_NOT_DURABLE = "promise_not_durable"
    OPEN_UNPROVEN = "open_unproven"
    BLIND_WRITES = "blind_writes"
    LEASE_IGNORED = "lease_ignored"
    PAUSE_IGNORED = "pause_ignored"
    OLD_PRIMARY_NEVER_COUNTS = "old_primary_never_counts"
    FOLLOW_AFTER_OPENING = "follow_after_opening"
    VETO_TOO_STRONG = "veto_too_strong"
    TOUCH_WITHOUT_SAFE_SET = "touch_without_safe_set"


LIVENESS = frozenset(
    {
        Switch.OLD_PRIMARY_NEVER_COUNTS,
        Switch.FOLLOW_AFTER_OPENING,
        Switch.VETO_TOO_STRONG,
        Switch.TOUCH_WITHOUT_SAFE_SET,
        Switch.LEFT_OUT_COUNT,
    }
)
"""Those without which nothing is lost, but the cluster does not get well, or does not go on, in time."""

FIVE_NODES = frozenset({Switch.NARROW_FIRST, Switch.SURVIVOR_MISSED, Switch.VETO_TOO_STRONG})
"""Those that three nodes cannot show."""
TWO_MANAGERS = frozenset({Switch.BLIND_WRITES, Switch.LEASE_IGNORED, Switch.OPEN_AT_ONCE})
"""Those that one manager cannot show."""


SENTENCES = {
    Switch.EMPTY_NAMES: "S1: a standby's synchronous_standby_names is empty until it is promoted",
    Switch.RECEIVER_VIEW: "S2: a receiver is gone when pg_stat_wal_receiver does not show it",
    Switch.TIMELINE_REUSE: "S3: a promotion takes the next number after its own, and nobody claims it",
    Switch.FOREIGN_FOLLOWS: "S3: a node that somebody promoted by hand may follow, if its timeline's number is a claimed one",
    Switch.PROMISE_WITHOUT_STOP: "S4: a running primary promises without being stopped",
    Switch.SECOND_CANDIDATE: "S5: the next candidate is taken within the same epoch",
    Switch.RECEIVED_ONLY: "S6: the position is pg_last_wal_receive_lsn()",
    Switch.CONTROL_FILE_TIMELINE: "S6: the position's timeline is the control file's",
    Switch.ANSWER_DURING_REPLAY: "S6: a promise is answered before the end of local WAL was reached",
    Switch.ANY_CONTROL_FILE: "S6: a control file is a position, whoever left it and however",
    Switch.WIPED_COUNTS: "S7: a node whose data was destroyed counts at once, as what it was",
    Switch.NO_REVISION: "S8: orders of one epoch are accepted in any order",
    Switch.RECORD_FIRST: "S9: async to quorum is recorded before it is in force",
    Switch.NARROW_FIRST: "S9: a narrower list is recorded before it is in force",
    Switch.CONFIGURATION_NOT_FSYNCED: "S10: the edited configuration is not fsynced, nor written anew before a start",
    Switch.STRANGE_HANDS: "S11: a list of synchronous standbys that somebody emptied stays as it is",
    Switch.STORE_ROLLED_BACK: "S12: a store that is behind what nodes have seen is acted upon",
    Switch.RECORD_UNKNOWN: "S12: a wider list is put in force before enough voters know of its record",
    Switch.NEEDLESS_LOSS: "S13: --allow-data-loss is carried out although a safe set answers",
    Switch.SURVIVOR_MISSED: "S13: of the voters left over after --allow-data-loss not all are waited for",
    Switch.LEFT_OUT_COUNT: "S13: voters that were given up stay recorded",
    Switch.OPEN_AT_ONCE: "S14: a writer is published while the old one may still be read through a proxy",
    Switch.STALE_ROUTE: "S14: a proxy serves the writer it knows, without a fresh feed and without a heartbeat",
    Switch.LONE_HEARTBEAT: "S14: a heartbeat that returned vouches for the writer, though no other voter shows it flushed",
    Switch.CANCELLED_WAIT: "S15: a commit whose wait was cancelled is reported as done",
    Switch.ACKNOWLEDGED_BY_NAME: "S16: whoever bears a voter's name acknowledges",
    Switch.ASYNC_SILENCE: "S17: with durability async silence is enough for another writer",
    Switch.STARTS_AS_PRIMARY: "S18: a crashed writer starts as a primary by itself",
    Switch.LSN_BEFORE_EPOCH: "F4: the greatest LSN is elected, whatever its epoch",
    Switch.PROMISE_NOT_DURABLE: "F3: a promise is answered before it is on disk",
    Switch.OPEN_UNPROVEN: "F6: a writer is published as soon as it is promoted, without its first quorum commit",
    Switch.BLIND_WRITES: "D2: whoever believes to lead writes the document, without comparing the revision",
    Switch.LEASE_IGNORED: "D4: a manager decides and serves the document without the lease",
    Switch.PAUSE_IGNORED: "F2: a failover begins although it is paused",
    Switch.OLD_PRIMARY_NEVER_COUNTS: "L1: the old primary's promise counts for nothing",
    Switch.FOLLOW_AFTER_OPENING: "L2: the other voters follow only a published writer",
    Switch.VETO_TOO_STRONG: "L3: WAL that reaches any voter forbids a failover",
    Switch.TOUCH_WITHOUT_SAFE_SET: "L4: the writer is taken away without knowing of a safe set",
}


ELSEWHERE = {
    "S3 no claim is a number that PostgreSQL gives by hand": "tests/pgtopology: test_values, test_succession (decision 0010)",
    "F3 a promise asked again after its follow order is late": (
        "tests/noded/test_promise.py (decision 0011; accepted, it took 1686 seeds to be noticed)"
    ),
    "F3 every request re-runs the cut": "tests/noded/test_faults.py: a_promise_repeated_after_a_restart_of_noded_still_holds",
    "F4 after the first safe set at most 30 ms are waited": "scenarios/recruit_waits_for_stragglers.txt",
    "F6 a node that says it starts may be a primary that was adopted": "scenarios/open_waits_for_who_only_says_it_starts.txt",
    "F1 what counts as hard evidence": "scenarios/port_refused_alone.txt, postmaster_busy.txt, commit_stuck_*.txt",
    "F7 rewind, else re-clone": "scenarios/rewind_failed.txt; tests/noded/test_failover.py",
    "S19 reader sessions end on the node that becomes the writer": "tests/endpointd (there is no reader door here)",
    "L5 a candidate is given up 2 s after the last progress of replay": "scenarios/candidate_replays.txt "
    "(a promise is only answered after the end of local WAL, so no simulated candidate has a backlog)",
    "L6 a heartbeat that fails with an SQL error is no evidence": "scenarios/heartbeat_sql_error.txt (no SQL here)",
    "L7 pg_rewind wants standby.signal away": "tests/noded/test_faults.py: a_crashed_primary_is_rewound_as_it_lies",
    "L8 placeholders go when no promotion happens": "tests/noded/test_texts.py: placeholders_*",
    "L9 slots": "tests/noded/test_failover.py: slots_for_all_members_exist_on_writer_and_standby",
    "L10 proxies after a store rollback": "as S12: the adopted epoch is beyond every one seen",
    "L11, L12 voters shrink by an operator's order only, not below three": "tests/cluster_manager; fault remove_node here",
}
"""Sentences that nothing here can break, and the test that covers each."""
