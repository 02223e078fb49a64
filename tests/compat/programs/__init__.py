"""Programs for what ships no tests: each prints lines that must be equal directly and through the endpoint."""
