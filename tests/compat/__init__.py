"""Whether a client can tell an endpoint from PostgreSQL: third-party suites and own programs, run directly and through it."""
