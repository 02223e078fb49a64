"""Where the topology document is kept: one seam, and its implementations."""
