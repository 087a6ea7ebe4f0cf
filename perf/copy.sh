#!/usr/bin/env bash
# COPY FROM STDIN of many rows, into one PostgreSQL directly, and by pgdog into one database and into three shards.
#
#   perf/copy.sh [ROUNDS=3] [ROWS=10000000]
#
# All databases are of one throw-away PostgreSQL (fsync off), and the three ways take turns. Prints seconds, rows per second
# and CPU microseconds of pgdog per row (utime + stime), medians of all rounds. Needs some 6 GB below TMPDIR for 10 million rows.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3} rows=${2:-10000000}
postgres_options=(-c wal_level=minimal -c max_wal_senders=0 -c max_wal_size=4GB)
. perf/postgres.sh
table="CREATE TABLE sale (id int8, item int, total numeric(10, 2))"
for database in one s0 s1 s2; do
  PGPORT=$pg_port psql -c "CREATE DATABASE $database" postgres
  PGPORT=$pg_port psql -c "$table" "$database"
done
awk -v rows="$rows" 'BEGIN { for (n = 1; n <= rows; n++) printf "%d\t%d\t%.2f\n", n, n * 7919 % 100000, n % 1000 / 4 }' >"$folder/rows"
port=$(free 26432)
{
  printf '[general]\nhost = "127.0.0.1"\nport = %s\nauth_type = "trust"\ndefault_pool_size = 8\n' "$port"
  database one one ''
  three_shards sale id
} >"$folder/toml"
start_pgdog "$port" <"$folder/toml"

run() { # name, port, database
  local before=$(ticks "${pgdog_pids[0]}") start=$(date +%s%N)
  PGPORT=$2 psql -c "COPY sale FROM STDIN" "$3" <"$folder/rows"
  local end=$(date +%s%N) after=$(ticks "${pgdog_pids[0]}")
  awk -v n="$1" -v t=$((end - start)) -v k=$((after - before)) -v h="$hertz" 'BEGIN { printf "%s,%.3f,%.3f\n", n, t / 1e9, k / h }'
  local there=$(PGPORT=$2 psql -c "SELECT count(*) FROM sale" "$3")
  [ "$there" = "$rows" ] || { echo "$1: $there rows of $rows" >&2; exit 1; }
  PGPORT=$2 psql -c "TRUNCATE sale" "$3"
  PGPORT=$pg_port psql -c CHECKPOINT postgres
}
for round in $(seq "$rounds"); do
  run "PostgreSQL" "$pg_port" one
  run "pgdog, one database" "$port" one
  run "pgdog, three shards" "$port" sharded
done | tee "$folder/copy.csv" >&2
python3 - "$folder/copy.csv" "$rows" <<'PY'
import collections, statistics, sys
runs, rows = collections.defaultdict(list), int(sys.argv[2])
for line in open(sys.argv[1]):
    name, seconds, cpu = line.strip().rsplit(",", 2)
    runs[name].append((float(seconds), float(cpu)))
for name, found in runs.items():
    seconds, cpu = (statistics.median(column) for column in zip(*found))
    print(f"{name}: {seconds:.1f} s, {rows / seconds / 1e6:.2f} million rows/s, pgdog {cpu / rows * 1e6:.2f} µs of CPU per row")
PY
