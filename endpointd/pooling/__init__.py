"""Pooled endpoints: many clients take turns at few servers, transaction by transaction (docs/decisions/0043).

The native engine moves the bytes and gives servers to clients (relay/native/pool*.c).  Here servers are logged in for it, what
statements do to a session is judged, and what it tells is passed on.  The door for others is pools.py.
"""
