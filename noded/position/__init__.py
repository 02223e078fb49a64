"""Where this node's WAL ends, as far as that is proof (S6): what is not certain is no position.

`asking` asks a server that runs, its own or the writer; `by_files` walks the WAL of a standby that does not run; `at_shutdown`
knows the end of a primary that was shut down in good order.
"""
