"""PostgreSQL's own client programs: what they print and leave behind."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.compat.inside.observing import run_all

TOOLS = Path(os.environ["COMPAT_TOOLS"])
DEADLINE_S = 120.0
OBSERVATIONS: dict[str, Callable[[], object]] = {}


def observation(function: Callable[[], object]) -> Callable[[], object]:
    OBSERVATIONS[function.__name__] = function
    return function


def do(program: str, *arguments: str, given: str | None = None, check: bool = True) -> str:
    """Run one of the programs and return what it printed, errors behind the rest."""
    done = subprocess.run(
        [str(TOOLS / program), *arguments], input=given, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    said = f"{done.stdout}{done.stderr}"
    if check and done.returncode != 0:
        raise RuntimeError(f"{program} ended with {done.returncode}: {said}")
    return said if check else f"{done.returncode} {said}"


def psql(command: str, *more: str) -> str:
    return do("psql", "-X", "-A", "-t", "-q", *more, "-c", command).strip()


@observation
def query() -> object:
    return psql("select n, 'text' from generate_series(1, 5) n")


@observation
def errors_in_full() -> object:
    return do("psql", "-X", "-v", "VERBOSITY=verbose", "-c", "select 1/0", "-c", "select * from nowhere", check=False)


@observation
def files_in_and_out() -> object:
    psql("drop table if exists copied; create table copied (n int, s text)")
    Path("rows").write_text("".join(f"{number}\tsome text\n" for number in range(20_000)))
    psql(r"\copy copied from rows")
    psql(r"\copy (select * from copied order by n) to again")
    return psql("select count(*), sum(n) from copied"), Path("again").read_text() == Path("rows").read_text()


@observation
def pipeline_of_psql() -> object:
    script = "\\startpipeline\nselect 1 \\bind \\sendpipeline\nselect $1::int \\bind 2 \\sendpipeline\n\\endpipeline\n"
    return do("psql", "-X", "-A", "-t", "-q", given=script)


@observation
def rows_in_chunks() -> object:
    text = psql("select n from generate_series(1, 1000) n", "-v", "FETCH_COUNT=100")
    return hashlib.sha256(text.encode()).hexdigest()


@observation
def listen_and_notify() -> object:
    script = "listen c;\nnotify c, 'payload';\nselect 1;\n"
    return do("psql", "-X", "-A", "-t", "-q", given=script)


@observation
def control_c() -> object:
    """^C at a terminal cancels the statement and keeps the session, and a transaction is then a failed one."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(TOOLS / "psql", ["psql", "-X", "-q", "-A", "-t", "-P", "pager=off", "--no-readline"])  # noqa: S606 - no shell is wanted
    try:
        os.write(terminal, b"set application_name = 'at a terminal';\nbegin;\nselect pg_sleep(100);\n")
        sleeping = "select count(*) from pg_stat_activity where application_name = 'at a terminal' and wait_event = 'PgSleep'"
        until(lambda: psql(sleeping) == "1")
        os.write(terminal, b"\x03")
        said = _until_said(terminal, b"due to user request")
        os.write(terminal, b"select 'fai' || 'led';\nrollback;\nselect 'go' || 'es on';\n\\q\n")
        said += _until_said(terminal, b"goes on")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    # Wherever on its line: what was typed ahead is echoed before the prompt, and the error stands behind that.
    return re.findall(r"ERROR:  [^\r\n]+", said.decode()), b"goes on" in said


def _until_said(terminal: int, words: bytes) -> bytes:
    said = b""
    deadline = time.monotonic() + DEADLINE_S
    while words not in said and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                said += os.read(terminal, 65536)
            except OSError:
                break
    return said


def until(is_met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_met():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.02)


def pgbench(*arguments: str) -> str:
    said = do("pgbench", "-n", "-c", "4", "-j", "2", "-t", "100", *arguments)
    return " ".join(re.findall(r"(?:actually processed|failed transactions): \S+", said))


@observation
def pgbench_tables() -> object:
    do("pgbench", "-i", "-q", "-s", "1")
    return psql("select count(*) from pgbench_accounts")


@observation
def pgbench_simple() -> object:
    return pgbench("-M", "simple")


@observation
def pgbench_extended() -> object:
    return pgbench("-M", "extended")


@observation
def pgbench_prepared() -> object:
    return pgbench("-M", "prepared")


@observation
def pgbench_reading() -> object:
    return pgbench("-S", "-M", "prepared")


@observation
def pgbench_connecting_each_time() -> object:
    return pgbench("-S", "-C")


@observation
def pgbench_in_pipelines() -> object:
    Path("pipeline.sql").write_text("\\startpipeline\n" + "select 1;\n" * 50 + "\\endpipeline\n")
    return pgbench("-M", "prepared", "-f", "pipeline.sql")


def digest(folder: str) -> str:
    text = "".join(line for line in Path(folder).read_text().splitlines(True) if not re.match(r"\\(un)?restrict ", line))
    return hashlib.sha256(text.encode()).hexdigest()


@observation
def dump_and_restore() -> object:
    psql("create table if not exists dumped as select n, md5(n::text) as s from generate_series(1, 20000) n")
    do("pg_dump", "-t", "dumped", "-f", "plain.sql")
    do("pg_dump", "-Fd", "-j", "2", "-t", "dumped", "-f", "folder")
    found: list[object] = [digest("plain.sql"), do("pg_restore", "-l", "folder").count("\n") > 0]
    for options in (("-j", "2"), ("-1",)):
        do("dropdb", "--if-exists", "--force", "compat_restored")
        do("createdb", "-T", "template0", "compat_restored")
        do("pg_restore", "-d", "compat_restored", *options, "folder")
        found.append(psql("select count(*), md5(string_agg(s, '' order by n)) from dumped", "-d", "compat_restored"))
    do("dropdb", "compat_restored")
    return found


@observation
def dump_of_roles() -> object:
    return [line for line in do("pg_dumpall", "--globals-only").splitlines() if line.startswith("CREATE ROLE")]


@observation
def base_backup() -> object:
    do("pg_basebackup", "-D", "base", "-X", "stream", "-c", "fast", "-C", "-S", "compat_backup")
    psql("select pg_drop_replication_slot('compat_backup')")
    return do("pg_verifybackup", "-q", "base", check=False)[:2], (Path("base") / "PG_VERSION").read_text()


@observation
def base_backup_as_archives() -> object:
    do("pg_basebackup", "-D", "archives", "-F", "t", "-z", "-X", "fetch", "-c", "fast", "--max-rate", "100M")
    return sorted(each.name for each in Path("archives").iterdir())


@observation
def receive_wal() -> object:
    do("pg_receivewal", "--slot", "compat_wal", "--create-slot")
    try:
        psql("create table if not exists logged (n int); insert into logged values (1)")
        end = psql("select pg_current_wal_flush_lsn()")
        Path("wal").mkdir()
        do("pg_receivewal", "-D", "wal", "--slot", "compat_wal", "--endpos", end, "--no-loop", "--synchronous")
        return len(list(Path("wal").iterdir())) > 0
    finally:
        do("pg_receivewal", "--slot", "compat_wal", "--drop-slot")


@observation
def receive_decoded() -> object:
    psql("drop publication if exists compat_all; drop table if exists decoded; create table decoded (n int primary key)")
    psql("create publication compat_all for table decoded")
    do("pg_recvlogical", "-d", os.environ["PGDATABASE"], "--slot", "compat_logical", "--create-slot", "-P", "pgoutput")
    try:
        psql("insert into decoded select generate_series(1, 1000)")
        options = (
            "-o",
            "proto_version=1",
            "-o",
            "publication_names=compat_all",
            "--endpos",
            psql("select pg_current_wal_lsn()"),
        )
        database = ("-d", os.environ["PGDATABASE"])
        do("pg_recvlogical", *database, "--slot", "compat_logical", "--start", "-f", "decoded", *options, "--no-loop")
        return Path("decoded").read_bytes().count(b"I") >= 1000
    finally:
        do("pg_recvlogical", "-d", os.environ["PGDATABASE"], "--slot", "compat_logical", "--drop-slot")


@observation
def subscription() -> object:
    """A subscriber in another database of the cluster, whose publisher is what this program was told to use."""
    psql(
        "drop publication if exists compat_published; drop table if exists published;"
        " create table published (n int primary key)"
    )
    psql("insert into published select generate_series(1, 2000); create publication compat_published for table published")
    do("dropdb", "--if-exists", "--force", "compat_subscriber")
    do("createdb", "-T", "template0", "compat_subscriber")
    there = ("-d", "compat_subscriber")
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    publisher = " ".join(f"{key}={os.environ[name]}" for key, name in names.items()) + f" sslmode={os.environ['PGSSLMODE']}"
    psql("create table published (n int primary key)", *there)
    # Made by hand: a publisher in the same cluster would wait for the transaction that makes the subscription.
    psql("select pg_create_logical_replication_slot('compat_subscribed', 'pgoutput')")
    options = "create_slot = false, slot_name = compat_subscribed"
    psql(
        f"create subscription compat_subscribed connection '{publisher}' publication compat_published with ({options})", *there
    )
    try:
        until(lambda: psql("select count(*) from published", *there) == "2000")
        psql("insert into published select generate_series(2001, 3000); delete from published where n <= 500")
        until(lambda: psql("select count(*), min(n), max(n) from published", *there) == "2500|501|3000")
        return psql("select count(*), min(n), max(n) from published", *there)
    finally:
        psql("drop subscription compat_subscribed", *there)
        do("dropdb", "--force", "compat_subscriber")


@observation
def is_ready() -> object:
    return do("pg_isready", check=False).split(" - ")[-1]


@observation
def maintenance() -> object:
    said = [do(program, check=False)[:1] for program in ("vacuumdb", "reindexdb", "clusterdb")]
    return said, do("vacuumdb", "-j", "4", "-z", "-t", "pgbench_accounts", check=False)[:1]


@observation
def wrong_password() -> object:
    done = subprocess.run(
        [str(TOOLS / "psql"), "-X", "-c", "select 1"],
        env={**os.environ, "PGPASSWORD": "no"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stderr


if __name__ == "__main__":
    run_all(OBSERVATIONS)
