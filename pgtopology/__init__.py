"""The cluster as values: what is known, agreed, ordered and reported. Pure; the standard library and msgspec alone."""
