"""Distances of ports that every cluster has, wherever it runs."""

POOLED_PORT_OFFSET = 2
"""From an endpoint's port to that of the pooled one that has its servers."""
