"""Seeded simulation of a whole cluster: the real decisions, promises and laws, on simulated machines."""
