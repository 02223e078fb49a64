"""What the endpoints stand for now.

`feed` hears the managers, `table` (pure) is made of their document, `freshness` (pure) says until when somebody vouches for
its writer, and `switchboard` tells the sessions that have to go (`eviction`, pure), to wait, or may go on.
"""
