"""What clients are told: texts are an interface."""

from __future__ import annotations

import pytest

from endpointd import refusal
from endpointd.refusal import Refusal
from pgwire.errors import ProtocolError, VersionError
from pgwire.messages import decode_report


@pytest.mark.parametrize(
    ("why", "sqlstate", "message"),
    [
        (refusal.no_primary("writer"), "57P03", 'no primary is available for endpoint "writer"'),
        (refusal.no_replica("reader"), "57P03", 'no replica is available for endpoint "reader"'),
        (refusal.unreachable("n2"), "08001", 'could not connect to server "n2"'),
        (refusal.primary_changed(), "57P01", "terminating connection because the primary has changed"),
        (refusal.primary_unconfirmed(), "57P01", "terminating connection because the primary could not be confirmed"),
        (refusal.server_removed("n2"), "57P01", 'terminating connection because server "n2" has left the cluster'),
        (refusal.shutting_down(), "57P01", "terminating connection because the endpoint is shutting down"),
        (refusal.server_lost(), "57P01", "terminating connection because its server was lost"),
        (refusal.statement_lost(), "08006", "server closed the connection unexpectedly"),
        (refusal.outcome_unknown(), "08007", "server closed the connection unexpectedly, transaction resolution unknown"),
        (refusal.commit_unconfirmed(), "08007", "commit was not confirmed by the quorum, transaction resolution unknown"),
        (
            refusal.commit_doubtful(),
            "08007",
            "commit may not have been confirmed by the quorum, transaction resolution unknown",
        ),
        (
            refusal.commits_relaxed("off"),
            "22023",
            'parameter "synchronous_commit" cannot be set to "off" at the writer of this cluster',
        ),
        (
            refusal.warnings_hidden("error"),
            "22023",
            'parameter "client_min_messages" cannot be set to "error" at the writer of this cluster',
        ),
        (refusal.not_available("n2"), "57P03", 'server "n2" is not available'),
        (refusal.too_many_for_user("u"), "53300", 'too many connections for role "u"'),
        (refusal.too_many_for_database("d"), "53300", 'too many connections for database "d"'),
        (refusal.too_many_connections("reader"), "53300", 'too many connections for endpoint "reader"'),
        (refusal.too_many_waiting("writer"), "53300", 'too many connections are waiting for endpoint "writer"'),
        (refusal.not_understood(ProtocolError("no")), "08P01", "no"),
        (refusal.not_understood(VersionError("no")), "0A000", "no"),
        (refusal.startup_timeout(), "08P01", "canceling connection startup due to timeout"),
        (refusal.startup_lost("n2"), "08006", 'server "n2" closed the connection during startup'),
        (refusal.internal_error(), "XX000", "internal error"),
    ],
)
def test_each_refusal_is_a_fatal_error_in_postgresqls_style(why: Refusal, sqlstate: str, message: str) -> None:
    report = decode_report(why.encode()[5:])
    assert (report.severity, report.sqlstate, report.message) == ("FATAL", sqlstate, message)
    assert not message.endswith(".")
    for letter in "DH":
        sentence = report.get(letter)
        assert sentence is None or (sentence[0].isupper() and sentence.endswith("."))
