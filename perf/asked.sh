#!/usr/bin/env bash
# What it costs to ask a server first: INSERT into three shards with all values given, and with those that are asked for.
#
#   perf/asked.sh [ROUNDS=5] [SECONDS=4] [CLIENTS=8]
#
# pgbench with prepared statements of its own; all variants in turns, behind one pgdog on one throw-away PostgreSQL.
# Prints CPU microseconds of pgdog (utime + stime) and milliseconds per transaction, and the medians of each round's ratio to the
# INSERT that has its values: into a table that is everywhere, and into one that is sharded.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5} seconds=${2:-4} clients=${3:-8}
postgres_options=(-c max_connections=200 -c synchronous_commit=off)
. perf/postgres.sh
for database in s0 s1 s2; do
  PGPORT=$pg_port psql -c "CREATE DATABASE $database" postgres
  PGPORT=$pg_port psql -c "CREATE TABLE notes (id bigserial, v int, at timestamptz DEFAULT now());
    CREATE TABLE users (id bigserial, name text)" "$database"
done
port=$(free 26432)
{
  printf '[general]\nhost = "127.0.0.1"\nport = %s\nauth_type = "trust"\nlog_connections = false\nlog_disconnections = false\ndefault_pool_size = 20\n' "$port"
  three_shards users id
} >"$folder/toml"
start_pgdog "$port" <"$folder/toml"
export PGPORT=$port
cat >"$folder/everywhere-given.sql" <<'SQL'
\set id random(1, 1000000000)
INSERT INTO notes (id, v, at) VALUES (:id, 1, '2026-01-01');
SQL
echo "INSERT INTO notes (v) VALUES (1);" >"$folder/everywhere-asked.sql"
cat >"$folder/sharded-given.sql" <<'SQL'
\set id random(1, 1000000000)
INSERT INTO users (id, name) VALUES (:id, 'x');
SQL
echo "INSERT INTO users (name) VALUES ('x');" >"$folder/sharded-asked.sql"
for round in $(seq "$rounds"); do
  for variant in everywhere-given everywhere-asked sharded-given sharded-asked; do
    before=$(ticks "${pgdog_pids[0]}")
    "$PG/pgbench" -n -M prepared -f "$folder/$variant.sql" -c "$clients" -j 2 -T "$seconds" sharded >"$folder/out" 2>/dev/null
    after=$(ticks "${pgdog_pids[0]}")
    done_=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$folder/out")
    late=$(sed -n 's/^latency average = \([0-9.]*\) ms/\1/p' "$folder/out")
    awk -v r="$round" -v v="$variant" -v t=$((after - before)) -v h="$hertz" -v n="$done_" -v l="$late" \
      'BEGIN { printf "%s,%s,%d,%.1f,%s\n", r, v, n, t / h * 1e6 / n, l }'
  done
done | tee "$folder/asked.csv" >&2
python3 - "$folder/asked.csv" <<'PY'
import collections, statistics, sys
turns = collections.defaultdict(dict)
for line in open(sys.argv[1]):
    turn, variant, _, cpu, late = line.strip().split(",")
    turns[turn][variant] = (float(cpu), float(late))
for kind in ("everywhere", "sharded"):
    median = lambda of: statistics.median(of(turn) for turn in turns.values())
    given, asked = f"{kind}-given", f"{kind}-asked"
    cpu = median(lambda turn: turn[asked][0] / turn[given][0])
    late = median(lambda turn: turn[asked][1] / turn[given][1])
    print(f"{kind}: {median(lambda turn: turn[given][0]):.0f} us of CPU, {cpu:.2f} when asked; "
          f"{median(lambda turn: turn[given][1]):.2f} ms, {late:.2f} when asked")
PY
