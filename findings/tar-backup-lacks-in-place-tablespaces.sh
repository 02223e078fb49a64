#!/usr/bin/env bash
# PostgreSQL 15.18: pg_basebackup -Ft leaves in-place tablespaces out, of its manifest too, and says nothing.
#
# Guess:   a base backup holds every table, whatever its format, and its manifest lists every file.
# Seen:    of a table in a tablespace made with LOCATION '' (allow_in_place_tablespaces), the plain format has the file and the tar
#          format has nothing: no tar of its own, no entry in base.tar, no line in backup_manifest. Exit status 0. 18.6 writes a tar.
#          pg_dumpall of 15 writes LOCATION 'pg_tblspc/OID' for it, which CREATE TABLESPACE refuses.
# Why it matters: the backup verifies, is restored, starts, and every table of the tablespace is gone.
# Here:    noded copies in plain format; docs/operations/settings.md, "Tablespaces and other paths", warns.
#
# Runs the PostgreSQL 15 in $PG_BIN (Debian's by default) alone, in a temporary directory. Fails when the behaviour is another.
set -euo pipefail
bin=${PG_BIN:-/usr/lib/postgresql/15/bin}
[[ -x $bin/initdb ]] || { echo "there is no PostgreSQL 15 in $bin; name one with PG_BIN"; exit 2; }
work=$(mktemp -d)
trap '[[ -f $work/data/postmaster.pid ]] && kill -QUIT "$(head -1 "$work/data/postmaster.pid")" 2>/dev/null; sleep 0.5; rm -rf "$work"' EXIT
# PostgreSQL refuses root; root of a user namespace mapped to somebody else is enough.
as=(); [[ $(id -u) -eq 0 ]] && as=(unshare -U --map-user=65534 --map-group=65534)
export PGHOST=$work PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
"${as[@]}" "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync >/dev/null
"${as[@]}" "$bin/postgres" -D "$work/data" -c listen_addresses= -c unix_socket_directories="$work" \
  -c allow_in_place_tablespaces=on >"$work/log" 2>&1 &
until "$bin/pg_isready" -q; do sleep 0.1; done
sql() { "$bin/psql" -XAtqc "$1"; }

"$bin/postgres" --version
sql "CREATE TABLESPACE inside LOCATION ''"
sql "CREATE TABLE t TABLESPACE inside AS SELECT generate_series(1, 1000)"
file=$(sql "SELECT pg_relation_filepath('t')")
"$bin/pg_basebackup" -D "$work/plain"
"$bin/pg_basebackup" -D "$work/tar" -Ft
plain=lacks; [[ -f $work/plain/$file ]] && plain=has
tar=lacks; for one in "$work"/tar/*.tar; do tar tf "$one" | grep -q "${file#pg_tblspc/*/}\$" && tar=has; done
manifest=lacks; grep -q "${file#pg_tblspc/*/}" "$work/tar/backup_manifest" && manifest=has
echo "plain format $plain the table's file; tar format $tar it; the tar's manifest $manifest it"
"$bin/pg_dumpall" -g | grep "^CREATE TABLESPACE"
[[ $plain == has && $tar == lacks && $manifest == lacks ]] || { echo "CHANGED: not what was seen in 15.18"; exit 1; }
echo "as described"
