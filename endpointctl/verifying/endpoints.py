"""Where a verification connects: the endpoints the operator named, else the local cluster's."""

from __future__ import annotations

from daemonkit.exits import Failure, WrongUsage
from deployment.local.directory import read_plan
from deployment.local.layout import Layout
from endpointctl.local.paste import find_door
from endpointctl.options import Target
from endpointctl.superuser import require_known_password


def find_endpoints(target: Target, writer: str | None, reader: str | None) -> tuple[str, str]:
    """Return the URIs of writer and reader endpoint. Raises Failure if they cannot be told."""
    if writer is not None and reader is not None:
        return writer, reader
    if writer is not None or reader is not None:
        raise WrongUsage("--writer-dsn and --reader-dsn belong together")
    if target.api is not None:
        raise WrongUsage("passwords are not in the API", hint="give --writer-dsn and --reader-dsn")
    layout = Layout(target.data_dir)
    plan = read_plan(layout)
    if plan is None:
        raise Failure(f"no cluster in {layout.root}", hint="name one with --data-dir, or give --writer-dsn and --reader-dsn")
    doors = [find_door(layout, plan, door) for door in ("writer", "reader")]
    password = require_known_password(layout, plan, doors[0])
    return doors[0].uri(password=password), doors[1].uri(password=password)
