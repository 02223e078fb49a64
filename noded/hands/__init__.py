"""Carries out acts on this machine: how, and nothing of what for.

`hands` is the table of all effects; the others are those that take more than a line: `promotion`, `synchronous`, `receivers`,
`conflicts`.  What is done when is in `noded.acts`.
"""
