"""The container test: `python -m tests.compose` (`make compose-test`). It needs a Docker engine or may start one."""
