"""What runs inside the suites' own environments."""
