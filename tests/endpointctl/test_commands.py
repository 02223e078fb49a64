"""The command line: exit codes, one line on stderr that says what to do, and no daemon behind --help."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pty
import pwd
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from daemonkit.exits import ExitCode
from daemonkit.httperrors import ApiError, json_response
from daemonkit.httpserver import HttpServer
from deployment.local.directory import make_files, make_root
from deployment.local.layout import Layout
from deployment.local.plan import make_plan
from endpointctl import restarting
from endpointctl.main import main
from pgtopology.act import read_act
from pgtopology.epoch import Epoch
from pgtopology.event import Event
from pgtopology.explanation import Explanation
from pgtopology.node import NodeName, NodeState
from pgtopology.status import NodeChangeStatus, Status
from supervisor.ports import free_base_port
from testkit.smalldisk import SmallDisk, private_mounts
from tests.endpointctl.test_render import make_node, make_status
from tests.terminal import INTERRUPTIBLE

TOKEN = "a token of the tests"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINTD_API", "ENDPOINTD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


class Manager:
    """An HTTP server with the manager's paths and answers of the test's choice, in a thread of its own."""

    def __init__(self) -> None:
        self.status: Status = make_status()
        self.orders: list[tuple[str, dict[str, object]]] = []
        self.acts: list[tuple[str | None, str | None]] = []
        """Who gave each of the orders, and by which command."""
        self.refusal: ApiError | None = None
        self.on_order: Callable[[], None] = lambda: None
        self.events: list[Event] = []
        self.url = ""
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Manager:
        self._thread.start()
        assert self._ready.wait(10.0)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10.0)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        routes = [
            web.get("/v1/status", self._tell_status),
            web.get("/v1/explain", self._tell_explanation),
            web.get("/v1/events", self._tell_events),
            *(web.post(f"/v1/{name}", self._take_order) for name in ("failover", "switchover", "withdraw", "pause", "resume")),
            web.post("/v1/nodes/{name}/{order}", self._take_order),
        ]
        async with HttpServer(host="127.0.0.1", port=0, token=TOKEN, routes=routes) as server:
            self.url = f"http://127.0.0.1:{server.port}"
            self._ready.set()
            await self._stop.wait()

    async def _tell_status(self, _: web.Request) -> web.Response:
        return json_response(self.status)

    async def _tell_explanation(self, _: web.Request) -> web.Response:
        told = Explanation(
            diagnosis="HEALTHY", reason="all is well", actions=(), repairs=(), in_flight=(), failures=(), recent=()
        )
        return json_response(told)

    async def _tell_events(self, _: web.Request) -> web.Response:
        return web.Response(body=b"".join(msgspec.json.encode(event) + b"\n" for event in self.events))

    async def _take_order(self, request: web.Request) -> web.Response:
        if self.refusal is not None:
            raise self.refusal
        body = await request.read()
        self.orders.append((request.path, json.loads(body) if body else {}))
        self.acts.append(read_act(request.headers))
        self.on_order()
        return json_response(b'{"detail":"done"}' if "/nodes/" in request.path else b'{"epoch":4}', status=202)


@pytest.fixture
def dead_base() -> Iterator[int]:
    """A base port at which neither manager nor endpoints nor nodes answer, and nobody else can begin to: each is taken."""
    with contextlib.ExitStack() as taken:
        base = free_base_port(make_plan(node_count=3, base_port=0, pg_bin="").ports)
        for use in make_plan(node_count=3, base_port=base, pg_bin="").ports:
            one = taken.enter_context(socket.socket(type=socket.SOCK_DGRAM if use.udp else socket.SOCK_STREAM))
            one.bind(("127.0.0.1", use.port))
        yield base


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    monkeypatch.setenv("ENDPOINTD_TOKEN_FILE", str(token))
    with Manager() as found:
        monkeypatch.setenv("ENDPOINTD_API", found.url)
        yield found


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("endpointctl: ")
    assert error.count("\n") == 1, f"more than one line: {error}"
    return error


def test_help_is_quick_because_it_imports_neither_daemons_nor_the_http_client() -> None:
    code = "import sys; from endpointctl.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "failover" in done.stdout
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert not imported & {"noded", "cluster_manager", "endpointd", "asyncio", "aiohttp", "asyncpg", "msgspec", "uvloop"}


def test_asking_the_manager_imports_neither_the_daemons_client_nor_what_draws(manager: Manager) -> None:
    code = "import sys; from endpointctl.main import main; main(['status', '--json']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert json.loads(done.stdout)["state"]
    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert not imported & {"noded", "cluster_manager", "endpointd", "aiohttp", "asyncpg", "rich", "structlog", "uvloop"}


@pytest.mark.parametrize("arguments", [["--version"], ["status", "--version"]])
def test_every_command_tells_its_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == ExitCode.DONE
    assert capsys.readouterr().out.startswith("endpointctl 0.")


@pytest.mark.parametrize(
    ("words", "default_s"),
    [
        ("up", 120),
        ("down", 90),
        ("status", 5),
        ("wait", 60),
        ("switchover", 30),
        ("failover", 30),
        ("restart", 600),
        ("node add", 300),
        ("node stop", 60),
        ("config set", 30),
        ("secrets rotate", 30),
        ("drill", 10),
        ("verify", 60),
        ("pause", 5),
    ],
)
def test_the_help_tells_how_long_a_command_waits(words: str, default_s: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "--help"]) == ExitCode.DONE
    assert f"after this time (exit code 3). {default_s} unless given." in " ".join(capsys.readouterr().out.split())


API = "http://127.0.0.1:1"

WRONG_USES = {
    ("fly",): "",
    ("status", "--fly"): "",
    ("up", "--nodes", "four"): "",
    ("up", "--nodes", "0"): "1 to 16",
    ("up", "--nodes", "-1"): "1 to 16",
    ("up", "--nodes", "17"): "1 to 16",
    ("up", "--nodes", "4", "--data-dir", "/tmp/endpointctl-test-none"): "possible are 1, 2, 3, 5",
    ("up", "--base-port", "many"): "1 to 65436",
    ("up", "--base-port", "0"): "1 to 65436",
    ("up", "--base-port", "99999"): "1 to 65436",
    ("up", "--base-port", "9" * 5000): "1 to 65436",
    ("up", "--base-port", ""): "1 to 65436",
    ("up", "--api", API): "--data-dir",
    ("up", "--wait"): "--detach",
    ("up", "--config", ""): "empty",
    ("up", "--config", "/nonexistent/x.toml"): "/nonexistent/x.toml",
    ("up", "--pg-bin", ""): "empty",
    ("up", "--data-dir", "/tmp/endpointctl-test-none", "--config", "@nodes = 0"): "1 to 16, got 0",
    ("up", "--data-dir", "/tmp/endpointctl-test-none", "--config", "@base_port = 0"): "1 to 65436, got 0",
    ("up", "--data-dir", ""): "empty",
    ("up", "--timeout", "0"): "more than 0",
    ("down", "--api", API): "--data-dir",
    ("down", "--data-dir", " "): "empty",
    ("logs", "--api", API): "--data-dir",
    ("doctor", "--api", API): "--data-dir",
    ("logs", "--lines", "-1"): " 0 to ",
    ("status", "--timeout", "-1"): "more than 0",
    ("status", "--timeout", "nan"): "more than 0",
    ("status", "--timeout", "inf"): "at most 604800",
    ("status", "--timeout", "1e300"): "at most 604800",
    ("status", "--api", ""): "is no URL",
    ("status", "--api", "localhost:80"): "is no URL",
    ("status", "--api", "http://:80"): "is no URL",
    ("status", "--api", "http://x:99999"): "is no URL",
    ("status", "--json", "--watch"): "--watch",
    ("events", "--after", "-1"): " 0 to ",
    ("events", "--after", "9" * 4000): "is outside 0 to",
    ("events", "--since", "yesterday"): "90s, 15m, 2h, 3d",
    ("events", "--since", ""): "90s, 15m, 2h, 3d",
    ("events", "--kind", "fail"): "kinds are bootstrap, commits, failover, node, operator",
    ("events", "--kind", ""): "kinds are",
    ("events", "--all", "--kind", "plan"): "--kind plan",
    ("explain", "3"): "--failover",
    ("explain", "--failover", "0"): " 1 to ",
    ("wait",): "--state or --epoch",
    ("wait", "--state", "healthy", "--epoch", "3"): "--state or --epoch",
    ("wait", "--state", "happy"): "healthy, degraded, at_risk, transition, stuck, paused, bootstrapping",
    ("wait", "--state", ""): "healthy, degraded",
    ("wait", "--epoch", "0"): " 1 to ",
    ("wait", "--epoch", "-3"): " 1 to ",
    ("dsn",): "",
    ("dsn", "writer", "--dbname", ""): "empty",
    ("psql",): "",
    ("psql", "-U", "app"): "writer|reader|NODE",
    ("psql", "writer", "--timeout", "0"): "more than 0",
    ("failover", "--to", ""): "a-z, 0-9 and hyphen",
    ("failover", "--to", "N1"): "a-z, 0-9 and hyphen",
    ("failover", "--to", "x" * 41): "a-z, 0-9 and hyphen",
    ("failover", "--allow-data-loss", ""): "empty",
    ("switchover", "--to", "../x"): "a-z, 0-9 and hyphen",
    ("switchover", "--dry-run", "--no-wait"): "--no-wait",
    ("switchover", "--dry-run", "--wait-idle", "5"): "--wait-idle",
    ("drill", "--lose", ""): "a-z, 0-9 and hyphen",
    ("verify", "--seconds", "nan"): "1 to 86400",
    ("switchover", "--drain-timeout", "nan"): "0 to 60",
    ("switchover", "--drain-timeout", "inf"): "0 to 60",
    ("verify", "--seconds", "0"): "",
    ("verify", "--clients", "0"): "1 to 64",
    ("verify", "--writer-dsn", "host=x", "--reader-dsn", "host=x"): "postgresql://",
    ("node", "stop", "a/b"): "a-z, 0-9 and hyphen",
    ("node", "stop", ""): "a-z, 0-9 and hyphen",
    ("node", "add", "n17"): "n1 to n16",
    ("node", "add", ""): "n1 to n16",
    ("node", "add", "--zone", ""): "a-z, 0-9",
    ("config", "set"): "nothing to set",
    ("config", "set", "work_mem"): "NAME=VALUE",
    ("config", "set", "=1"): "NAME=VALUE",
    ("config", "set", "work_mem=1", "WORK_MEM=2"): "given twice",
    ("config", "set", "--reset", ""): "name of a parameter",
    ("config", "set", "--relaxed-commits", "maybe"): "on or off",
    ("config", "set", "--file", "/nonexistent/x.toml"): "/nonexistent/x.toml",
    ("config", "check", "/nonexistent/x.toml"): "/nonexistent/x.toml",
    ("config", "check", ""): "",
    ("secrets", "set", "--api", API): "--data-dir",
    ("switchover", "n3"): "unexpected: n3; values are given by --to NODE; see `endpointctl switchover --help`",
    ("failover", "n3", "--no-wait"): "unexpected: n3; values are given by --to NODE; see `endpointctl failover --help`",
    ("drill", "n2", "n3"): "unexpected: n2 n3; values are given by --lose NODE; see `endpointctl drill --help`",
    ("wait", "healthy"): "unexpected: healthy; values are given by --state STATE, --epoch N; see `endpointctl wait --help`",
    ("node", "stop", "n1", "n2"): "unexpected: n2; see `endpointctl node stop --help`",
    ("pause", "n1"): "unexpected: n1; see `endpointctl pause --help`",
    ("node", "stop"): "see `endpointctl node stop --help`",
}


@pytest.mark.parametrize("arguments", WRONG_USES, ids=lambda words: " ".join(words)[:60])
def test_wrong_usage_is_two_with_what_would_be_right(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = list(arguments)
    if given[-1].startswith("@"):
        given[-1] = str(tmp_path / "preferences.toml")
        Path(given[-1]).write_text(f"[cluster]\n{arguments[-1][1:]}\n")
    assert main(given) == ExitCode.USAGE
    assert WRONG_USES[arguments] in complaint(capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("failover", "--to", "n9"), 'there is no node "n9"; the nodes are n1, n2'),
        (("switchover", "--to", "n9"), 'there is no node "n9"; the nodes are n1, n2'),
        (("switchover", "--to", "n9", "--dry-run"), 'there is no node "n9"; the nodes are n1, n2'),
        (("failover", "--to", "n1", "--allow-data-loss", "local"), '"n1" is the writer already; leave --to out'),
        (("drill", "--lose", "n9"), 'there is no node "n9"; the nodes are n1, n2'),
        (("node", "stop", "n9"), 'there is no node "n9"; the nodes are n1, n2'),
        (("node", "start", "n9"), 'there is no node "n9"; the nodes are n1, n2'),
        (("node", "restart", "n9"), 'there is no node "n9"; the nodes are n1, n2'),
        (("node", "reinit", "n9"), 'there is no node "n9"; the nodes are n1, n2'),
    ],
)
def test_a_node_that_is_not_there_is_wrong_usage(
    manager: Manager, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manager.status = make_status(make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING))
    assert main(arguments) == ExitCode.USAGE
    assert said in complaint(capsys)
    assert manager.orders == []


@pytest.mark.parametrize("order", ["switchover", "failover"])
@pytest.mark.parametrize("option", [None, "--no-wait", "--json", "--dry-run", "--wait-idle=1"])
def test_an_order_that_was_carried_out_already_may_be_given_again(
    manager: Manager, order: str, option: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if order == "failover" and option in ("--dry-run", "--wait-idle=1"):
        option = None
    manager.status = make_status(make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING))
    assert main([order, "--to", "n1", *([option] if option is not None else [])]) == ExitCode.DONE
    told = capsys.readouterr()
    assert (told.err if option == "--json" else told.out).startswith('"n1" is the writer already')
    if option == "--json":
        unchanged = {"format_version": 1, "epoch": manager.status.epoch, "writer": "n1", "changed": False}
        assert json.loads(told.out) == unchanged
    assert manager.orders == []


def test_a_restart_that_waits_for_something_says_for_what(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(restarting, "QUIET_S", 0.0)
    waits = msgspec.structs.replace(make_node("n2", NodeState.STREAMING), pending_restart=True)
    manager.status = make_status(make_node("n1", NodeState.RUNNING), waits)
    manager.refusal = ApiError(409, "refused", "n3 does not stream yet")
    assert main(["restart", "--only-pending", "--timeout", "0.5"]) == ExitCode.UNFINISHED
    told = capsys.readouterr().err.splitlines()
    assert '"n2" is not restarted yet: n3 does not stream yet; the order is given again until it is taken' in told
    assert sum("given again until" in line for line in told) == 1, "the same reason is told once"


@pytest.mark.parametrize("answer", ["", "n\n", "y\n"])
def test_a_standby_is_made_anew_when_that_is_confirmed(
    manager: Manager, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manager.status = make_status(make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING))
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    is_confirmed = answer == "y\n"
    assert main(["node", "reinit", "n2", "--json"]) == (ExitCode.DONE if is_confirmed else ExitCode.FAILED)
    told = capsys.readouterr()
    assert "Throw away the data of n2" in told.err
    assert ("--yes" in told.err) is not is_confirmed
    assert [path for path, _ in manager.orders] == (["/v1/nodes/n2/reinit"] if is_confirmed else [])
    assert ("error" in json.loads(told.out)) is not is_confirmed
    assert main(["node", "reinit", "n2", "--yes"]) == ExitCode.DONE
    assert manager.orders[-1][0] == "/v1/nodes/n2/reinit"
    assert main(["node", "restart", "n2"]) == ExitCode.DONE, "it loses nothing, so nothing is asked"


@pytest.mark.parametrize(
    ("words", "code", "error", "hint"),
    [
        (["status", "--json"], 1, "no cluster", "endpointctl up"),
        (["config", "show", "--json"], 1, "no cluster", "endpointctl up"),
        (["node", "stop", "n1", "--json"], 1, "no cluster", "endpointctl up"),
        (["switchover", "--json"], 1, "no cluster", "endpointctl up"),
        (["drill", "--json"], 1, "no cluster", "endpointctl up"),
        (["config", "set", "--json"], 2, "nothing to set", "--file FILE"),
        (["config", "set", "--json", "work_mem"], 2, "NAME=VALUE", None),
        (["switchover", "--to", "N1", "--json"], 2, "a-z, 0-9 and hyphen", "see `endpointctl switchover --help`"),
        (["drill", "n2", "--json"], 2, "unexpected: n2", "see `endpointctl drill --help`"),
        (["status", "--json", "--watch"], 2, "--watch", "events --follow --json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_failure_of_a_command_that_was_asked_for_json_is_one_document_too(
    words: list[str], code: int, error: str, hint: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(tmp_path / "none")]
    assert main([*words, *where]) == code
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert set(document) == {"format_version", "error", "hint", "exit_code"}
    assert (document["format_version"], document["exit_code"]) == (1, code)
    assert error in document["error"]
    assert (document["hint"] is None) if hint is None else (hint in document["hint"])
    assert told.err.count("\n") == 1
    line = document["error"] if document["hint"] is None else f"{document['error']}; {document['hint']}"
    assert told.err == f"endpointctl: {line}\n"
    assert main([*(word for word in words if word != "--json"), *where]) != ExitCode.DONE
    assert capsys.readouterr().out == ""


def test_a_refusal_of_the_manager_and_an_order_out_of_time_are_documents_too(
    manager: Manager, capsys: pytest.CaptureFixture[str]
) -> None:
    manager.status = make_status(make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING))
    manager.refusal = ApiError(409, "refused", "the disk of n2 is full")
    assert main(["switchover", "--json"]) == ExitCode.FAILED
    assert json.loads(capsys.readouterr().out)["error"] == "the disk of n2 is full"
    manager.refusal = None
    assert main(["failover", "--json", "--timeout", "0.3"]) == ExitCode.UNFINISHED
    *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["exit_code"] == ExitCode.UNFINISHED, "the last of the lines"


@pytest.mark.parametrize("asked_for", [["--to", "n2"], []])
def test_a_switchover_that_ends_where_it_began_has_failed_and_says_why(
    manager: Manager, asked_for: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING)
    manager.status = make_status(*nodes)
    why = '"n1" is elected: nobody who may take over holds its shutdown checkpoint; it is promoted again'
    elected = Event(sequence=1, at="T", monotonic_ms=0, epoch=Epoch(4), kind="failover.elected", node="n1", message=why)
    manager.events = [elected]

    def go_on() -> None:
        manager.status = msgspec.structs.replace(make_status(*nodes), epoch=Epoch(4))

    manager.on_order = go_on
    assert main(["switchover", *asked_for, "--allow-slot-loss", "--json"]) == ExitCode.FAILED
    told = capsys.readouterr()
    assert why in told.err
    first, last = told.out.splitlines()
    assert json.loads(first)["kind"] == "failover.elected"
    assert why in json.loads(last)["error"]
    manager.status = make_status(*nodes)
    assert main(["failover", "--json"]) == ExitCode.DONE, "the old writer may be the best one that is left"


def test_documents_made_here_carry_their_version(manager: Manager, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manager.status = make_status(make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING))
    main(["restart", "--dry-run", "--json"])
    assert json.loads(capsys.readouterr().out)["format_version"] == 1
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=6400, pg_bin="/bin"))
    os.environ.pop("ENDPOINTD_API")
    assert main(["dsn", "writer", "--json", "--data-dir", str(layout.root)]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["format_version"] == 1


def test_what_the_manager_does_not_understand_is_wrong_usage(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    manager.refusal = ApiError(400, "bad_request", "allow_data_loss must be the cluster's name")
    assert main(["failover", "--allow-data-loss", "other"]) == ExitCode.USAGE
    assert "the cluster's name" in complaint(capsys)


@pytest.mark.parametrize("words", [(), ("node",), ("config",), ("secrets",)])
def test_bare_commands_show_their_help_on_standard_output(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "endpointctl", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(" ".join(("Usage: endpointctl", *words)))
    assert "Commands:" in lines


@pytest.mark.parametrize(
    "command", [["status"], ["events"], ["explain"], ["dsn", "writer"], ["psql", "writer"], ["failover"], ["logs"], ["down"]]
)
def test_without_a_cluster_one_line_says_so(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [*command, "--data-dir", str(tmp_path / "none")]
            if command[0] != "psql"
            else [command[0], "--data-dir", str(tmp_path / "none"), "writer"]
        )
        == ExitCode.FAILED
    )
    complaint(capsys)


def test_a_manager_that_is_not_there_is_said_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        layout = Layout(tmp_path / "c")
        make_root(layout)
        make_files(layout, make_plan(node_count=3, base_port=unused.getsockname()[1] - 80, pg_bin="/bin"))
        assert main(["status", "--data-dir", str(layout.root)]) == ExitCode.FAILED
    assert "endpointctl up" in complaint(capsys)


def test_a_wrong_token_is_said(manager: Manager, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del manager
    (tmp_path / "token").write_text("wrong")
    assert main(["status"]) == ExitCode.FAILED
    assert "token" in complaint(capsys)


def test_status_as_json_is_the_managers_own_document(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == json.loads(msgspec.json.encode(manager.status))


def test_status_for_people_names_the_writer(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    del manager
    assert main(["status"]) == ExitCode.DONE
    assert "writer n1" in capsys.readouterr().out


def test_a_live_view_of_80_columns_shows_every_address_and_note(manager: Manager) -> None:
    nodes = [
        msgspec.structs.replace(
            make_node(f"n{number}", NodeState.STREAMING), port=6409 + number, problem=f"trouble of n{number}"
        )
        for number in (1, 2, 3)
    ]
    manager.status = make_status(*nodes)
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "status", "--watch"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"TERM": "xterm"},
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
    )
    os.close(inner)
    try:
        shown = ""
        wanted = [f"127.0.0.1:{6409 + number}" for number in (1, 2, 3)] + [f"trouble of n{number}" for number in (1, 2, 3)]
        deadline = time.monotonic() + 30.0
        while not all(text in shown for text in wanted):
            assert time.monotonic() < deadline, shown
            if select.select([outer], [], [], 0.1)[0]:
                shown += os.read(outer, 1 << 16).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            assert time.monotonic() < deadline, shown
            with contextlib.suppress(OSError):  # EIO: it has closed its side
                if select.select([outer], [], [], 0.1)[0]:
                    os.read(outer, 1 << 16)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        os.close(outer)


def test_explain_is_an_outline_or_json(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    del manager
    assert main(["explain"]) == ExitCode.DONE
    assert "diagnosis: HEALTHY" in capsys.readouterr().out
    assert main(["explain", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["diagnosis"] == "HEALTHY"


def test_events_are_lines_of_json(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    manager.events = [Event(sequence=1, at="T", monotonic_ms=0, epoch=3, kind="failover.detected", message="m")]
    assert main(["events", "--json"]) == ExitCode.DONE
    assert [msgspec.json.decode(line, type=Event) for line in capsys.readouterr().out.splitlines()] == manager.events
    assert main(["events"]) == ExitCode.DONE
    assert "failover.detected" in capsys.readouterr().out


def test_events_are_a_story_unless_more_or_less_is_asked_for(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("plan", "operator.pause", "paused", "failover.detected", "failover.opened", "some.newer.kind", "plan")
    hour = "2026-11-29T10:00:00.000Z"
    manager.events = [
        Event(sequence=number, at=hour.replace("10:", f"{10 + number}:"), monotonic_ms=0, epoch=3, kind=kind, message="m")
        for number, kind in enumerate(kinds)
    ]

    def shown(*options: str) -> list[int]:
        assert main(["events", "--json", *options]) == ExitCode.DONE
        numbers = [msgspec.json.decode(line, type=Event).sequence for line in capsys.readouterr().out.splitlines()]
        assert main(["events", *options]) == ExitCode.DONE
        assert len(capsys.readouterr().out.splitlines()) == len(numbers)
        return numbers

    assert shown() == [1, 2, 3, 4, 5]
    assert shown("--all") == [0, 1, 2, 3, 4, 5, 6]
    assert shown("--kind", "failover") == [3, 4]
    assert shown("--kind", "operator,paused") == [1, 2]
    assert shown("--kind", "plan") == [0, 6]
    assert shown("--since", "2026-11-29T13:00:00Z") == [3, 4, 5]
    assert shown("--since", "2026-11-29T13:00:00Z", "--all", "--follow") == [3, 4, 5, 6]


def test_orders_say_who_gives_them_and_how(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/endpointctl", "pause"])
    assert main() == ExitCode.DONE
    operator, command = manager.acts[-1]
    assert operator is not None
    assert operator.startswith(pwd.getpwuid(os.getuid()).pw_name)
    assert command == "endpointctl pause"


def test_wait_is_done_when_the_state_is_there(manager: Manager) -> None:
    del manager
    assert main(["wait", "--state", "healthy", "--timeout", "10"]) == ExitCode.DONE
    assert main(["wait", "--epoch", "3", "--timeout", "10"]) == ExitCode.DONE


def test_wait_in_vain_is_three(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    manager.status = make_status(state="stuck")
    assert main(["wait", "--state", "healthy", "--timeout", "3"]) == ExitCode.UNFINISHED
    assert "stuck" in complaint(capsys)


def test_a_failover_ends_when_the_new_epoch_has_a_writer(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    def move() -> None:
        manager.status = msgspec.structs.replace(make_status(writer="n2"), epoch=4)
        manager.events = [
            Event(sequence=5, at="T", monotonic_ms=0, epoch=4, kind="failover.promoted", node="n2", elapsed_ms=120, message="m")
        ]

    manager.status = make_status(make_node("n1", NodeState.RUNNING), make_node("n2", NodeState.STREAMING))
    manager.on_order = move
    assert main(["failover", "--to", "n2", "--timeout", "10"]) == ExitCode.DONE
    assert manager.orders == [("/v1/failover", {"to": "n2", "allow_data_loss": None})]
    out = capsys.readouterr().out
    assert "n1 -> n2" in out
    assert "120 ms" in out


def test_a_failover_that_does_not_end_in_time_is_three(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["failover", "--timeout", "0.3"]) == ExitCode.UNFINISHED
    complaint(capsys)
    assert main(["failover", "--no-wait"]) == ExitCode.DONE
    assert len(manager.orders) == 2


def test_a_refused_failover_is_one_with_the_managers_reason(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    manager.refusal = ApiError(409, "no_safe_set", "n2 and n3 are missing")
    assert main(["failover"]) == ExitCode.FAILED
    assert "n2 and n3 are missing" in complaint(capsys)


def test_pause_and_resume_are_orders_that_say_what_holds_now(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pause"]) == ExitCode.DONE
    assert capsys.readouterr().out == "paused: no failover happens by itself until `endpointctl resume`\n"
    assert main(["resume"]) == ExitCode.DONE
    assert capsys.readouterr().out == "resumed: failovers happen by themselves\n"
    assert [path for path, _ in manager.orders] == ["/v1/pause", "/v1/resume"]


def test_a_request_that_waits_is_shown_and_can_be_taken_back(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    manager.status = msgspec.structs.replace(manager.status, order_pending='switchover to "n2", accepted 1.0 s ago')
    assert main(["status"]) in ExitCode
    assert "ordered: switchover to" in capsys.readouterr().out
    assert main(["withdraw"]) == ExitCode.DONE
    assert capsys.readouterr().out == "withdrawn: nothing was changed\n"
    assert [path for path, _ in manager.orders] == ["/v1/withdraw"]


def test_an_order_about_a_node_that_fails_is_shown_with_the_next_try(
    manager: Manager, capsys: pytest.CaptureFixture[str]
) -> None:
    coming = NodeChangeStatus(
        name=NodeName("n4"),
        zone="az1",
        wish="wanted",
        step="provision",
        waits_for="a port is taken",
        failures=3,
        next_try="2026-01-01T00:00:04Z",
    )
    leaving = msgspec.structs.replace(coming, name=NodeName("n5"), wish="leaving", step="delete", failures=0, next_try=None)
    manager.status = msgspec.structs.replace(manager.status, node_changes=(coming, leaving))
    assert main(["status"]) in ExitCode
    shown = " ".join(capsys.readouterr().out.split())
    assert "n4 is being added: provision, a port is taken (failed 3 times, tried again at 2026-01-01T00:00:04Z;" in shown
    assert "`endpointctl node remove n4` takes it back)" in shown
    assert "n5 leaves: delete, a port is taken" in shown
    assert main(["status", "--json"]) in ExitCode
    assert json.loads(capsys.readouterr().out)["node_changes"][0]["next_try"] == "2026-01-01T00:00:04Z"


def test_a_taken_port_is_named_with_its_holder_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        root = tmp_path / "c"
        assert main(["up", "--detach", "--data-dir", str(root), "--base-port", str(port - 32)]) == ExitCode.FAILED
        line = complaint(capsys)
    assert str(port) in line
    assert str(os.getpid()) in line
    assert not root.exists()


def test_another_number_of_nodes_or_base_port_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=6400, pg_bin="/bin"))
    assert main(["up", "--nodes", "5", "--data-dir", str(layout.root)]) == ExitCode.FAILED
    assert "has 3 nodes, not 5" in complaint(capsys)
    assert main(["up", "--base-port", "7000", "--data-dir", str(layout.root)]) == ExitCode.FAILED
    assert "base port 6400, not 7000" in complaint(capsys)


def test_up_on_a_full_disk_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=7400, pg_bin="/nowhere"))
    with private_mounts(), SmallDisk(layout.root, 1) as disk:
        disk.fill()
        assert main(["up", "--detach", "--data-dir", str(layout.root)]) == ExitCode.FAILED
        error = capsys.readouterr().err
    assert "No space left on device" in error
    assert error.count("\n") == 1


def test_certificates_are_shown_and_renewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=7400, pg_bin="/bin"))
    where = ["--data-dir", str(layout.root)]
    assert main(["certs", "show", *where]) == ExitCode.FAILED
    assert "certs renew` makes them" in complaint(capsys)
    assert main(["dsn", "writer", "--tls", *where]) == ExitCode.FAILED
    capsys.readouterr()
    assert main(["certs", "renew", *where]) == ExitCode.DONE
    assert "endpoints: until " in capsys.readouterr().out
    assert main(["certs", "show", "--json", *where]) == ExitCode.DONE
    first = json.loads(capsys.readouterr().out)["certificates"]
    assert [each["name"] for each in first] == ["authority", "endpoints"]
    assert main(["certs", "renew", *where]) == ExitCode.DONE
    capsys.readouterr()
    assert main(["certs", "show", "--json", *where]) == ExitCode.DONE
    second = json.loads(capsys.readouterr().out)["certificates"]
    assert first[0] == second[0]
    assert first[1]["sha256"] != second[1]["sha256"]
    assert main(["dsn", "reader", "--tls", *where]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert out.startswith("postgresql://postgres@reader.local.endpointd.internal:7433/postgres?passfile=")
    assert f"&hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={layout.trusted}" in out
    assert main(["dsn", "n1", "--tls", *where]) == ExitCode.USAGE
    assert "which has no certificate" in complaint(capsys)


def test_dsn_shows_no_password_unless_asked(tmp_path: Path, dead_base: int, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=dead_base, pg_bin="/bin"))
    password = layout.secret("superuser").read_text().strip()
    where = ["--data-dir", str(layout.root)]
    assert main(["dsn", "writer", *where]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert f":{dead_base + 32}/" in out
    assert password not in out
    assert main(["dsn", "n2", "--with-password", *where]) == ExitCode.DONE
    assert f":{password}@127.0.0.1:{dead_base + 11}/" in capsys.readouterr().out
    assert main(["dsn", "reader", "--json", *where]) == ExitCode.DONE
    described = json.loads(capsys.readouterr().out)
    assert (described["port"], described["user"], described["dbname"]) == (dead_base + 33, "postgres", "postgres")
    assert main(["dsn", "n9", *where]) == ExitCode.USAGE
    assert "writer, reader, n1, n2, n3" in complaint(capsys)


def test_purge_asks_and_a_no_changes_nothing(
    tmp_path: Path, dead_base: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=dead_base, pg_bin="/bin"))
    where = ["--data-dir", str(layout.root)]
    monkeypatch.setattr("typer.confirm", _say_no)
    assert main(["down", "--purge", *where]) == ExitCode.FAILED
    assert layout.plan.exists()
    assert main(["down", "--purge", "--yes", *where]) == ExitCode.DONE
    assert not layout.root.exists()
    capsys.readouterr()


def _say_no(text: str, *, abort: bool, err: bool) -> bool:
    import typer

    assert abort, text
    assert err, text
    raise typer.Abort
