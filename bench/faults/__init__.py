"""`python -m bench.faults`: everything that may befall a cluster, under clients that remember what they were told."""
