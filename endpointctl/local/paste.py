"""How clients reach a local cluster: URIs and command lines, ready to paste.

No password is shown: the URIs name the password file, which libpq, psycopg and asyncpg all read.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from daemonkit.exits import Failure, WrongUsage
from deployment.local.layout import Layout
from deployment.local.plan import DATABASE, HOST, PROXY_PROGRAM, USER, Plan, PlannedProxy

_ENDPOINTS = ("writer", "reader")
ALL_PROXIES = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One place clients connect to: an endpoint, or a node itself."""

    name: str
    host: str
    port: int
    passfile: Path
    more_ports: tuple[int, ...] = ()
    """Of the same endpoint at other proxies."""
    address: str | None = None
    """Where *host* is, if that is a name."""
    authorities: Path | None = None
    """By which a client verifies whom it talks to; None: without TLS."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Where it is, in the order in which a client is to try."""
        return (self.port, *self.more_ports)

    def uri(
        self, *, user: str = USER, database: str = DATABASE, password: str | None = None, connect_timeout_s: int | None = None
    ) -> str:
        """Return the URI. Without a *password* that of postgres names the password file; of others nothing is known."""
        options: list[str] = []
        if password is None and user == USER:
            options.append(f"passfile={quote(str(self.passfile), safe='/')}")
        if self.address is not None:
            options.append(f"hostaddr={','.join([self.address] * len(self.ports))}")
        if self.authorities is not None:
            options.append(f"sslmode=verify-full&sslrootcert={quote(str(self.authorities), safe='/')}")
        if connect_timeout_s is not None:
            options.append(f"connect_timeout={connect_timeout_s}")
        who = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        tail = f"?{'&'.join(options)}" if options else ""
        places = ",".join(f"{self.host}:{port}" for port in self.ports)
        return f"postgresql://{who}@{places}/{quote(database, safe='')}{tail}"


def doors(layout: Layout, plan: Plan) -> dict[str, Door]:
    """Return every door of the cluster by its name: writer, reader, the nodes, and pooled endpoints if there are any."""
    ports = {"writer": plan.writer_port, "reader": plan.reader_port} | {node.name: node.port for node in plan.nodes}
    ports |= pooled_ports(layout)
    return {name: Door(name=name, host=HOST, port=port, passfile=layout.passfile) for name, port in ports.items()}


def pooled_ports(layout: Layout) -> dict[str, int]:
    """Return the ports of the pooled endpoints that the first proxy was told to open."""
    try:
        tables = tomllib.loads(layout.settings_file(PROXY_PROGRAM).read_text())
    except (OSError, ValueError):
        return {}
    return {table.replace("_", "-"): tables[table]["port"] for table in ("pooled_writer", "pooled_reader") if table in tables}


def port_of(proxy: PlannedProxy, endpoint: str) -> int:
    """Return the port of an endpoint, by its name, at *proxy*."""
    pooled_writer, pooled_reader = proxy.pooled_ports
    return {
        "writer": proxy.writer_port,
        "reader": proxy.reader_port,
        "pooled-writer": pooled_writer.port,
        "pooled-reader": pooled_reader.port,
    }[endpoint]


def find_proxy(plan: Plan, name: str) -> PlannedProxy:
    """Return the proxy called *name*. Raises WrongUsage."""
    found = next((proxy for proxy in plan.proxies if proxy.name == name), None)
    if found is None:
        known = ", ".join(proxy.name for proxy in plan.proxies)
        raise WrongUsage(f'there is no proxy "{name}"', hint=f"there {'are' if len(plan.proxies) > 1 else 'is'} {known}")
    return found


def find_door(layout: Layout, plan: Plan, name: str, *, tls: bool = False, proxy: str | None = None) -> Door:
    """Return the door called *name*, an endpoint at the *proxy* that is named, at all of them, or at the first.

    With *tls* as clients reach it that verify.  Raises WrongUsage, Failure.
    """
    known = doors(layout, plan)
    chosen = plan.proxies if proxy == ALL_PROXIES else (find_proxy(plan, proxy),) if proxy is not None else ()
    if name not in known:
        hint = f"known are {', '.join(known)}"
        if name.removeprefix("pooled-") in _ENDPOINTS:
            hint += f"; a table [{name.replace('-', '_')}] in the file of `up --config` opens this one at the next start"
        raise WrongUsage(f'there is no endpoint or node "{name}"', hint=hint)
    if chosen:
        if name.removeprefix("pooled-") not in _ENDPOINTS:
            raise WrongUsage(f'"{name}" is a node, which is reached without a proxy', hint="--proxy is for endpoints")
        first, *others = (port_of(each, name) for each in chosen)
        known[name] = dataclasses.replace(known[name], port=first, more_ports=tuple(others))
    if not tls:
        return known[name]
    if name.removeprefix("pooled-") not in _ENDPOINTS:
        raise WrongUsage(f'"{name}" is a node, which has no certificate of the cluster', hint="--tls is for endpoints")
    if not layout.trusted.exists():
        raise Failure(f"no certificates in {layout.tls}", hint="`endpointctl certs renew` makes them")
    host = f"{name.removeprefix('pooled-')}.{plan.cluster}.{plan.zone}"
    return dataclasses.replace(known[name], host=host, address=HOST, authorities=layout.trusted)


def psql_path(plan: Plan) -> Path:
    """Return psql: the one beside PostgreSQL's binaries, else the one on PATH (by its bare name)."""
    beside = Path(plan.pg_bin) / "psql"
    return beside if beside.exists() else Path("psql")


def paste_lines(layout: Layout, plan: Plan, *, options: list[str]) -> list[str]:
    """Return the lines `up` prints when the cluster is usable; *options* name it for endpointctl, [] for the default one."""
    known = doors(layout, plan)
    pooled = [name for name in known if name.startswith("pooled-")]
    return [
        *(f"  {shlex.join([*own_command(), 'psql', *options, name])}" for name in _ENDPOINTS),
        *(f"  {shlex.join([str(psql_path(plan)), known[name].uri()])}" for name in _ENDPOINTS),
        *(f"  {name}: {known[name].uri()}" for name in (*_ENDPOINTS, *pooled)),
        *(
            f"  at {proxy.name}: " + ", ".join(f"{name} {HOST}:{port_of(proxy, name)}" for name in (*_ENDPOINTS, *pooled))
            for proxy in plan.proxies[1:]
        ),
        f"  DNS: dig @{HOST} -p {plan.dns_port} writer.{plan.cluster}.{plan.zone}",
    ]


def own_command() -> list[str]:
    """Return how to call endpointctl the way it was called now, relative to the working directory where that is shorter."""
    script = Path(sys.argv[0])
    if script.name != "endpointctl":
        return [sys.executable, "-m", "endpointctl"]
    path = script.absolute()
    try:
        return [str(path.relative_to(Path.cwd()))]
    except ValueError:
        return [str(path)]
