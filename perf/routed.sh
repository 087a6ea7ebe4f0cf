#!/usr/bin/env bash
# What routing costs: the same point query on a plain database, on one with a replica, and on one in three shards.
#
#   perf/routed.sh [ROUNDS=5] [SECONDS=4] [CLIENTS=16]
#
# pgbench -S with changing literals (simple protocol), then prepared; the three databases in turns, all behind one pgdog
# on one throw-away PostgreSQL, so that all see the same moments of the machine. Prints CPU microseconds of pgdog
# (utime + stime) per transaction and the median of each round's ratio to the plain database.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-4} clients=${3:-16}
postgres_options=(-c max_connections=200)
. perf/postgres.sh
for database in s0 s1 s2; do
  PGPORT=$pg_port psql -c "CREATE DATABASE $database" postgres
  PGPORT=$pg_port "$PG/pgbench" -i -q -s 1 "$database" >/dev/null 2>&1
done
port=$(free 26432)
{
  printf '[general]\nhost = "127.0.0.1"\nport = %s\nauth_type = "trust"\nlog_connections = false\nlog_disconnections = false\ndefault_pool_size = 20\n' "$port"
  database plain s0 ''
  database split s0 'role = "primary"'
  database split s1 'role = "replica"'
  three_shards pgbench_accounts aid
} >"$folder/toml"
start_pgdog "$port" <"$folder/toml"
export PGPORT=$port
for mode in simple prepared; do
  for round in $(seq "$rounds"); do
    for database in plain split sharded; do
      # The servers that it takes are there, and know the table.
      "$PG/pgbench" -n -S -M "$mode" -c "$clients" -j 2 -T 1 "$database" >/dev/null 2>&1
      before=$(ticks "${pgdog_pids[0]}")
      done_=$("$PG/pgbench" -n -S -M "$mode" -c "$clients" -j 2 -T "$seconds" "$database" 2>/dev/null |
        sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p')
      after=$(ticks "${pgdog_pids[0]}")
      awk -v m="$mode" -v r="$round" -v d="$database" -v t=$((after - before)) -v h="$hertz" -v n="$done_" \
        'BEGIN { printf "%s,%s,%s,%d,%.2f\n", m, r, d, n, t / h * 1e6 / n }'
    done
  done
done | tee "$folder/routed.csv" >&2
python3 - "$folder/routed.csv" <<'PY'
import collections, statistics, sys
runs = collections.defaultdict(dict)
for line in open(sys.argv[1]):
    mode, turn, database, _, cpu = line.strip().split(",")
    runs[mode, turn][database] = float(cpu)
for mode in ("simple", "prepared"):
    turns = [costs for (of, _), costs in runs.items() if of == mode]
    plain = statistics.median(costs["plain"] for costs in turns)
    row = [f"{mode}: plain {plain:.1f} us"]
    for database in ("split", "sharded"):
        ratio = statistics.median(costs[database] / costs["plain"] for costs in turns)
        row.append(f"{database} {ratio:.2f}")
    print(", ".join(row))
PY
