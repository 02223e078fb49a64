"""The daemon beside one PostgreSQL server: it starts, fences, promotes, copies and observes it, and decides nothing."""
