"""`psql` and `dsn`: whose options are whose, and what of the environment counts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonkit.exits import ExitCode, WrongUsage
from deployment.local.directory import make_files, make_root, write_passfile
from deployment.local.layout import Layout
from deployment.local.plan import make_plan
from endpointctl.libpq import without_leads
from endpointctl.main import main
from endpointctl.psqlwords import read_wish, sorted_words

CONNECTING = """
PGHOST PGHOSTADDR PGPORT PGUSER PGDATABASE PGSERVICE PGSERVICEFILE PGSYSCONFDIR PGOPTIONS PGSSLMODE PGREQUIRESSL PGSSLROOTCERT
PGCHANNELBINDING PGREQUIREAUTH PGGSSENCMODE PGREQUIREPEER PGTARGETSESSIONATTRS PGLOADBALANCEHOSTS PGCONNECT_TIMEOUT
PGMINPROTOCOLVERSION PGSSLNEGOTIATION
"""


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("writer", "writer --"),
        ("writer -c x", "writer -- -c x"),
        ("-c x writer", "writer -- -c x"),
        ("--data-dir D writer -U app", "--data-dir D writer -- -U app"),
        ("writer -U app --data-dir D", "--data-dir D writer -- -U app"),
        ("writer --data-dir=D -d x --timeout 3", "--data-dir=D --timeout 3 writer -- -d x"),
        ("writer --api u", "--api u writer --"),
        ("-U app -At writer -csql", "writer -- -U app -A -t -c sql"),
        ("--command sql writer", "writer -- --command sql"),
        ("--command=sql writer", "writer -- --command=sql"),
        ("--user app writer", "writer -- --user app"),
        ("writer -c --data-dir", "writer -- -c --data-dir"),
        ("writer -- --data-dir D", "writer -- --data-dir D"),
        ("writer -- --help", "writer -- --help"),
        ("writer --help", "--help writer --"),
        ("writer app joe", "writer -- app joe"),
        ("-", "- --"),
        ("-U app --timeout 3", "--timeout 3"),
    ],
)
def test_ours_are_ours_on_both_sides_and_the_rest_is_psqls(typed: str, understood: str) -> None:
    assert sorted_words(typed.split()) == understood.split()


@pytest.mark.parametrize(
    ("words", "user", "database", "rest"),
    [
        ("", None, None, ""),
        ("-U app -d x -c sql", "app", "x", "-c sql"),
        ("-Uapp -dx", "app", "x", ""),
        ("--username=app --dbname x", "app", "x", ""),
        ("--usern app", "app", None, ""),
        ("x", None, "x", ""),
        ("x app", "app", "x", ""),
        ("-U app x", "app", "x", ""),
        ("-d x app", "app", "x", ""),
        ("-U a -U b", "b", None, ""),
        ("-X -qAtc sql -v ON_ERROR_STOP=1", None, None, "-X -q -A -t -c sql -v ON_ERROR_STOP=1"),
        ("-v h=1 -P format=csv --set x=-d", None, None, "-v h=1 -P format=csv --set x=-d"),
    ],
)
def test_role_and_database_are_read_from_psqls_words(words: str, user: str | None, database: str | None, rest: str) -> None:
    wish = read_wish(words.split())
    assert (wish.user, wish.database, list(wish.words)) == (user, database, rest.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-h", "elsewhere"], "-h is not passed on to psql"),
        (["--host=elsewhere"], "--host=elsewhere is not passed on"),
        (["-p5432"], "-p is not passed on"),
        (["-d", "postgresql://elsewhere/x"], "is no database's name"),
        (["-d", "host=elsewhere"], "is no database's name"),
        (["service=prod"], "is no database's name"),
        (["-d", ""], "-d needs a database's name"),
        (["-U"], "-U needs a role's name"),
        ([""], "a database's name cannot be empty"),
        (["a", "b", "c"], 'no use for "c"'),
        (["-U", "a", "-d", "b", "c"], 'no use for "c"'),
    ],
)
def test_what_would_lead_elsewhere_is_refused_with_a_sentence(words: Sequence[str], said: str) -> None:
    with pytest.raises(WrongUsage, match=re.escape(said)):
        read_wish(words)


@given(st.lists(st.sampled_from(["-U", "-d", "-c", "--", "-", "--data-dir", "x", "", "-h", "--command=", "--nonsense"])))
def test_no_words_at_all_are_lost_or_invented(words: list[str]) -> None:
    words = ["writer", *words]
    assert sorted(word for word in sorted_words(words) if word != "--") == sorted(word for word in words if word != "--")


def test_the_environment_leads_nowhere_else() -> None:
    connecting = dict.fromkeys(CONNECTING.split(), "x")
    kept = {"PATH": "p", "PSQLRC": "r", "PAGER": "less", "PGTZ": "UTC", "PGCLIENTENCODING": "UTF8", "PG_COLOR": "auto"}
    passwords = {"PGPASSWORD": "secret", "PGPASSFILE": "f"}
    everything = connecting | kept | passwords
    assert without_leads(everything, with_passwords=False) == kept
    assert without_leads(everything, with_passwords=True) == kept | passwords


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "c")
    make_root(found)
    make_files(found, make_plan(node_count=3, base_port=6400, pg_bin="/bin"))
    return found


def test_the_directory_of_programs_that_fit_is_told(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pg-bin", "--data-dir", str(layout.root)]) == ExitCode.DONE
    assert capsys.readouterr().out == "/bin\n"


def test_dsn_takes_a_role_and_a_database(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data-dir", str(layout.root)]
    assert main(["dsn", "writer", "-U", "bücher/x", "-d", "a b", *where]) == ExitCode.DONE
    assert capsys.readouterr().out == "postgresql://b%C3%BCcher%2Fx@127.0.0.1:6432/a%20b\n"
    assert main(["dsn", "writer", "-d", "app", *where]) == ExitCode.DONE
    assert f"/app?passfile={layout.passfile}" in capsys.readouterr().out
    assert main(["dsn", "writer", "-U", "app", "--json", *where]) == ExitCode.DONE
    described = json.loads(capsys.readouterr().out)
    assert (described["user"], described["dbname"], described["passfile"]) == ("app", "postgres", None)
    assert main(["dsn", "writer", "-U", "app", "--with-password", *where]) == ExitCode.FAILED
    assert 'the password of "app" is not kept here' in capsys.readouterr().err
    assert main(["dsn", "writer", "-U", "", *where]) == ExitCode.USAGE


def test_dsn_of_pooled_endpoints_and_of_all_proxies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=6400, pg_bin="/bin", proxy_count=3))

    def told(*words: str) -> str:
        assert main(["dsn", *words, "-U", "app", "--data-dir", str(layout.root)]) == ExitCode.DONE
        return capsys.readouterr().out.strip()

    assert told("writer", "--proxy", "all") == "postgresql://app@127.0.0.1:6432,127.0.0.1:6436,127.0.0.1:6440/postgres"
    assert main(["dsn", "pooled-writer", "--proxy", "proxy-2", "--data-dir", str(layout.root)]) == ExitCode.USAGE
    assert "a table [pooled_writer] in the file of `up --config` opens this one" in capsys.readouterr().err
    layout.settings_file("endpointd").parent.mkdir(parents=True, exist_ok=True)
    layout.settings_file("endpointd").write_text("[pooled_writer]\nport = 6434\n[pooled_reader]\nport = 6435\n")
    assert told("pooled-writer") == "postgresql://app@127.0.0.1:6434/postgres"
    assert told("pooled-writer", "--proxy", "proxy-2") == "postgresql://app@127.0.0.1:6438/postgres"
    assert told("pooled-reader", "--proxy", "all") == "postgresql://app@127.0.0.1:6435,127.0.0.1:6439,127.0.0.1:6443/postgres"
    described = json.loads(told("pooled-reader", "--proxy", "all", "--json"))
    assert (described["host"], described["port"]) == ("127.0.0.1", 6435)
    assert described["places"] == [{"host": "127.0.0.1", "port": port} for port in (6435, 6439, 6443)]
    layout.tls.mkdir(exist_ok=True)
    layout.trusted.touch()
    assert told("pooled-reader", "--proxy", "all", "--tls").startswith(
        "postgresql://app@reader.local.endpointd.internal:6435,reader.local.endpointd.internal:6439,"
        "reader.local.endpointd.internal:6443/postgres?hostaddr=127.0.0.1,127.0.0.1,127.0.0.1&sslmode=verify-full"
    )
    assert main(["dsn", "n1", "--proxy", "all", "--data-dir", str(layout.root)]) == ExitCode.USAGE


def test_the_password_file_is_read_back_whatever_is_in_the_password(layout: Layout) -> None:
    layout.secret("superuser").write_text("N3w/p@ss:w%rd \\x\n")
    write_passfile(layout, make_plan(node_count=3, base_port=6400, pg_bin="/bin"))
    assert layout.passfile.read_text().splitlines()[0] == "127.0.0.1:*:*:postgres:N3w/p@ss\\:w%rd \\\\x"


@pytest.mark.parametrize("password", ["", "\n", "two\nlines", "zero\0byte"])
def test_a_password_is_one_line(layout: Layout, password: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = layout.root / "new"
    file.write_text(password)
    before = layout.secret("superuser").read_text()
    assert main(["secrets", "set", "--password-file", str(file), "--data-dir", str(layout.root)]) == ExitCode.USAGE
    assert "one line" in capsys.readouterr().err
    assert layout.secret("superuser").read_text() == before
