"""Clients that remember everything they were told, each kind with the checker that judges it."""
