"""One program for each driver; each plays the same events (child.py, child.cjs)."""
