"""Moving the bytes of sessions whose login is over: one seam (`engine`), several engines, one contract suite.

What an engine knows of a session is in `facts`; `safepoint` follows the messages, with `block` and `relaxed` for what is in
statements.
"""
