"""Benchmarks and fault injection on real PostgreSQL; each file that can be run prints a table."""
