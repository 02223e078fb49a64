"""The SQLSTATE codes our programs send or look for. Source: PostgreSQL documentation, appendix A."""

from __future__ import annotations

from enum import StrEnum


class SqlState(StrEnum):
    """Five characters that tell a program what happened; the message beside it is for people."""

    CONNECTION_FAILURE = "08006"
    UNABLE_TO_CONNECT = "08001"
    TRANSACTION_RESOLUTION_UNKNOWN = "08007"
    """The connection ends, and whether its last commit took place is not known."""
    PROTOCOL_VIOLATION = "08P01"
    FEATURE_NOT_SUPPORTED = "0A000"
    INVALID_PARAMETER_VALUE = "22023"
    INVALID_AUTHORIZATION = "28000"
    INVALID_PASSWORD = "28P01"  # noqa: S105
    INVALID_CATALOG_NAME = "3D000"
    STATEMENT_COMPLETION_UNKNOWN = "40003"
    TOO_MANY_CONNECTIONS = "53300"
    PROGRAM_LIMIT_EXCEEDED = "54000"
    QUERY_CANCELED = "57014"
    ADMIN_SHUTDOWN = "57P01"
    CRASH_SHUTDOWN = "57P02"
    CANNOT_CONNECT_NOW = "57P03"
    INTERNAL_ERROR = "XX000"
