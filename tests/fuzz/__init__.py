"""Bytes that no client or server would send, for everything that reads the wire: see __main__."""
