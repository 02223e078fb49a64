"""How a daemon's modules are loaded: what is left out, and that nothing else is changed by it."""

import json
import os
import subprocess
import sys

import pytest

ROOMS = ["noded", "endpointd", "cluster_manager", "supervisor"]
LOOK = """
import gc, json, os, sys
from ROOM.daemon import main
try:
    main(["--version"])
except SystemExit:
    pass
before = set(sys.modules)
import rich
contexts = []
if "aiohttp" in sys.modules:
    import aiohttp.connector
    contexts.append(len(aiohttp.connector._SSL_CONTEXT_VERIFIED.get_ca_certs()))
print(json.dumps(dict(
    collects=gc.isenabled(), frozen=gc.get_freeze_count(), heeded=len(gc.get_objects()),
    authorities=os.environ.get("SSL_CERT_FILE"), of_aiohttp=contexts, rich=rich.__name__,
    loaded=sorted(before & {"rich.console", "pygments", "pglast"}),
)))
"""


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("given", [None, "/etc/authorities.pem"])
def test_a_daemon_leaves_out_what_it_never_uses_and_leaves_all_else_as_it_was(room: str, given: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    if given is not None:
        environment["SSL_CERT_FILE"] = given
    told = subprocess.run(
        [sys.executable, "-c", LOOK.replace("ROOM", room)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    seen = json.loads(told.splitlines()[-1])
    assert seen["loaded"] == []
    assert not any(seen["of_aiohttp"]), "aiohttp has read the machine's authorities"
    assert seen["rich"] == "rich", "others may still import it"
    assert seen["authorities"] == given, "children inherit what was given"
    assert seen["collects"]
    assert seen["frozen"] > 10 * seen["heeded"], "the collector goes through what stays for good"
