"""This node's PostgreSQL with its configuration: written, started, reloaded, asked what it is, stopped.

Every start writes the whole managed configuration from the durable state and makes it durable first, and every start is
that of a standby (S10, S18).  The one file that knows both the postmaster and the configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from daemonkit.durable import fsync_dir, read_or_none
from daemonkit.logs import get_logger
from noded.files import history
from noded.files.controldata import ControlData, parse_controldata
from noded.files.layout import Layout
from noded.law.backoff import Backoff
from noded.law.durable_state import DurableState
from noded.law.promise import Configuration
from noded.postgres import conf
from noded.postgres.binaries import Binaries
from noded.postgres.doorway import Doorway
from noded.postgres.postmaster import FAST_STOP_S, Postmaster, is_of_settings, remove_socket
from noded.postgres.sessions import SessionError, Sessions
from noded.postgres.tls import ServerTls
from noded.postgres.tools import ToolError, run_tool
from noded.postgres.vouching import Present, Vouching, hba_lines, ident_lines
from pgtopology.desired import DesiredSettings
from pgtopology.node import Role
from pgtopology.observation import PostmasterState
from pgtopology.orders import StopMode
from pgtopology.parameters import without_refused

READY_POLL_S = 0.005
ASK_TIMEOUT_S = 0.3
CONTROL_FILE_TIMEOUT_S = 20.0
DEMANDS_TIMEOUT_S = 2.0
ASK_ROLE = "SELECT pg_is_in_recovery() AS standby"
STATEMENTS: list[tuple[str, tuple[object, ...]]] = [(ASK_ROLE, ())]
"""What the session that is asked runs once at its opening."""
RECOVERING = ("in archive recovery", "in crash recovery", "shut down in recovery")
"""States in the control file of a server that has not ended recovery."""
SETTLED_S = 10.0
"""A PostgreSQL that has run this long is forgiven its earlier ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What of the settings concerns PostgreSQL."""

    name: str
    host: str
    port: int
    socket_dir: Path
    initial: DesiredSettings
    """Of the settings file: what holds until the cluster has settings of its own."""
    replication_password: str = field(repr=False)
    tls: ServerTls | None = None
    vouching: Vouching | None = None


class Instance:
    """The PostgreSQL of one node."""

    def __init__(
        self,
        *,
        layout: Layout,
        binaries: Binaries,
        server: Server,
        state: DurableState,
        postmaster: Postmaster,
        sessions: Sessions,
    ) -> None:
        self.layout = layout
        self.binaries = binaries
        self.server = server
        self.state = state
        self.postmaster = postmaster
        self.sessions = sessions
        self.doorway = Doorway(server.socket_dir / f".s.PGSQL.{server.port}")
        self._written: bytes | None = None
        self._tls_problem: str | None = None
        self._is_forgetting = False
        """The password is to be gone, and it is not known that it is."""
        self.crashes = Backoff(first_s=0.5, max_s=15.0, free=1)
        """How often in a row PostgreSQL ended by itself soon after its start."""
        self.refused_start: str | None = None
        """What PostgreSQL said when it ended before it read its data, at its last start."""
        self._demands: Mapping[str, int] = {}
        self.present = Present()
        """Whom proxies may vouch for, as far as they are allowed to, as the last look found them."""
        self.standby_slots: tuple[str, ...] | None = None
        """Whose copies decoding waits for, while this is the writer and knows who streams; None: those of all voters."""

    @property
    def running(self) -> bool:
        """Whether there is a postmaster."""
        return self.postmaster.pid is not None

    def has_data(self) -> bool:
        """Return whether there is a data directory."""
        return (self.layout.pgdata / "global" / "pg_control").exists()

    @property
    def desired(self) -> DesiredSettings:
        """The operator's settings this node goes by."""
        kept = self.state.value.desired
        return without_refused(kept) if kept.version else self.server.initial

    @property
    def place(self) -> conf.Place:
        """Where the server is. There must be data."""
        server, sync_name = self.server, self.state.value.sync_name
        assert sync_name is not None
        return conf.Place(
            major=self.binaries.major,
            host=server.host,
            port=server.port,
            socket_dir=server.socket_dir,
            hba_file=self.layout.hba,
            ident_file=self.layout.ident,
            sync_name=sync_name,
            is_logical=conf.is_logical(self.desired),
        )

    async def control_data(self, directory: Path | None = None, *, timeout_s: float = CONTROL_FILE_TIMEOUT_S) -> ControlData:
        """Return what the control file of *directory*, or of PGDATA, says. Raises ToolError or ValueError."""
        command = self.binaries.command("pg_controldata", str(directory or self.layout.pgdata))
        return parse_controldata(await run_tool(command, timeout_s=timeout_s))

    async def has_less_than_demanded(self) -> bool:
        """Return whether PostgreSQL runs with less of a parameter than the WAL it replays demands.

        Raises SessionError, ToolError, ValueError.
        """
        demands = (await self.control_data()).demands
        rows = await self.sessions.control.rows(
            "SELECT name, setting FROM pg_settings WHERE name = ANY($1)", list(demands), timeout_s=ASK_TIMEOUT_S
        )
        return any(int(row["setting"]) < demands[row["name"]] for row in rows)

    async def learn_demands(self) -> ControlData | None:
        """Find out what the data demands: a standby does not start with less than the server had whose WAL it replays.

        Wanting less must not keep it down; nor must a control file that cannot be read now, which is returned otherwise.
        """
        try:
            control = await self.control_data(timeout_s=DEMANDS_TIMEOUT_S)
        except (ToolError, ValueError):
            return None
        self._demands = control.demands
        return control

    def usable_tls(self) -> ServerTls | None:
        """Return what PostgreSQL can speak TLS with; None if nothing, or not with these files, which the log says."""
        tls = self.server.tls
        why_not = tls.why_not() if tls is not None else None
        if why_not is not None and why_not != self._tls_problem:
            get_logger().error("postgresql speaks no TLS", reason=why_not)
        self._tls_problem = why_not
        return tls if why_not is None else None

    def hba(self, user_lines: Sequence[str]) -> bytes:
        """Return the contents of pg_hba.conf with *user_lines*."""
        vouching = self.server.vouching
        vouched = hba_lines(vouching, self._vouched_for) if vouching is not None else ()
        return conf.hba(user_lines, by_peer=self.binaries.system_user is not None, vouched=vouched)

    @property
    def _vouched_for(self) -> Present:
        """Nobody where the authorities are not ours, but an operator's: others could make a certificate of a proxy's name."""
        return Present() if conf.CERTIFIED_BY & self._given or "ssl_ca_file" in self._given else self.present

    @property
    def _given(self) -> set[str]:
        return {name.lower() for name in self.desired.parameters}

    def write_settings(self) -> None:
        """Write the operator's settings where PostgreSQL reads them. Durable. Raises OSError."""
        layout, desired = self.layout, self.desired
        main = layout.main_conf.read_text()
        system_user = self.binaries.system_user
        idents = (read_or_none(layout.ident) or b"").decode(errors="surrogateescape")
        vouching = self.server.vouching
        vouched = ident_lines(vouching, self._vouched_for) if vouching is not None else ()
        texts = {
            layout.settings: conf.settings_file(desired, self._demands, self.usable_tls()),
            layout.ident: conf.ident(idents, system_user, vouched),
            layout.hba: self.hba(desired.hba),
            layout.main_conf: conf.main_file(main, place=self.place, included=layout.settings).encode(),
        }
        for path, text in texts.items():
            if read_or_none(path) != text:
                self.state.disk.write(path, text)

    def configure(self, configuration: Configuration) -> None:
        """Write the two changing settings, and let the password be where it is needed and nowhere else. Durable."""
        sync_name = self.state.value.sync_name
        assert sync_name is not None
        if configuration.upstream is None:
            # First of all: no receiver that starts from now on can log in (S2).
            self.forget_password()
        else:
            line = conf.passfile_line(self.server.replication_password, configuration.upstream.address)
            if read_or_none(self.layout.passfile) != line:
                self.state.disk.write(self.layout.passfile, line)
        if configuration.standby_slots and self.standby_slots is not None:
            configuration = replace(configuration, standby_slots=self.standby_slots)
        text = conf.auto_conf(
            configuration,
            major=self.binaries.major,
            passfile=self.layout.passfile,
            application_name=None if self._calls_itself(sync_name) else sync_name,
        )
        if read_or_none(self.layout.auto_conf) != text:
            self.state.disk.write(self.layout.auto_conf, text)
        self._written = text

    def _calls_itself(self, sync_name: str) -> bool:
        """Return whether PostgreSQL runs, or will be started, as *sync_name*; earlier versions gave another cluster_name."""
        if not self.running:
            return True
        started_with = (read_or_none(self.layout.options) or b"").decode(errors="surrogateescape")
        return f'"cluster_name={sync_name}"' in started_with

    def forget_password(self) -> None:
        """Take the replication password away from PostgreSQL."""
        if self.layout.passfile.exists() or self._is_forgetting:
            self._is_forgetting = True
            self.state.disk.run(self._remove_passfile, key=self.layout.passfile)
            self._is_forgetting = False

    def _remove_passfile(self) -> None:
        self.layout.passfile.unlink(missing_ok=True)
        fsync_dir(self.layout.conf)

    def configuration_was_changed(self) -> bool:
        """Return whether somebody else has written our file."""
        return self.running and self._written is not None and read_or_none(self.layout.auto_conf) != self._written

    async def start(self, configuration: Configuration) -> ControlData | None:
        """Start PostgreSQL as a standby. Raises PostmasterError, OSError.

        No process of the data directory may be left. Returns the control file as it was before, if it could be read.
        """
        layout, server = self.layout, self.server
        control = await self.learn_demands()
        self.write_settings()
        if not layout.standby_signal.exists():
            self.state.disk.write(layout.standby_signal, b"")
        for name in ("recovery.signal", "promote"):
            (layout.pgdata / name).unlink(missing_ok=True)
        history.remove_placeholders(layout.wal)
        self.configure(configuration)
        fsync_dir(layout.pgdata)
        server.socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.doorway.forget()
        remove_socket(server.socket_dir, server.port)
        self.sessions.drop()
        self.postmaster.start(self.binaries.command("postgres", "-D", str(layout.pgdata), *conf.command_line(self.place)))
        return control

    def why_not_yet(self) -> str | None:
        """Return why PostgreSQL is not started again at this moment, or None."""
        left_s = self.crashes.left_s(asyncio.get_running_loop().time())
        if not left_s:
            return None
        return f"PostgreSQL ended {self.crashes.failures} times in a row ({self.crashes.reason}); tried again in {left_s:.1f} s"

    def note_end(self, reason: str) -> None:
        """Note that PostgreSQL has ended by itself; what an outside signal ended says nothing of the next start."""
        postmaster = self.postmaster
        of_settings = postmaster.ended_while_starting and is_of_settings(reason, read_no_data=postmaster.read_no_data)
        self.refused_start = reason if of_settings else None
        if postmaster.lived_s >= SETTLED_S:
            self.crashes.forget()
        if postmaster.exit_status is not None and postmaster.exit_status >= 0:
            self.crashes.failed(asyncio.get_running_loop().time(), reason)

    def note_settled(self) -> None:
        """Forget earlier ends once PostgreSQL has run for a while."""
        if self.postmaster.ready_seen:
            self.refused_start = None
        if self.crashes.failures and self.postmaster.ready_seen and self.postmaster.lived_s >= SETTLED_S:
            self.crashes.forget()

    async def stop(self, mode: StopMode, *, fast_s: float = FAST_STOP_S) -> None:
        """Stop PostgreSQL; no process of its data directory is left. Raises PostmasterError."""
        if mode is StopMode.IMMEDIATE:
            self.sessions.drop()
        await self.postmaster.stop(mode, fast_s=fast_s)
        self.sessions.drop()

    def note_readiness(self) -> bool:
        """Return whether PostgreSQL accepts connections."""
        if not self.postmaster.ready_seen and self.postmaster.is_ready():
            self.postmaster.ready_seen = True
        return self.postmaster.state is PostmasterState.RUNNING

    async def wait_ready(self, timeout_s: float) -> bool:
        """Return whether PostgreSQL accepts connections, after at most *timeout_s*; at once if it ends."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not self.note_readiness():
            if not self.running or loop.time() >= deadline:
                return False
            await asyncio.sleep(READY_POLL_S)
        return True

    async def role(self, *, by_files: bool = True) -> Role:
        """Return what PostgreSQL is now.

        Whoever cannot be proven a standby is a primary. Its files prove it where no session does, unless *by_files* is false:
        they are no basis for destroying anything while it runs, because a recovery may be ending.
        PostgreSQL removes standby.signal when it ends recovery, and we never start it without.
        """
        if not self.running:
            return Role.NONE
        if not self.layout.standby_signal.exists():
            return Role.PRIMARY
        if not self.note_readiness():
            return Role.STANDBY
        try:
            row = await self.sessions.control.row(ASK_ROLE, timeout_s=ASK_TIMEOUT_S)
        except SessionError:
            if not self.running:
                return Role.NONE
            return await self._role_by_files() if by_files else Role.PRIMARY
        return Role.STANDBY if row["standby"] else Role.PRIMARY

    async def _role_by_files(self) -> Role:
        """Return what PostgreSQL is by its files, whose order at the end of recovery is: standby.signal goes, the control file
        says so, the first transaction begins (xlog.c, StartupXLOG)."""
        try:
            control = await self.control_data(timeout_s=DEMANDS_TIMEOUT_S)
        except (ToolError, ValueError):
            return Role.PRIMARY
        recovering = control.state in RECOVERING and self.layout.standby_signal.exists()
        return Role.STANDBY if recovering else Role.PRIMARY
