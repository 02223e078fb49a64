"""What every long-running program of ours is made of, one noun a file. Knows nothing of PostgreSQL or clusters."""
