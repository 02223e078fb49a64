"""Moving the bytes of sessions that stand: one seam, several engines."""
