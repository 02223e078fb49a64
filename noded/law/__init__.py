"""What binds a node: its durable promise, and the rules on it.

`promise` is the value with its pure rules, `durable_state` keeps it on disk, `disk` is how anything is written there without
holding up the loop, `backoff` how long what has failed is left alone.  Nothing here knows PostgreSQL's programs or sessions.
"""
