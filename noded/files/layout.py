"""Where the files of a node are.

Everything lies below one directory.  What must survive a wipe of the data (promise, incarnation, kept WAL) lies beside
PGDATA, never inside: pg_rewind deletes foreign files in it and pg_basebackup copies them to other nodes (S7).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daemonkit.durable import fsync_dir


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of the node whose directory is *root*."""

    root: Path

    @property
    def pgdata(self) -> Path:
        """The data directory."""
        return self.root / "pgdata"

    @property
    def partial(self) -> Path:
        """A data directory in the making; it becomes `pgdata` by a rename when it is complete."""
        return self.root / "pgdata.partial"

    @property
    def replaced(self) -> Path:
        """The data directory that a finished copy has replaced, until it is deleted."""
        return self.root / "pgdata.replaced"

    @property
    def options(self) -> Path:
        """With what PostgreSQL was started: it writes this when settings, memory and ports are right, before it reads data."""
        return self.pgdata / "postmaster.opts"

    @property
    def state(self) -> Path:
        """The durable state of this noded."""
        return self.root / "state" / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the one noded of this directory."""
        return self.root / "state" / "lock"

    @property
    def sync_trial(self) -> Path:
        """Written now and then to see how long the disk takes; what is in it means nothing."""
        return self.root / "state" / "sync.trial"

    @property
    def conf(self) -> Path:
        """Files that PostgreSQL reads and that are not data."""
        return self.root / "conf"

    @property
    def hba(self) -> Path:
        """Who may log in, and how."""
        return self.conf / "pg_hba.conf"

    @property
    def ident(self) -> Path:
        """Who of the operating system may log in as whom. At PostgreSQL's usual place: a server that a noded of an earlier
        version started reads it there."""
        return self.pgdata / "pg_ident.conf"

    @property
    def settings(self) -> Path:
        """The operator's settings, which postgresql.conf includes."""
        return self.conf / "settings.conf"

    @property
    def passfile(self) -> Path:
        """The replication password: PostgreSQL's only way to it, and absent while nobody may be followed (S2)."""
        return self.conf / "replication.pgpass"

    @property
    def tool_passfile(self) -> Path:
        """The same password for pg_basebackup and pg_rewind, which acknowledge nothing."""
        return self.conf / "tools.pgpass"

    @property
    def init_passfile(self) -> Path:
        """The superuser's password for initdb, for the moment it runs."""
        return self.conf / "initdb.password"

    @property
    def log(self) -> Path:
        """What PostgreSQL says."""
        return self.root / "log" / "postgresql.log"

    @property
    def kept(self) -> Path:
        """WAL that a rewind would destroy."""
        return self.root / "kept"

    @property
    def auto_conf(self) -> Path:
        """The two settings that change while PostgreSQL runs, and nothing else."""
        return self.pgdata / "postgresql.auto.conf"

    @property
    def main_conf(self) -> Path:
        """What initdb found out about the system, and an include of the operator's settings."""
        return self.pgdata / "postgresql.conf"

    @property
    def standby_signal(self) -> Path:
        """Makes PostgreSQL start as a standby."""
        return self.pgdata / "standby.signal"

    @property
    def promote_signal(self) -> Path:
        """Tells a postmaster that is signalled to promote."""
        return self.pgdata / "promote"

    @property
    def pid_file(self) -> Path:
        """PostgreSQL's own lock file."""
        return self.pgdata / "postmaster.pid"

    @property
    def wal(self) -> Path:
        """The write-ahead log."""
        return self.pgdata / "pg_wal"

    def make(self) -> None:
        """Make the directories beside PGDATA, private to the user, durably."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.state.parent, self.conf, self.log.parent, self.kept):
            path.mkdir(mode=0o700, exist_ok=True)
        fsync_dir(self.root)
