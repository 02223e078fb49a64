"""PostgreSQL's protocol 3.0 to 3.2 as values: bytes in, values out, and back. Pure; the standard library and msgspec alone."""
