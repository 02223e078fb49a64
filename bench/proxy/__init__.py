"""`make bench-proxy`: what the ways to a server cost, directly, through our proxy and through others, measured in turns.

`columns` says what is asked of a way, `ways` which ways there are, `verdict` (pure) makes figures of what was measured, and
`picture` (pure) draws them.
"""
