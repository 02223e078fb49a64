"""What an operator can set, and what holds if nothing is said. Strict: an unknown key is an error.

[limits], [warm], [clients], [tls], [servers], [logs], [reader].fallback_to_writer, the endpoints' rules, client_address and
proxy_protocol_from, and all of pooled endpoints but their place are read again on SIGHUP; everything else needs a restart,
which another process may do without a connection refused (takeover/).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from daemonkit.logs import LogSettings
from daemonkit.settings import SettingsError, load_settings
from endpointd.rules import DEFAULT_LINES, VOUCHED, Method, Rule, RuleError, read_networks, read_rules
from endpointd.usermaps import UserMapError, UserMaps, read_user_maps
from pgtopology.node import Label

PORT_MAX = 65_535
PATH_BYTES_MAX = 107 - len(".4194304")
"""Of a Unix socket: of sockaddr_un's 108 bytes the last is zero, and there may be a pid behind the name."""
Port = Annotated[int, msgspec.Meta(ge=0, le=PORT_MAX)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]
DrainSeconds = Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
PoolCount = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
PoolMin = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
WaitSeconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
ClientAddress = Literal["none", "application_name"]
KeepaliveSeconds = Annotated[int, msgspec.Meta(ge=0, le=32_767)]
KeepaliveCount = Annotated[int, msgspec.Meta(ge=0, le=127)]
IdleCount = Annotated[int, msgspec.Meta(ge=0, le=10_000)]
WORKERS_MAX = 16
AUTO_MAX = 8
Workers = Annotated[int, msgspec.Meta(ge=1, le=WORKERS_MAX)] | Literal["auto"]
WantedEngine = Literal["auto", "native", "asyncio"]
Permissions = Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")]
Rules = Annotated[tuple[str, ...], msgspec.Meta(max_length=1000)]


class ProxySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[proxy]"""

    name: str
    engine: WantedEngine = "auto"
    """What moves bytes; auto: the native engine if it was built, else the asyncio engine."""
    cache: Path
    """Where the last document is kept, so that a restarted proxy routes while all managers are dead."""
    takeover: Path | None = None
    """A Unix socket in a directory private to the user, where a new process asks for our ports; None: a restart closes them."""
    workers: Workers = 1
    """Processes that serve together, the main one among them; auto: one for each processor that we may use, up to AUTO_MAX."""
    drain_timeout_s: DrainSeconds | None = None
    """How long the sessions of a process that was relieved may go on; None: until they end by themselves."""
    unix_socket_directory: Path | None = None
    """Where every endpoint listens too, at .s.PGSQL.PORT, for clients of this machine; None: nowhere."""
    unix_socket_permissions: Permissions = "0777"
    """Who may connect there, in octal: by the rules everybody proves who they are, so everybody, as PostgreSQL has it."""


class FeedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[feed]: the managers, all of which are listened to."""

    urls: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=7)]
    token_file: Path


class NodedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[nodeds]: who are asked only while no manager answers."""

    token_file: Path


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every endpoint has."""

    host: str = "127.0.0.1"
    port: Port
    rules: Rules = ()
    """Who may come in and how they prove who they are, as lines of pg_hba.conf (rules.py); none: the default."""
    client_address: ClientAddress = "none"
    """application_name: servers are given the client's address behind its own (session/clientaddress.py)."""
    proxy_protocol_from: Rules = ()
    """Networks of balancers, whose connections must begin with the PROXY protocol's header; the address in it counts."""


class WriterSettings(EndpointSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[writer]"""


class ReaderSettings(EndpointSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[reader]"""

    fallback_to_writer: bool = True
    """With no replica left the door leads to the writer, as Aurora's does; else clients wait and are refused."""


class InstanceSettings(EndpointSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[instances]] table: a door to one node, wherever it is and whatever it is at the moment."""

    node: Label


class PooledSettings(EndpointSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[pooled_writer], [pooled_reader]: endpoints whose clients take turns at servers, transaction by transaction."""

    pool_size: PoolCount = 20
    """Servers of one user at one database, at most."""
    pool_min: PoolMin = 0
    """Of these, of one login, that are not closed for having nothing to do."""
    query_wait_timeout_s: WaitSeconds = 120.0
    """A client that has waited for a server for so long is refused."""
    server_idle_timeout_s: WaitSeconds = 600.0
    server_lifetime_s: WaitSeconds = 3600.0
    """Since its login; it is closed when no client has it."""
    prepared_statements_max: PoolCount = 200
    """That are kept at one server."""


E = TypeVar("E", bound=EndpointSettings)


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[tls]: how clients are spoken to."""

    mode: Literal["off", "prefer", "require"] = "off"
    """prefer: whoever asks for TLS gets it; require: whoever does not is refused, but for cancel requests."""
    certificate: Path | None = None
    """Ours in PEM, with its chain behind it."""
    key: Path | None = None
    """Its key in PEM, private to this program's user (0600) or root's (0640). May be the same file."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """The oldest version of TLS that is spoken."""
    client_ca: Path | None = None
    """Authorities in PEM: a client's certificate is asked for, and verified if there is one."""
    user_maps: Rules = ()
    """Which roles certificates stand for, as lines of pg_ident.conf (usermaps.py), for rules `cert map=NAME`."""


class ClientsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[clients]: what their connections are set to. 0 is the system's own, as PostgreSQL has it."""

    tcp_keepalives_idle_s: KeepaliveSeconds = 0
    tcp_keepalives_interval_s: KeepaliveSeconds = 0
    tcp_keepalives_count: KeepaliveCount = 0


class ServersSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[servers]: how PostgreSQL is spoken to."""

    tls: Literal["off", "prefer", "require", "verify"] = "off"
    """prefer: in plaintext to a server that declines; verify: its chain and its address are verified, as verify-full does."""
    ca: Path | None = None
    """Authorities in PEM, for verify."""
    certificate: Path | None = None
    """The proxy's own in PEM, for servers that ask; with source, for those only that are spoken to from there."""
    key: Path | None = None
    unix_socket: str | None = None
    """The directory of servers' Unix sockets, in which {node} is the name of a node: who has proven itself to us is logged in
    there if there is such a socket. auto: as `up` has laid it out, in its settings alone. None: over TCP."""
    source: str | None = None
    """An address of this machine from which the proxy logs in for clients whom it vouches for by its certificate, and nobody
    speaks to servers otherwise: they let in by that certificate alone who comes from there."""


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[limits]"""

    sessions_max: Count = 1000
    startup_timeout_s: Seconds = 15.0
    """For the first packet, with what comes before it."""
    login_timeout_s: Seconds = 60.0
    """For the proof, and again for the login at a server: PostgreSQL's authentication_timeout."""
    dial_timeout_s: Seconds = 3.0
    hold_s: Seconds = 10.0
    """How long a client waits for somebody to connect to."""
    hold_max: Count = 1000
    """How many may wait, for somebody or for their turn to log in."""
    strangers_max: Count = 256
    """Connections of each endpoint that have not said yet who they are; when there are more the oldest goes."""
    strangers_per_address_max: Count | None = None
    """Of these, from one address; None: as many as there may be at all."""
    logins_max: Count = 32
    """Logins under way at one server, which keep one of its max_connections each although nothing is proven yet."""
    logins_per_address_max: Count = 16
    """Of these, from one address, so that none takes all of them. The others wait their turn."""
    per_user_max: Count | None = None
    """Sessions of one user, at all doors together."""
    per_database_max: Count | None = None


class WarmSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[warm]: server connections that are kept for the next client when theirs has left (servers/warm.py)."""

    enabled: bool = True
    idle_min: IdleCount = 4
    """Of one login (server, user, database, startup packet) so many are kept for all of their lifetime."""
    idle_max: IdleCount = 16
    """Kept at one server at most, of all logins together. They count towards its max_connections."""
    idle_max_per_login: IdleCount = 16
    idle_timeout_s: Seconds = 3.0
    """What is kept beyond idle_min goes after this time."""
    lifetime_s: Seconds = 300.0
    """No login serves new clients for longer."""


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[http]: health, metrics and who is connected where."""

    host: str = "127.0.0.1"
    port: Port
    token_file: Path | None = None
    """A token for everything."""
    verifiers_file: Path | None = None
    """The digests of tokens with scopes, so that a proxy holds none of these tokens."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    proxy: ProxySettings
    feed: FeedSettings
    nodeds: NodedSettings
    writer: WriterSettings
    reader: ReaderSettings
    pooled_writer: PooledSettings | None = None
    pooled_reader: PooledSettings | None = None
    instances: Annotated[tuple[InstanceSettings, ...], msgspec.Meta(max_length=16)] = ()
    clients: ClientsSettings = ClientsSettings()
    tls: TlsSettings = TlsSettings()
    servers: ServersSettings = ServersSettings()
    limits: LimitSettings = LimitSettings()
    warm: WarmSettings = WarmSettings()
    http: HttpSettings
    logs: LogSettings = LogSettings()

    @property
    def endpoints(self) -> tuple[tuple[str, EndpointSettings], ...]:
        """Every endpoint by its name: the writer, the reader, those of single nodes, then pooled ones."""
        nodes = tuple((instance.node, instance) for instance in self.instances)
        return ("writer", self.writer), ("reader", self.reader), *nodes, *self.pooled.items()

    @property
    def pooled(self) -> dict[str, PooledSettings]:
        """The pooled endpoints by their names, if there are any."""
        both = {"pooled-writer": self.pooled_writer, "pooled-reader": self.pooled_reader}
        return {name: each for name, each in both.items() if each is not None}


def read_settings(path: Path) -> Settings:
    """Return the settings in *path*. Raises SettingsError, also for what does not fit together."""
    settings = load_settings(path, Settings)
    for what in complaints(settings):
        raise SettingsError(f"{path}: {what}")
    return settings


def complaints(settings: Settings) -> Iterator[str]:
    """Yield what does not fit together."""
    nodes = [instance.node for instance in settings.instances]
    for number, node in enumerate(nodes, 1):
        if node in ("writer", "reader", "pooled-writer", "pooled-reader"):
            yield f'[[instances]] {number}, node: "{node}" is the name of an endpoint'
        if node in nodes[: number - 1]:
            yield f'[[instances]] {number}, node: "{node}" has a door already'
    try:
        rules, maps = rules_of(settings), user_maps_of(settings)
        for name, endpoint in settings.endpoints:
            _check_balancers(name, endpoint)
    except (RuleError, UserMapError) as error:
        yield str(error)
        return
    yield from _cannot_pool(settings, rules)
    yield from _clashes(settings)
    yield from _missing_files(settings)
    yield from _cannot_vouch(settings, rules, maps)
    takeover = settings.proxy.takeover
    if takeover is not None and not (takeover.is_absolute() and len(os.fsencode(takeover)) <= PATH_BYTES_MAX):
        yield f"[proxy], takeover: it is an absolute path of at most {PATH_BYTES_MAX} bytes"
    directory = settings.proxy.unix_socket_directory
    name_bytes = len(f"/.s.PGSQL.{PORT_MAX}")
    if directory is not None and not (directory.is_absolute() and len(os.fsencode(directory)) + name_bytes <= PATH_BYTES_MAX):
        yield f"[proxy], unix_socket_directory: it is an absolute path of at most {PATH_BYTES_MAX - name_bytes} bytes"
    unix_socket = settings.servers.unix_socket
    if unix_socket is not None and not Path(unix_socket).is_absolute():
        yield "[servers], unix_socket: it is an absolute path, in which {node} may stand for the node's name"
    if settings.proxy.workers != 1 and takeover is None:
        yield "[proxy], workers: more than one need takeover, the socket beside which they meet"


def _clashes(settings: Settings) -> Iterator[str]:
    """Yield what is to be listened on twice."""
    places = [(f"endpoint {name}", place.host, place.port) for name, place in settings.endpoints]
    places.append(("[http]", settings.http.host, settings.http.port))
    for number, (name, host, port) in enumerate(places):
        for other, there, same in places[:number]:
            if port == same != 0 and _overlap(host, there):
                yield f"{other} and {name}: both are to be at port {port} of {there or 'every address'}"


def _cannot_pool(settings: Settings, rules: Mapping[str, Sequence[Rule]]) -> Iterator[str]:
    """Yield what needs a server of its own for each client."""
    for name, endpoint in settings.pooled.items():
        if endpoint.client_address != "none":
            yield f"endpoint {name}, client_address: its servers are shared by clients of many addresses"
        if endpoint.pool_min > endpoint.pool_size:
            yield f"endpoint {name}, pool_min: it is more than pool_size"
        for rule in rules[name]:
            if rule.method is Method.RELAY:
                yield f'rules of endpoint {name}, "{rule.line}": who is authenticated by a server cannot be given another one'


def _overlap(one: str, other: str) -> bool:
    both = {one, other}
    are_of_one_kind = (":" in one) is (":" in other)
    return len(both) == 1 or "" in both or (are_of_one_kind and bool(both & {"0.0.0.0", "::"}))  # noqa: S104 - compared


def processes_of(settings: Settings) -> int:
    """Return how many processes the proxy has."""
    workers = settings.proxy.workers
    return min(len(os.sched_getaffinity(0)), AUTO_MAX) if workers == "auto" else workers


def limits_of_process(limits: LimitSettings, processes: int) -> LimitSettings:
    """Return what each of *processes* has of *limits*: its part of those of strangers and logins, and of the others all."""

    def part(whole: int) -> int:
        return -(-whole // processes)

    per_address = limits.strangers_per_address_max
    return msgspec.structs.replace(
        limits,
        hold_max=part(limits.hold_max),
        strangers_max=part(limits.strangers_max),
        strangers_per_address_max=part(per_address) if per_address is not None else None,
        logins_max=part(limits.logins_max),
        logins_per_address_max=part(limits.logins_per_address_max),
    )


def warm_of_process(warm: WarmSettings, processes: int) -> WarmSettings:
    """Return what each of *processes* has of *warm*: its part of what may be kept."""

    def part(whole: int) -> int:
        return -(-whole // processes)

    return msgspec.structs.replace(
        warm,
        idle_min=part(warm.idle_min),
        idle_max=part(warm.idle_max),
        idle_max_per_login=part(warm.idle_max_per_login),
    )


def pooled_of_process(settings: Settings, processes: int) -> dict[str, PooledSettings]:
    """Return what each of *processes* has of the pooled endpoints: its part of the servers."""
    return {
        name: msgspec.structs.replace(each, pool_size=-(-each.pool_size // processes), pool_min=-(-each.pool_min // processes))
        for name, each in settings.pooled.items()
    }


def rules_of(settings: Settings) -> dict[str, tuple[Rule, ...]]:
    """Return the rules of each endpoint by its name. Raises RuleError, which names the endpoint."""
    found: dict[str, tuple[Rule, ...]] = {}
    for name, endpoint in settings.endpoints:
        try:
            found[name] = read_rules(endpoint.rules or DEFAULT_LINES)
        except RuleError as error:
            raise RuleError(f"rules of endpoint {name}, {error}") from error
    return found


def _check_balancers(name: str, endpoint: EndpointSettings) -> None:
    """Raises RuleError."""
    try:
        read_networks(endpoint.proxy_protocol_from)
    except RuleError as error:
        raise RuleError(f"proxy_protocol_from of endpoint {name}, {error}") from error


def user_maps_of(settings: Settings) -> UserMaps:
    """Return which roles certificates stand for. Raises UserMapError."""
    return read_user_maps(settings.tls.user_maps)


def endpoints_telling_addresses(settings: Settings) -> frozenset[str]:
    """Return the names of the endpoints whose servers are given the client's address."""
    return frozenset(name for name, endpoint in settings.endpoints if endpoint.client_address == "application_name")


def _missing_files(settings: Settings) -> Iterator[str]:
    tls, servers = settings.tls, settings.servers
    if tls.mode != "off" and (tls.certificate is None or tls.key is None):
        yield f'[tls], mode: "{tls.mode}" needs certificate and key'
    if (servers.certificate is None) is not (servers.key is None):
        yield "[servers]: certificate and key are given together or not at all"
    if servers.tls == "verify" and servers.ca is None:
        yield '[servers], tls: "verify" needs ca'


def _cannot_vouch(settings: Settings, rules: Mapping[str, Sequence[Rule]], maps: UserMaps) -> Iterator[str]:
    """Yield why rules cannot be held to that give no key by which to log in at a server in the client's name."""
    tls, servers = settings.tls, settings.servers
    if servers.source is not None and _address(servers.source) is None:
        yield f'[servers], source: "{servers.source}" is no IP address'
    for endpoint, lines in rules.items():
        for rule in lines:
            if rule.method not in VOUCHED:
                continue
            where = f'rules of endpoint {endpoint}, "{rule.line}"'
            if servers.tls != "verify" or servers.certificate is None or servers.source is None:
                yield (
                    f'{where}: "{rule.method}" gives no key by which to log in at a server in the client\'s name, so the proxy '
                    'vouches by a certificate of its own: [servers] needs tls = "verify", certificate, key and source, and '
                    "PostgreSQL must have been built with TLS"
                )
            if rule.method is Method.CERT and (tls.mode == "off" or tls.client_ca is None):
                yield f'{where}: "cert" needs [tls] with mode "prefer" or "require", and client_ca'
            if rule.user_map is not None and rule.user_map not in maps:
                yield f'{where}: [tls] user_maps has no map "{rule.user_map}"'


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def in_force(begun: Settings, new: Settings) -> Settings:
    """Return what a process goes by that has *begun* with other settings and has read *new*: some wait for a restart."""
    doors = {instance.node: instance for instance in new.instances}
    return msgspec.structs.replace(
        begun,
        limits=new.limits,
        warm=new.warm,
        clients=new.clients,
        tls=new.tls,
        servers=new.servers,
        logs=new.logs,
        writer=_taken_up(begun.writer, new.writer),
        reader=msgspec.structs.replace(_taken_up(begun.reader, new.reader), fallback_to_writer=new.reader.fallback_to_writer),
        pooled_writer=_pool_taken_up(begun.pooled_writer, new.pooled_writer),
        pooled_reader=_pool_taken_up(begun.pooled_reader, new.pooled_reader),
        instances=tuple(_taken_up(each, doors.get(each.node, each)) for each in begun.instances),
    )


def needs_restart(begun: Settings, new: Settings) -> tuple[str, ...]:
    """Return the tables of *new* in which something waits for a restart of a process that has *begun* with other settings."""
    held = in_force(begun, new)
    return tuple(f"[{name}]" for name in Settings.__struct_fields__ if getattr(held, name) != getattr(new, name))


def _pool_taken_up(begun: PooledSettings | None, new: PooledSettings | None) -> PooledSettings | None:
    if begun is None or new is None:
        return begun
    return msgspec.structs.replace(new, host=begun.host, port=begun.port)


def _taken_up(begun: E, new: E) -> E:
    """Return *begun* with what an endpoint takes up of *new* at once."""
    return msgspec.structs.replace(
        begun, rules=new.rules, client_address=new.client_address, proxy_protocol_from=new.proxy_protocol_from
    )
