"""Closed from the first day: tokens, Host headers, file modes, passwords, and roles that can do no more than they must."""

from __future__ import annotations

import http.client
import os
import stat
from pathlib import Path

import psycopg
import pytest

from testkit.cluster import Cluster


def get(port: int, path: str, *, token: str | None = None, host: str | None = None, method: str = "GET") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    if host is not None:
        headers["Host"] = host
    try:
        connection.request(method, path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def _servers(cluster: Cluster) -> dict[str, tuple[int, str, str]]:
    """Return each HTTP server's port, a path that needs a token, and its token."""
    nodes_token = (cluster.data_dir / "secrets" / "nodes-token").read_text().strip()
    return {
        "manager": (cluster.port(80), "/v1/status", cluster.token),
        "proxy": (cluster.port(90), "/metrics", cluster.token),
        "noded": (cluster.port(60), "/status", nodes_token),
    }


@pytest.mark.parametrize("name", ["manager", "proxy", "noded"])
def test_every_request_but_health_needs_the_token(cluster: Cluster, name: str) -> None:
    port, path, token = _servers(cluster)[name]
    assert get(port, path, token=token) == 200
    assert get(port, path) == 401
    assert get(port, path, token="wrong") == 401
    assert get(port, path, token="") == 401
    assert get(port, "/health") == 200


@pytest.mark.parametrize("name", ["manager", "proxy", "noded"])
def test_a_foreign_host_header_is_refused(cluster: Cluster, name: str) -> None:
    port, path, token = _servers(cluster)[name]
    assert get(port, path, token=token, host=f"localhost:{port}") == 200
    assert get(port, path, token=token, host="evil.example") in (400, 403, 421)


@pytest.mark.parametrize("path", ["/v1/failover", "/v1/pause", "/v1/resume"])
def test_orders_need_the_token(cluster: Cluster, path: str) -> None:
    assert get(cluster.port(80), path, method="POST") == 401


def test_each_token_opens_what_its_scope_says_on_every_server(cluster: Cluster) -> None:
    """401: nobody knows it there; 403: it is known, and not for this."""
    manager, proxy, noded = cluster.port(80), cluster.port(90), cluster.port(60)
    asked = {
        "scrape": [(manager, "GET", "/metrics"), (proxy, "GET", "/metrics"), (noded, "GET", "/metrics")],
        "feed": [(noded, "GET", "/status")],
        "read": [(manager, "GET", "/v1/status"), (manager, "GET", "/v1/config"), (proxy, "GET", "/v1/sessions")],
        "operate": [(manager, "POST", "/v1/nodes/nobody/restart"), (manager, "POST", "/v1/resume")],
        "admin": [(manager, "POST", "/v1/config"), (manager, "POST", "/v1/nodes/nobody/reinit")],
    }  # fmt: skip
    opens = {
        "scrape": {"scrape"},
        "feed": {"feed"},
        "read": {"scrape", "read", "feed"},
        "operate": {"scrape", "read", "operate"},
        "admin": {"scrape", "read", "operate", "admin"},
    }
    for scope in asked:
        token = (cluster.data_dir / "run" / ("token" if scope == "admin" else f"token-{scope}")).read_text().strip()
        for what, requests in asked.items():
            for port, method, path in requests:
                status = get(port, path, token=token, method=method)
                if port == noded and scope in ("operate", "admin"):
                    assert status == 401, (scope, path)
                elif what in opens[scope]:
                    assert status not in (401, 403), (scope, path)
                else:
                    assert status == 403, (scope, path)
        assert get(noded, "/stop", token=token, method="POST") in (401, 403)
        if scope != "admin":
            assert get(manager, "/v1/nodes", token=token, method="POST") == 403


def test_a_proxy_holds_no_token_that_could_order_anything(cluster: Cluster) -> None:
    text = (cluster.data_dir / "settings" / "endpointd.toml").read_text()
    held = "".join(Path(line.split('"')[1]).read_text() for line in text.splitlines() if "_file = " in line)
    for name in ("run/token", "run/token-operate", "run/token-read", "run/token-scrape", "secrets/nodes-token"):
        assert (cluster.data_dir / name).read_text().strip() not in held, name
    assert (cluster.data_dir / "run" / "token-feed").read_text().strip() in held


@pytest.mark.parametrize("offset", [80, 90, 60])
def test_no_answer_says_what_we_are_made_of(cluster: Cluster, offset: int) -> None:
    for path in ("/health", "/metrics"):
        connection = http.client.HTTPConnection("127.0.0.1", cluster.port(offset), timeout=5.0)
        connection.request("GET", path)
        assert connection.getresponse().getheader("Server") == "endpointd"
        connection.close()


@pytest.mark.parametrize("path", ["/promote", "/stop", "/clone", "/rewind", "/init"])
def test_a_nodes_orders_need_the_nodes_token(cluster: Cluster, path: str) -> None:
    assert get(cluster.port(60), path, method="POST") == 401
    assert get(cluster.port(60), path, method="POST", token=cluster.token) == 401, "the operator's token is not the nodes'"


def test_everything_on_disk_is_private(cluster: Cluster) -> None:
    for path in cluster.data_dir.rglob("*"):
        if path.is_symlink() or path == cluster.data_dir / "tls" / "ca.crt":  # for clients to copy: it holds no key
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert not mode & 0o077, f"{path} has mode {mode:04o}"
        assert path.stat().st_uid == os.getuid(), path


def test_no_secret_stands_in_a_log_a_setting_or_a_command_line(cluster: Cluster) -> None:
    secrets = [path.read_text().strip() for path in (cluster.data_dir / "secrets").iterdir() if path.name != "pgpass"]
    secrets.append(cluster.token)
    pids = [cluster.pid_of(name) for name in ("supervisor", "cluster_manager", "endpointd", "n1", "n2", "n3")]
    pids += [node.pid for node in cluster.status().nodes if node.pid]
    texts = {f"command line of {pid}": Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in pids}
    for folder in ("logs", "settings", "manager"):
        for path in (cluster.data_dir / folder).rglob("*"):
            if path.is_file():
                texts[str(path)] = path.read_bytes().decode(errors="replace")
    for where, text in texts.items():
        assert not any(secret in text for secret in secrets), f"a secret stands in {where}"


@pytest.mark.versions
def test_nobody_is_trusted(cluster: Cluster) -> None:
    for node in ("n1", "n2", "n3"):
        with psycopg.connect(cluster.dsn(node)) as connection:
            rules = connection.execute("SELECT type, database, user_name, auth_method, error FROM pg_hba_file_rules").fetchall()
            encryption = connection.execute("SHOW password_encryption").fetchone()
        assert rules
        assert not [rule for rule in rules if rule[3] == "trust" or rule[4] is not None], rules
        assert encryption == ("scram-sha-256",)


def test_without_a_password_nobody_gets_in(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    for offset in (32, 33, 10, 11, 12):
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(host="127.0.0.1", port=cluster.port(offset), user="postgres", dbname="postgres")


@pytest.mark.parametrize(("secret", "role"), [("replication", "endpointd_replication"), ("probe", "endpointd_probe")])
def test_the_helpers_roles_are_not_superusers(cluster: Cluster, secret: str, role: str) -> None:
    del secret
    with psycopg.connect(cluster.dsn("writer")) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = %s", (role,)
        ).fetchone()
    assert row == (False, False, False)


def test_the_internal_superuser_cannot_log_in_over_tcp(cluster: Cluster) -> None:
    password = (cluster.data_dir / "secrets" / "control").read_text().strip()
    for offset in (32, 10, 11, 12):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host="127.0.0.1", port=cluster.port(offset), user="endpointd", password=password, dbname="postgres")


def test_superusers_passwords_are_stored_as_verifiers_only(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn("writer")) as connection:
        rows = connection.execute("SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin").fetchall()
    assert {name for name, _ in rows} >= {"postgres", "endpointd_replication", "endpointd_probe"}
    assert all(password is None or str(password).startswith("SCRAM-SHA-256$") for _, password in rows)
